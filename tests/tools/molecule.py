# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``molecule``: the scenario in extensions/molecule, on a hypervisor in a VM.

Every task whose name begins with "Check" is counted as a test.
"""

from __future__ import annotations

import os
import shutil

from nested.machine import down
from tools import debian_root
from tools.common import (
    CACHE,
    ROOT,
    TOOLS,
    Tally,
    run,
    tally_of_junit,
    tool_environment,
)

REPORTS = CACHE / "results" / "molecule"
EXTENSIONS = ROOT / "extensions"
TESTS = "Check"


def run_molecule(_options: list[str]) -> Tally:
    """Run the scenario from an empty place to an empty place."""
    if reason := obstacle():
        print(f"SKIPPED LOUDLY: {reason}", flush=True)
        return Tally(skipped=1)
    shutil.rmtree(REPORTS, ignore_errors=True)
    try:
        status = run([str(TOOLS / "molecule"), "test"], cwd=EXTENSIONS, env=environment())
    finally:
        down()
    return tally_of_junit(sorted(REPORTS.glob("*.xml")), status)


def obstacle() -> str:
    """Why the scenario cannot run here, '' if it can."""
    if os.uname().machine != "x86_64":
        return f"the hypervisor is an x86_64 machine, this one is {os.uname().machine}"
    return debian_root.obstacle()


def environment() -> dict[str, str]:
    return {
        **tool_environment(),
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.junit",
        "JUNIT_OUTPUT_DIR": str(REPORTS),
        "JUNIT_TEST_CASE_PREFIX": TESTS,
        "JUNIT_HIDE_TASK_ARGUMENTS": "true",
    }
