# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``lint``: every checker that reads files and runs nothing of the collection."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

import yaml
from tools.common import CACHE, ROOT, Tally, files_of_the_checkout, tool_environment

ARTIFACTS = CACHE / "galaxy"
# galaxy-importer ends with status 0 whatever it has found.
IMPORTER_COMPLAINT = re.compile(r"^(WARNING|ERROR|CRITICAL)\b", re.MULTILINE)
SHEBANG = re.compile(rb"#!\S*/(?:env +)?(python|sh|bash)[\d.]*\s")


@dataclass(frozen=True)
class Check:
    """A program to run; it has failed if its status is not 0 or its output complains."""

    name: str
    argv: list[str]
    complaint: re.Pattern[str] | None = None


def run_lint(_options: list[str]) -> Tally:
    """Run every check, show the output of those that fail."""
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    ARTIFACTS.mkdir(parents=True)
    return sum((run_check(check) for check in checks()), Tally())


def checks() -> list[Check]:
    scripts = scripts_by_language()
    shell, python = scripts["sh"] + scripts["bash"], scripts["python"]
    return [
        Check("ruff check", ["ruff", "check", "--output-format", "concise", ".", *python]),
        Check("ruff format", ["ruff", "format", "--check", "--diff", ".", *python]),
        Check("mypy", ["mypy"]),
        Check("yamllint", ["yamllint", "--strict", "."]),
        Check("shellcheck", ["shellcheck", *shell]),
        Check("antsibull-changelog", ["antsibull-changelog", "lint"]),
        Check("antsibull-docs", documentation_check()),
        Check("ansible-lint", ["ansible-lint", "--nocolor"]),
        Check("galaxy build", ["ansible-galaxy", "collection", "build", *build_options()]),
        Check("galaxy-importer", importer_command(), complaint=IMPORTER_COMPLAINT),
    ]


def scripts_by_language() -> dict[str, list[str]]:
    """Find the programs without an extension, by their first line."""
    found: dict[str, list[str]] = {"python": [], "sh": [], "bash": []}
    for name in files_of_the_checkout():
        with (ROOT / name).open("rb") as file:
            shebang = SHEBANG.match(file.readline(200))
        language = shebang.group(1).decode() if shebang else ""
        if language and not (language == "python" and name.endswith(".py")):
            found[language].append(name)
    return found


def documentation_check() -> list[str]:
    options = ["--plugin-docs", "--skip-rstcheck", "--validate-collection-refs", "self"]
    return ["antsibull-docs", "lint-collection-docs", *options, "."]


def build_options() -> list[str]:
    return ["--force", "--output-path", str(ARTIFACTS)]


def importer_command() -> list[str]:
    metadata = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    name = "{namespace}-{name}-{version}.tar.gz".format(**metadata)
    # It leaves its result in the current directory.
    script = 'cd "$1" && exec "$2" -m galaxy_importer.main "$3"'
    return ["sh", "-c", script, "importer", str(ARTIFACTS), sys.executable, name]


def run_check(check: Check) -> Tally:
    begin = time.monotonic()
    env = tool_environment()
    env["GALAXY_IMPORTER_ANSIBLE_LOCAL_TMP"] = str(ARTIFACTS / "tmp")
    done = subprocess.run(
        check.argv,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    complained = check.complaint is not None and check.complaint.search(done.stdout)
    good = done.returncode == 0 and not complained
    seconds = time.monotonic() - begin
    print(f"{check.name:<20} {'ok' if good else 'FAILED':<7} {seconds:5.1f} s", flush=True)
    if not good:
        print(done.stdout, flush=True)
    return Tally(passed=1) if good else Tally(failed=1)
