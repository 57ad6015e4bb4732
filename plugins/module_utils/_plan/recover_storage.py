# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How to bring storage snapshots in order after a run that died in the middle.

A snapshot counts when it is on record, and then the overlays of the VM are merged back; before,
it is undone. A disk on its way back to a snapshot is brought there as soon as one disk has left
its present state; before, what was prepared is removed.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import replace

from .._model.problem import Conflict
from .._model.state import VmState
from .._model.step import (
    RemoveStorage,
    RevertStorage,
    SnapshotStorage,
    Step,
    UnprepareRevert,
)
from .._model.storage import LVM, Copy
from .left import Left


def taking(left: Left) -> SnapshotStorage | None:
    """The storage snapshot that the dead run was to take."""
    return next((step for step in left.steps if isinstance(step, SnapshotStorage)), None)


def is_taken(left: Left, vm: VmState) -> bool:
    """Whether it is complete."""
    step = taking(left)
    found = vm.storage.snapshot(step.name) if step else None
    return found is not None and found.recorded


def untaken(left: Left, vm: VmState) -> tuple[Step, ...]:
    """The removal of what there is of it, if it is not complete."""
    step = taking(left)
    if step is None or is_taken(left, vm):
        return ()
    there = any(copy.made in vm.storage.existing for copy in step.copies)
    return (RemoveStorage(step.name, step.copies),) if there else ()


def storage_as_of_now(step: Step, left: Left, vm: VmState, *, done: bool) -> tuple[Step, ...]:
    """What is still to be done of a step, () for one that is about something else."""
    if isinstance(step, SnapshotStorage):
        return untaken(left, vm)
    if isinstance(step, RemoveStorage):
        listed = vm.storage.snapshot(step.name) is not None
        there = any(copy.made in vm.storage.existing for copy in step.copies)
        return (step,) if listed or there else ()
    if isinstance(step, RevertStorage) and not done:
        return _reverting(step, left, vm)
    return ()


def _reverting(step: RevertStorage, left: Left, vm: VmState) -> tuple[Step, ...]:
    existing = vm.storage.existing
    prepared = step.mark in left.marks
    gone = [copy for copy in step.copies if not copy.is_merged and copy.new not in existing]
    hidden = [copy for copy in step.copies if copy.old in existing]
    placed = [copy for copy in step.copies if step.placed(copy) in left.marks]
    if not prepared or not (gone or hidden or placed):
        there = any(copy.new in existing for copy in step.copies)
        return (UnprepareRevert(step.name, step.copies),) if there else ()
    todo = [copy for copy in step.copies if _is_left(step, copy, left, vm)]
    if todo and not vm.off:
        raise Conflict(
            f"VM {vm.name} is {vm.status}, though an interrupted run has brought only some of its"
            f" disks back to storage snapshot {step.name}; not yet"
            f" {', '.join(copy.target for copy in todo)}",
            wanted="to bring these back, too",
            todo="stop it, and run the task again",
        )
    return (replace(step, resume=True),) if todo or hidden else ()


def _is_left(step: RevertStorage, copy: Copy, left: Left, vm: VmState) -> bool:
    if copy.backend == LVM and not copy.thin:
        return step.placed(copy) not in left.marks or copy.old in vm.storage.existing
    return copy.new in vm.storage.existing
