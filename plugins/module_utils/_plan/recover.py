# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How to bring a VM back to a clean state after a run that died in the middle.

A snapshot that was not completed is undone; merges are finished. Neither loses anything
that the guest wrote.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import replace

from .._model.problem import Conflict, Unsupported
from .._model.state import VmState
from .._model.step import (
    CommitDisk,
    CreateOverlay,
    Plan,
    PullDisk,
    RemoveFile,
    ResumeVm,
    Step,
    TakeSnapshot,
    UnprepareRevert,
)
from .absent import removal
from .finish import close_up, finish_all
from .left import Left, kept, left_alone, was_unused
from .merge import consequences, merge
from .recover_memory import moving_memory, plan_memory_recovery
from .recover_restore import plan_restore_recovery, restoring
from .recover_revert import got_there, plan_finish, ran_on, reverting, undo
from .recover_storage import is_taken, taking, untaken

_ABOUT_A_CHAIN = (CommitDisk, CreateOverlay, PullDisk)


def plan_recovery(left: Left, vm: VmState, *, finish: bool = True) -> Plan:
    """The steps that finish or undo the dead run, and a note that says which.

    With ``finish`` False merges that are not done stay undone (their overlays remain in use)
    and only what follows from the others is brought in order.
    """
    moving = moving_memory(left)
    if moving:
        return plan_memory_recovery(moving, left, vm)
    defining = restoring(left)
    if defining:
        return plan_restore_recovery(defining, left, vm, finish=finish)
    _check_readable(left, vm)
    for step, done in zip(left.steps, left.done):
        if isinstance(step, CommitDisk) and not done:
            _check_pivot(step, left, vm)
    if reverting(left):
        return plan_finish(left, vm, finish=finish) if got_there(left, vm) else _stayed(left, vm)
    copying = taking(left)
    kept_copies = is_taken(left, vm)
    # What was to be kept by copies is kept by nothing else: its snapshot is complete with them.
    taken = [step for step in left.steps if isinstance(step, TakeSnapshot) and not kept_copies]
    if not taken and copying and not kept_copies:
        note = f"{vm.name}: undid storage snapshot {copying.name} of an interrupted run"
        return Plan(vm.name, untaken(left, vm), (note,))
    if not taken:
        return _forward(left, vm, finish=finish)
    if not copying and _complete(taken[0], vm) and left.group_complete and left.proven:
        note = f"{vm.name}: snapshot {taken[0].spec.name} of an interrupted run is complete"
        return Plan(vm.name, _resume(left, vm) if taken[0].pause else (), (note,))
    what = f"storage snapshot {copying.name}" if copying else f"snapshot {taken[0].spec.name}"
    note = f"{vm.name}: undid {what} of an interrupted run"
    undoing: tuple[Step, ...] = ()
    if _can_go(taken[0], vm):
        undoing = tuple(_once_more(step, left, vm) for step in _undo(left, taken[0], vm))
    else:
        note = f"{vm.name}: left snapshot {taken[0].spec.name} alone, since the VM went elsewhere"
    back = (*_resume(left, vm), *untaken(left, vm), *undoing)
    return Plan(vm.name, back, (note, *kept(left, vm)))


def _forward(left: Left, vm: VmState, *, finish: bool) -> Plan:
    """Go on with a run that was not to keep anything."""
    if finish:
        steps = (*_resume_pulling(left, vm), *finish_all(left, vm))
        undone = any(isinstance(step, UnprepareRevert) for step in steps)
        note = f"{vm.name}: {'undid' if undone else 'finished'} what an interrupted run had begun"
    else:
        steps = (*_resume_pulling(left, vm), *close_up(left, vm))
        note = f"{vm.name}: left alone what could not be merged, and brought the rest in order"
    return Plan(vm.name, steps, (note, *kept(left, vm)))


def _stayed(left: Left, vm: VmState) -> Plan:
    """Undo a run that was to go back to a snapshot and never left the present state."""
    keeping = [step for step in left.steps if isinstance(step, TakeSnapshot)]
    back = [
        _once_more(step, left, vm)
        for taken in keeping
        if _can_go(taken, vm)
        for step in _undo(left, taken, vm)
    ]
    removed = {step.file for step in back if isinstance(step, RemoveFile)}
    prepared = (s for s in undo(left, vm) if not (isinstance(s, RemoveFile) and s.file in removed))
    note = f"{vm.name}: undid what an interrupted run had prepared; the VM has not gone back"
    stay = (left_alone(vm, path) for path in ran_on(left, vm))
    return Plan(vm.name, (*_resume(left, vm), *back, *prepared), (note, *stay))


def _check_readable(left: Left, vm: VmState) -> None:
    """Where a chain cannot be read, nobody knows which of its images are in use."""
    for step, done in zip(left.steps, left.done):
        disk = vm.disk(step.target) if isinstance(step, _ABOUT_A_CHAIN) else None
        undecided = isinstance(step, CreateOverlay) or not done
        if disk is not None and undecided and not disk.chain:
            raise Unsupported(
                f"the chain of disk {disk.target} of VM {vm.name} cannot be read: {disk.trouble}",
                wanted="to know what an interrupted run has done to it",
                todo=disk.denied or "repair the image",
            )


def _once_more(step: Step, left: Left, vm: VmState) -> Step:
    """A step that undoes: an earlier attempt at it may have died, too, and left its job."""
    if not isinstance(step, CommitDisk):
        return step
    _check_pivot(step, left, vm)
    return replace(step, resume=True)


def _check_pivot(step: CommitDisk, left: Left, vm: VmState) -> None:
    """Stop where QEMU died while it switched a disk: the overlay may be older than its base."""
    disk = vm.disk(step.target)
    top = disk.depth_of(step.top) if disk else None
    if vm.off and top == 0 and step.pivot_mark in left.marks:
        raise Conflict(
            f"VM {vm.name} stopped while disk {step.target} was being switched from {step.top}"
            f" to {step.base}: either may hold the newer data",
            wanted="to know which image the guest wrote last",
            todo="do not start it; compare both images (modification time, qemu-img compare),"
            " let the definition name the newer one (without <backingStore>), then remove the"
            " journal",
        )


def _complete(taken: TakeSnapshot, vm: VmState) -> bool:
    if vm.snapshot(taken.spec.name) is None:
        return False
    disks = ((vm.disk(entry.target), entry.file) for entry in taken.spec.disks if entry.file)
    return all(disk is not None and disk.depth_of(file) is not None for disk, file in disks)


def _can_go(taken: TakeSnapshot, vm: VmState) -> bool:
    """Whether no disk has left the overlay of a snapshot, which may hold the only copy of a state.

    Each is on it, or on the snapshot's point where the overlay was merged; or there is no such
    snapshot.
    """
    found = vm.snapshot(taken.spec.name)
    if found is None:
        return True
    for target, file in found.overlays.items():
        disk, point = vm.disk(target), found.image_before(target)
        if disk is None or (disk.depth_of(file) is None and disk.depth_of(point) != 0):
            return False
    return True


def _resume(left: Left, vm: VmState) -> tuple[Step, ...]:
    return (ResumeVm(),) if left.status == "running" and vm.status == "paused" else ()


def _resume_pulling(left: Left, vm: VmState) -> tuple[Step, ...]:
    """A VM is paused for a moment after a pull; others may pause it for longer."""
    paused = any(isinstance(s, PullDisk) and s.pause_mark in left.marks for s in left.steps)
    return _resume(left, vm) if paused else ()


def _undo(left: Left, taken: TakeSnapshot, vm: VmState) -> tuple[Step, ...]:
    """Merge overlays that are in use back, remove those that are not."""
    if vm.snapshot(taken.spec.name) is not None:
        return removal(vm, (taken.spec.name,))
    merges: list[CommitDisk] = []
    loose: list[Step] = []
    for step in left.steps:
        disk = vm.disk(step.target) if isinstance(step, CreateOverlay) else None
        if disk is None or not isinstance(step, CreateOverlay):
            continue
        depth = disk.depth_of(step.file)
        if depth is not None:
            merges.append(merge(vm, disk, depth, depth + 1))
        elif step.file in left.existing and was_unused(step, vm):
            loose.append(RemoveFile(step.file, "unused overlay of an interrupted run"))
    memory = taken.spec.memory_file
    if memory in left.existing:
        loose.append(RemoveFile(memory, "memory file of an interrupted run"))
    return (*merges, *consequences(vm, merges), *loose)
