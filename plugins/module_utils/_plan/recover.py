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
from .._model.step import CommitDisk, CreateOverlay, Plan, RemoveFile, ResumeVm, Step, TakeSnapshot
from .absent import removal
from .finish import close_up, finish_all
from .left import Left, kept, was_unused
from .merge import consequences, merge
from .recover_memory import moving_memory, plan_memory_recovery


def plan_recovery(left: Left, vm: VmState, *, finish: bool = True) -> Plan:
    """The steps that finish or undo the dead run, and a note that says which.

    With ``finish`` False merges that are not done stay undone (their overlays remain in use)
    and only what follows from the others is brought in order.
    """
    moving = moving_memory(left)
    if moving:
        return plan_memory_recovery(moving, left, vm)
    _check_readable(left, vm)
    for step, done in zip(left.steps, left.done):
        if isinstance(step, CommitDisk) and not done:
            _check_pivot(step, left, vm)
    taken = [step for step in left.steps if isinstance(step, TakeSnapshot)]
    if not taken and finish:
        note = f"{vm.name}: finished what an interrupted run had begun"
        return Plan(vm.name, tuple(finish_all(left, vm)), (note, *kept(left, vm)))
    if not taken:
        note = f"{vm.name}: left alone what could not be merged, and brought the rest in order"
        return Plan(vm.name, tuple(close_up(left, vm)), (note, *kept(left, vm)))
    if _complete(taken[0], vm) and left.group_complete and left.proven:
        note = f"{vm.name}: snapshot {taken[0].spec.name} of an interrupted run is complete"
        return Plan(vm.name, (), (note,))
    undoing = tuple(_once_more(step, left, vm) for step in _undo(left, taken[0], vm))
    steps = (*_resume(left, vm), *undoing)
    note = f"{vm.name}: undid snapshot {taken[0].spec.name} of an interrupted run"
    return Plan(vm.name, steps, (note, *kept(left, vm)))


def _check_readable(left: Left, vm: VmState) -> None:
    """Where a chain cannot be read, nobody knows which of its images are in use."""
    for step, done in zip(left.steps, left.done):
        disk = vm.disk(step.target) if isinstance(step, (CommitDisk, CreateOverlay)) else None
        undecided = isinstance(step, CreateOverlay) or not done
        if disk is not None and undecided and not disk.chain:
            raise Unsupported(
                f"the chain of disk {disk.target} of VM {vm.name} cannot be read: {disk.trouble}",
                wanted="to know what an interrupted run has done to it",
                todo="repair the image",
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


def _resume(left: Left, vm: VmState) -> tuple[Step, ...]:
    return (ResumeVm(),) if left.was_running and vm.status == "paused" else ()


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
