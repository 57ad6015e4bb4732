# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether what a plan writes has room.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath

from .._model.problem import Unsupported
from .._model.state import Facts, VmState
from .._model.step import (
    BackUp,
    CommitDisk,
    CreateOverlay,
    Plan,
    PullDisk,
    SaveMemory,
    TakeSnapshot,
)

OVERLAY_ROOM = 4 * 1024 * 1024
"""Bytes that an empty overlay and its first writes need at least."""

BACKUP_ROOM = 16 * 1024 * 1024
"""Bytes that the rest of a restore point needs, with what the guest writes until it begins."""


def check_room(plan: Plan, vm: VmState, facts: Facts) -> None:
    """Refuse what cannot fit: empty overlays, memory, and data that must land in a base.

    Memory may take less, since pages of zeros take no room. But what fills up while memory is
    written also stops every other VM there.
    """
    wanted: dict[str, int] = {}
    for step in plan.steps:
        if isinstance(step, CreateOverlay):
            folder, size = posixpath.dirname(step.file), OVERLAY_ROOM
        elif isinstance(step, CommitDisk):
            folder, size = (
                posixpath.dirname(step.base),
                _growth(step.target, step.base, step.merged, vm),
            )
        elif isinstance(step, PullDisk):
            folder, size = (
                posixpath.dirname(step.into),
                _growth(step.target, step.into, step.pulled, vm),
            )
        elif isinstance(step, TakeSnapshot) and step.spec.memory_file:
            folder, size = posixpath.dirname(step.spec.memory_file), facts.memory
        elif isinstance(step, BackUp):
            folder, size = step.repository, _of_backup(step, facts)
        elif isinstance(step, SaveMemory) and step.file:
            folder, size = posixpath.dirname(step.file), facts.memory
        else:
            continue
        wanted[folder] = wanted.get(folder, 0) + size
    for folder, size in wanted.items():
        directory = facts.directories[folder]
        if not folder.startswith("/dev") and not directory.trouble and directory.free < size:
            raise Unsupported(
                f"{folder} has {directory.free} bytes free",
                wanted=f"at least {size} bytes for VM {vm.name}",
                todo="free space there, or choose another place",
            )


def _of_backup(step: BackUp, facts: Facts) -> int:
    """What has to be free now; where guests write to the same file system, room is left to them."""
    images = max(step.bytes, sum(facts.rooms.values()))
    return max(0, images + BACKUP_ROOM + facts.left - facts.debris)


def _growth(target: str, into: str, merged: tuple[str, ...], vm: VmState) -> int:
    """How much ``into`` has to grow at least: what each merged image has may be the same."""
    disk = vm.disk(target)
    held = {image.filename: image.actual_size for image in disk.chain} if disk else {}
    most = max((held.get(path, 0) for path in merged), default=0)
    return max(0, most - held.get(into, 0))
