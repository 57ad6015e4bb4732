# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the parts of the test suite one after the other and adds up what they say.

Called by ``bin/test`` with the Python of the virtual environment. Parts run one at a time, and a
part that fails does not stop the next one.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from tools import histories, lint, molecule, sanity, trixie
from tools.common import CACHE, COLLECTIONS, ROOT, Tally, run, tally_of_junit

USAGE = """\
usage: bin/test [PART...] [options of pytest]

parts (without any: all but long and kills, in this order)
  lint                ruff, mypy, yamllint, shellcheck, ansible-lint, changelog, docs,
                      galaxy-importer
  unit                tests that need no hypervisor
  sanity              ansible-test sanity
  histories           random histories of a VM, a sample; or --seed N, --count N, --minutes N,
                      --jobs N, --play FILE (see docs/reliability.md)
  histories-trixie    the sample on Debian 13
  integration         tests on real guests, with a sample of the kills and of what takes long
  integration-trixie  those that the README names and some more, on Debian 13 in a root folder
                      (see bin/trixie; as root)
  molecule            role and modules on a hypervisor in a VM, with KVM inside (as root)
  long                what integration leaves out since it takes long
  kills               all kills, and nothing else

options
  -x, --exitfirst   stop at the first failure, also between parts
  all others go to pytest (or to histories): bin/test unit -k name
"""

# For pytest. Each of its processes has a lab of its own, and keeps most of a processor busy where
# guests are emulated.
PROCESSES = min(4, (os.cpu_count() or 1) + 1)
SIDE_BY_SIDE = (f"--numprocesses={PROCESSES}", "--dist=worksteal")


@dataclass(frozen=True)
class Part:
    """A part of the suite: what runs it, and whether a run without a choice includes it."""

    name: str
    run: Callable[[list[str]], Tally]
    usual: bool = True


def pytest(name: str, *selection: str) -> Callable[[list[str]], Tally]:
    """Return a function that runs pytest with the selection and then the caller's options."""

    def run_pytest(options: list[str]) -> Tally:
        report = CACHE / "results" / f"{name}.xml"
        report.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "pytest", *SIDE_BY_SIDE, *selection, f"--junitxml={report}"]
        status = run([*argv, "--durations=10", "--durations-min=1", *options])
        return tally_of_junit([report], status)

    return run_pytest


def integration(name: str, *selection: str) -> Callable[[list[str]], Tally]:
    """The same for tests on real guests."""
    return pytest(name, "tests/integration", *selection)


PARTS = (
    Part("lint", lint.run_lint),
    Part("unit", pytest("unit", "tests/unit")),
    Part("sanity", sanity.run_sanity),
    Part("histories", histories.run_histories),
    Part("histories-trixie", histories.run_on_trixie),
    Part("integration", integration("integration", "-m", "not kills_all and not long")),
    Part("integration-trixie", trixie.run_integration),
    Part("molecule", molecule.run_molecule),
    Part("long", integration("long", "-m", "long and not kills_all"), usual=False),
    Part(
        "kills",
        integration("kills", "-m", "kills or kills_all", "--every-kill", "--timeout=5400"),
        usual=False,
    ),
)


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return 0
    chosen, options = split(words)
    link_collection()
    done: list[tuple[Part, Tally, float]] = []
    for part in chosen:
        print(f"\n=== {part.name} ===", flush=True)
        begin = time.monotonic()
        tally = part.run(options)
        seconds = time.monotonic() - begin
        print(f"=== {part.name}: {tally} in {seconds:.1f} s ===", flush=True)
        done.append((part, tally, seconds))
        if tally.failed and {"-x", "--exitfirst"} & set(options):
            break
    return summary(done)


def split(words: list[str]) -> tuple[list[Part], list[str]]:
    """Tell the names of parts, which come first, from the options of pytest."""
    by_name = {part.name: part for part in PARTS}
    count = next((n for n, word in enumerate(words) if word not in by_name), len(words))
    chosen = [by_name[word] for word in words[:count]] or [part for part in PARTS if part.usual]
    return chosen, words[count:]


def link_collection() -> None:
    """Make the checkout importable as ansible_collections.vmkeep.libvirt."""
    link = COLLECTIONS / "ansible_collections" / "vmkeep" / "libvirt"
    link.parent.mkdir(parents=True, exist_ok=True)
    (CACHE / "results").mkdir(exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(ROOT, link.parent))


def summary(done: list[tuple[Part, Tally, float]]) -> int:
    """Print a table and the closing line; return the exit status."""
    print(f"\n{'part':<18} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for part, tally, seconds in done:
        counts = f"{tally.passed:>7} {tally.failed:>7} {tally.skipped:>8}"
        print(f"{part.name:<18} {counts} {seconds:>8.1f}")
    total = sum((tally for _part, tally, _seconds in done), Tally())
    print(f"\n{total}", flush=True)
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    Path(CACHE).mkdir(exist_ok=True)
    sys.exit(main(sys.argv[1:]))
