# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``integration-trixie``: the integration tests on Debian 13, by ``bin/trixie``.

Without those that ask little of libvirt and take long: they run on this machine only. Those who
change something there run ``bin/trixie bin/test integration``, and ``kills``, which leave out none.
"""

from __future__ import annotations

from tools import debian_root
from tools.common import CACHE, Tally, run, tally_of_junit

# The cache of the checkout in there, seen from here.
REPORT = CACHE / "roots" / "trixie" / "cache" / "results" / "integration.xml"
# Files of tests: of what runs on the controller, of the lab and its programs, and of kills between
# the steps of a run.
LEFT_OUT = (
    *("playbooks", "roles", "patch_with_rollback", "readme"),
    *("lab", "demo", "bench"),
    *("kill_points", "kill_random", "storage_kills", "image_kills"),
    *("backup_kills", "backup_prune_kills", "restore_kills", "backup_roles"),
)


def run_integration(options: list[str]) -> Tally:
    """Run the part ``integration`` there with the options of pytest; skipped where it cannot."""
    if reason := debian_root.obstacle():
        print(f"SKIPPED LOUDLY: {reason}", flush=True)
        return Tally(skipped=1)
    REPORT.unlink(missing_ok=True)
    left_out = [f"--ignore=tests/integration/test_{name}.py" for name in LEFT_OUT]
    status = run(["bin/trixie", "bin/test", "integration", *left_out, *options])
    return tally_of_junit([REPORT], status or not REPORT.exists())
