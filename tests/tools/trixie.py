# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``integration-trixie``: integration tests on Debian 13, by ``bin/trixie``.

All that the README names as proof, and whole files where the generations of libvirt differ most.
Those who change something there run ``bin/trixie bin/test integration``, which leaves out none.
"""

from __future__ import annotations

import re

from tools import debian_root
from tools.common import CACHE, ROOT, Tally, run, tally_of_junit

# The cache of the checkout in there, seen from here.
REPORT = CACHE / "roots" / "trixie" / "cache" / "results" / "integration.xml"
WHOLE = (
    *("snapshot_present", "snapshot_absent", "blockcommit", "transient", "discard", "guest_exec"),
    *("backup", "backup_checkpoints", "restore", "tpm"),
)


def run_integration(options: list[str]) -> Tally:
    """Run them there with the options of pytest; skipped where that cannot be."""
    if reason := debian_root.obstacle():
        print(f"SKIPPED LOUDLY: {reason}", flush=True)
        return Tally(skipped=1)
    REPORT.unlink(missing_ok=True)
    status = run(["bin/trixie", "bin/test", "integration", "-k", selection(), *options])
    return tally_of_junit([REPORT], status or not REPORT.exists())


def selection() -> str:
    """What pytest's option -k selects them by. One by the caller takes its place."""
    named = [f"({file} and {test})" for file, test in named_in_the_readme()]
    return " or ".join([*(f"test_{name}.py" for name in WHOLE), *named])


def named_in_the_readme() -> list[tuple[str, str]]:
    """The tests of the table from virsh to a task: file and function."""
    table = (ROOT / "README.md").read_text().partition("## From virsh")[2].partition("\n## ")[0]
    return re.findall(r"`(test_\w+\.py)::(test_\w+)`", table)
