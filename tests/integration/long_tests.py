# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests that ``bin/test`` leaves to ``bin/test long``, since they take long.

How long a test took where it was measured stands in ``seconds.txt``, for those of more than
`SECONDS`; ``python -m tools.seconds`` writes that. What the README names stays, by the quickest
test of that name, and so does what is `KEPT`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from tools.trixie import named_in_the_readme

SECONDS = 8.0
MEASURED = Path(__file__).with_name("seconds.txt")
# What nothing shorter stands for: the stories that users begin with, and kills of each kind.
KEPT = frozenset({
    "test_demo.py::test_it_passes_within_the_time_and_leaves_nothing",
    "test_readme.py::test_the_quick_start",
    "test_readme.py::test_the_quick_start_of_backups",
    "test_patch_with_rollback.py::test_it_goes_back_or_stays_patched",
    "test_playbooks.py::test_chains_are_merged_and_the_content_is_kept",
    "test_backup_roles.py::test_drills",
    "test_backup_kills.py::test_killed_in_each_state_of_the_world",
    "test_freeze.py::test_the_guard_is_killed_too[vm_snapshot]",
    "test_kill_points.py::test_killed_in_each_state_of_the_world[commit-active]",
    "test_kill_points.py::test_killed_in_each_state_of_the_world[present]",
    "test_memory.py::test_killed_in_each_state_of_the_world",
    "test_restore_kills.py::test_killed_in_each_state_of_the_world[force]",
    "test_start_again.py::test_qemu_ends_by_itself[disks]",
    "test_storage_kills.py::test_killed_in_each_state[off-present]",
})  # fmt: skip


def measured(text: str) -> dict[str, float]:
    """How long the tests took: {file::test: seconds}."""
    lines = (line.split(" ", 1) for line in text.splitlines())
    return {name: float(seconds) for seconds, name in lines}


def left_out(seconds: Mapping[str, float], named: Collection[str]) -> set[str]:
    """The long ones among those; ``named`` are those of the README, as file::function."""
    quickest: dict[str, str] = {}
    for test in sorted(seconds, key=lambda test: (seconds[test], test)):
        quickest.setdefault(function(test), test)
    stay = {test for name, test in quickest.items() if name in named} | KEPT
    return {test for test, took in seconds.items() if took > SECONDS} - stay


def function(test: str) -> str:
    """The test without its parameters."""
    return test.partition("[")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them, and let the files begin first that have what takes longest of the others."""
    seconds = measured(MEASURED.read_text())
    named = {f"{file}::{test}" for file, test in named_in_the_readme()}
    names = {item: item.nodeid.rpartition("/")[2] for item in items}
    # One of its kind that is quicker than all that are written down is the quickest.
    known = dict.fromkeys(names.values(), 0.0) | seconds
    long = left_out(known, named)
    longest: dict[Path, float] = {}
    for item in items:
        if names[item] in long:
            item.add_marker("long")
        else:
            longest[item.path] = max(longest.get(item.path, 0.0), known[names[item]])
    items.sort(key=lambda item: -longest.get(item.path, 0.0))
