# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests that ``bin/test`` leaves to ``bin/test long``.

They are those that take longest, and each has a neighbour, named above it, that does something
like it in less time.
"""

from __future__ import annotations

import pytest

LONG = frozenset({
    # what we do ourselves meets a backup; histories play what is done by hand
    "test_backup_meetings.py::test_what_is_done_by_hand",
    "test_backup_meetings.py::test_back_to_a_storage_snapshot",
    "test_backup_checkpoints.py::test_what_others_do_by_hand",
    # while it runs
    "test_backup_checkpoints.py::test_going_back[off]",
    "test_backup_checkpoints.py::test_going_back_inside[off]",
    "test_revert.py::test_newest_older_and_beside[off]",
    "test_revert.py::test_an_image_whose_data_is_in_another_file",
    "test_revert_branches.py::test_an_overlay_that_stayed_for_what_was_kept_goes_with_it",
    # a job that is ended by hand
    "test_backup_faults.py::test_the_job_ends_too_early[shut down]",
    "test_backup_faults.py::test_the_job_ends_too_early[killed]",
    # a drill; and one that finds a restore point that nobody can read
    "test_backup_roles.py::test_copies_by_rsync",
    "test_backup_roles.py::test_a_vm_that_fails_stops_no_other",
    # a run that is killed between its hooks; a group that goes back together; chains kept short
    "test_roles.py::test_checkpoints_between_hooks_are_kept_rotated_and_restored",
    "test_roles.py::test_one_that_fails_where_they_are_no_group",
    "test_roles.py::test_hooks_that_fail",
    "test_roles.py::test_all_vms_but_some_and_what_others_stand_on",
    "test_roles.py::test_nothing_begins_where_there_is_no_way_back",
    "test_roles.py::test_a_list_of_tasks_is_as_good_as_a_file",
    "test_roles.py::test_restoring_ends_between_the_hooks",
    # other stories and moments of the same kills
    "test_backup_revert_kills.py::test_killed_on_the_way_back[internal]",
    "test_full_state_dir.py::test_full_in_the_middle_of_a_way_back",
    "test_full_state_dir.py::test_full_in_the_middle_of_a_run[removal]",
    "test_full_state_dir.py::test_full_in_the_middle_of_a_run[commit]",
    "test_internal_below_kills.py::test_deleted_beside",
    "test_kill_points.py::test_killed_in_each_state_of_the_world[group]",
    "test_kill_points.py::test_killed_in_each_state_of_the_world[off-absent-middle]",
    "test_kill_points.py::test_killed_in_each_state_of_the_world[pull-down]",
    "test_kill_points.py::test_killed_twice[present]",
    "test_kill_random.py::test_a_sample_of_random_kills",
    "test_play_kills.py::test_drills_that_are_killed",
    # memory is saved, and gone back to
    "test_isolation_guests.py::test_memory[drop]",
    "test_isolation_guests.py::test_memory[go on]",
    "test_isolation_guests.py::test_memory[take]",
    # the other parts
    "test_bench.py::test_a_part_runs[freeze]",
})  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        if item.nodeid.rpartition("/")[2] in LONG:
            item.add_marker("long")
