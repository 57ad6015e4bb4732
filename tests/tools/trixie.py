# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``integration-trixie``: integration tests on Debian 13, by ``bin/trixie``.

What the README names as proof, files where the generations of libvirt differ most, and stories of
others; of all these, what the part ``integration`` has of them.
Those who change something there run ``bin/trixie bin/test integration`` and ``long``, which leave
out none.
"""

from __future__ import annotations

import re

from tools import debian_root
from tools.common import CACHE, ROOT, Tally, run, tally_of_junit

# The cache of the checkout in there, seen from here.
REPORT = CACHE / "roots" / "trixie" / "cache" / "results" / "integration.xml"
WHOLE = (
    *("snapshot_present", "snapshot_absent", "blockcommit", "transient", "discard"),
    *("backup", "backup_checkpoints", "restore", "tpm"),
    *("damage", "by_hand", "own_disk", "revert_disks", "check_truths"),
    *("records", "backup_bitmaps", "guard_alone", "encrypted"),
    "isolation_others",
)
# The stories of files that take too long as a whole.
CHOSEN = (
    ("isolation_images", "test_whatever_one_entry_meets[verification]"),
    ("isolation_vms", "test_whatever_one_of_a_group_meets"),
    ("isolation_vms", "test_whatever_one_vm_meets[backup]"),
    ("isolation_vms", "test_whatever_one_vm_meets[take]"),
    ("full_state_dir", "test_at_every_fill_a_snapshot_is_taken_or_nothing_is_touched"),
    ("full_state_dir", "test_full_in_the_middle_of_a_run"),
    ("patch_with_rollback", "test_a_vm_that_is_backed_up_every_night"),
    ("backup_room", "test_the_room_is_held_from_the_beginning[ext4]"),
    ("bad_agent", "test_an_agent_that_falls_silent_while_frozen"),
    ("bad_agent", "test_a_hook_that_takes_longer_than_the_freeze"),
    ("bad_agent", "test_an_agent_that_may_not_freeze"),
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
    chosen = [*named_in_the_readme(), *((f"test_{name}.py", test) for name, test in CHOSEN)]
    words = [f"({file} and {test.replace('[', ' and ').rstrip(']')})" for file, test in chosen]
    return " or ".join([*(f"test_{name}.py" for name in WHOLE), *words])


def named_in_the_readme() -> list[tuple[str, str]]:
    """The tests of the table from virsh to a task: file and function."""
    table = (ROOT / "README.md").read_text().partition("## From virsh")[2].partition("\n## ")[0]
    return re.findall(r"`(test_\w+\.py)::(test_\w+)`", table)
