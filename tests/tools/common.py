# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the parts of the test suite share: places, running a program, counting."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
COLLECTIONS = CACHE / "collections"
# Ansible's tools keep caches in the home directory; these stay in the checkout.
HOME = CACHE / "home"
TOOLS = Path(sys.executable).parent

# What ansible-test says of a check that has no file to look at in this collection.
NOTHING_TO_CHECK = "No tests applicable."


@dataclass(frozen=True)
class Tally:
    """How many checks passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
        )

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def run(argv: list[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> int:
    """Run a program with its output on ours and return its exit status."""
    return subprocess.run(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, check=False).returncode


def tool_environment() -> dict[str, str]:
    """Return an environment in which Ansible's tools find this collection and each other."""
    HOME.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "HOME": str(HOME),
        "PATH": f"{TOOLS}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
    }


def files_of_the_checkout() -> list[str]:
    """List what git tracks and what it would track, as paths from the root."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(name for name in set(listed.split("\0")) if name and (ROOT / name).is_file())


def tally_of_junit(reports: Iterable[Path], status: int) -> Tally:
    """Add up JUnit reports; a program that failed without a failed test counts as one."""
    total = sum((tally_of_report(report) for report in reports if report.exists()), Tally())
    if status and not total.failed:
        return total + Tally(failed=1)
    return total


def tally_of_report(report: Path) -> Tally:
    total = Tally()
    for case in ET.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            total += Tally(failed=1)
        elif skipped is None:
            total += Tally(passed=1)
        elif (skipped.text or "").strip() != NOTHING_TO_CHECK:
            total += Tally(skipped=1)
    return total
