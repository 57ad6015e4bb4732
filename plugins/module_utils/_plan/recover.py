# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How to bring a VM back to a clean state after a run that died in the middle.

A snapshot that was not completed is undone; merges are finished. Neither loses anything
that the guest wrote.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._model.problem import Conflict, Unsupported
from .._model.state import VmState
from .._model.step import (
    CommitDisk,
    CreateOverlay,
    DeleteInternal,
    ForgetSnapshot,
    Plan,
    RemoveFile,
    ResumeVm,
    RewriteSnapshot,
    SetSource,
    Step,
    TakeSnapshot,
    from_dict,
)
from .absent import removal
from .merge import consequences, merge, moved_sources


@dataclass(frozen=True)
class Left:
    """What a dead run left: its steps with whether each was done, and notes made on the way.

    ``existing`` are those of its files that exist; ``group_complete`` is False if it took a
    snapshot of several VMs and not all of them have it; ``was_running`` tells how it found
    the VM. ``proven`` is False if it froze the guest and died before it knew that the guest
    had stayed frozen until its snapshot was taken.
    """

    steps: tuple[Step, ...]
    done: tuple[bool, ...]
    marks: frozenset[str]
    existing: frozenset[str]
    group_complete: bool
    was_running: bool
    proven: bool = True


def left_by(
    journal: Mapping[str, Any],
    existing: frozenset[str],
    *,
    group_complete: bool,
    proven: bool = True,
) -> Left:
    """Read a journal's content."""
    return Left(
        steps=tuple(from_dict(entry["step"]) for entry in journal["steps"]),
        done=tuple(bool(entry["done"]) for entry in journal["steps"]),
        marks=frozenset(journal.get("marks", ())),
        existing=existing,
        group_complete=group_complete,
        was_running=journal.get("status") == "running",
        proven=proven,
    )


def point_of(journal: Mapping[str, Any]) -> tuple[TakeSnapshot, bool] | None:
    """The snapshot that a dead run was to take, and whether it had seen it done."""
    for entry in journal["steps"]:
        step = from_dict(entry["step"])
        if isinstance(step, TakeSnapshot):
            return step, bool(entry["done"])
    return None


def files_of(journal: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that a journal's steps create or remove."""
    steps = [from_dict(entry["step"]) for entry in journal["steps"]]
    memory = [s.spec.memory_file for s in steps if isinstance(s, TakeSnapshot)]
    files = [s.file for s in steps if isinstance(s, (CreateOverlay, RemoveFile))]
    return tuple(path for path in (*files, *memory) if path)


def plan_recovery(left: Left, vm: VmState, *, finish: bool = True) -> Plan:
    """The steps that finish or undo the dead run, and a note that says which.

    With ``finish`` False merges that are not done stay undone (their overlays remain in use)
    and only what follows from the others is brought in order.
    """
    _check_readable(left, vm)
    for step, done in zip(left.steps, left.done):
        if isinstance(step, CommitDisk) and not done:
            _check_pivot(step, left, vm)
    taken = [step for step in left.steps if isinstance(step, TakeSnapshot)]
    if not taken and finish:
        note = f"{vm.name}: finished what an interrupted run had begun"
        return Plan(vm.name, tuple(_finish(left, vm)), (note, *_kept(left, vm)))
    if not taken:
        note = f"{vm.name}: left alone what could not be merged, and brought the rest in order"
        return Plan(vm.name, tuple(_close_up(left, vm)), (note, *_kept(left, vm)))
    if _complete(taken[0], vm) and left.group_complete and left.proven:
        note = f"{vm.name}: snapshot {taken[0].spec.name} of an interrupted run is complete"
        return Plan(vm.name, (), (note,))
    undoing = tuple(_once_more(step, left, vm) for step in _undo(left, taken[0], vm))
    steps = (*_resume(left, vm), *undoing)
    note = f"{vm.name}: undid snapshot {taken[0].spec.name} of an interrupted run"
    return Plan(vm.name, steps, (note, *_kept(left, vm)))


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
        elif step.file in left.existing and _was_unused(step, vm):
            loose.append(RemoveFile(step.file, "unused overlay of an interrupted run"))
    memory = taken.spec.memory_file
    if memory in left.existing:
        loose.append(RemoveFile(memory, "memory file of an interrupted run"))
    return (*merges, *consequences(vm, merges), *loose)


def _finish(left: Left, vm: VmState) -> Iterator[Step]:
    """The steps of the dead run that are still to be done, merges as they have to be done now."""
    merging: set[str] = set()
    unknown = _unknown(left, vm)
    for step in left.steps:
        if isinstance(step, CommitDisk):
            again = _merge_again(step, vm)
            if again is not None:
                merging.update((step.target, *again.merged))
                yield again
                yield from moved_sources(vm, [again])
            continue
        step = _as_of_now(step, vm, unknown)
        if _still_needed(step, vm, left.existing - unknown, merging):
            yield step


def _as_of_now(step: Step, vm: VmState, unknown: frozenset[str]) -> Step:
    """A step without what has lost its ground: disks may have gone since it was planned."""
    if isinstance(step, RewriteSnapshot):
        return replace(step, sources=tuple(s for s in step.sources if s[0] not in unknown))
    if isinstance(step, DeleteInternal):
        return replace(step, images=tuple(path for path in step.images if _in_a_chain(path, vm)))
    return step


def _close_up(left: Left, vm: VmState) -> Iterator[Step]:
    """What follows from the merges that were done, as if only they had been asked for."""
    finished = [
        step
        for step, done in zip(left.steps, left.done)
        if isinstance(step, CommitDisk) and _was_merged(step, vm, left, done=done)
    ]
    for step in consequences(vm, finished):
        if not isinstance(step, RemoveFile) or step.file in left.existing:
            yield step


def _was_merged(step: CommitDisk, vm: VmState, left: Left, *, done: bool) -> bool:
    """Whether the dead run is known to have merged these images.

    That a disk does not stand on them any more can have other reasons: it was detached, or
    somebody has gone back to a snapshot. After a merge the base is where the images were.
    """
    disk = vm.disk(step.target)
    if done or disk is None:
        return done
    depth = disk.depth_of(step.base)
    above = disk.depth_of(step.overlay) if step.overlay else -1
    switched = step.how != "active" or step.pivot_mark in left.marks
    return switched and depth is not None and above is not None and above + 1 == depth


def _unknown(left: Left, vm: VmState) -> frozenset[str]:
    """Images in no chain that may hold the only copy of what the guest wrote."""
    images: set[str] = set()
    for step, done in zip(left.steps, left.done):
        if isinstance(step, CommitDisk) and not _was_merged(step, vm, left, done=done):
            images.update(step.merged if _merge_again(step, vm) is None else ())
        elif isinstance(step, CreateOverlay) and not _was_unused(step, vm):
            images.add(step.file)
    return frozenset(path for path in images if not _in_a_chain(path, vm))


def _was_unused(step: CreateOverlay, vm: VmState) -> bool:
    disk = vm.disk(step.target)
    return disk is not None and disk.depth_of(step.backing) is not None


def _in_a_chain(path: str, vm: VmState) -> bool:
    return any(disk.depth_of(path) is not None for disk in vm.disks)


def _kept(left: Left, vm: VmState) -> tuple[str, ...]:
    return tuple(
        f"{vm.name}: {path} was left alone, since it may hold what the guest wrote"
        for path in sorted(_unknown(left, vm) & left.existing)
    )


def _merge_again(step: CommitDisk, vm: VmState) -> CommitDisk | None:
    disk = vm.disk(step.target)
    top = disk.depth_of(step.top) if disk else None
    base = disk.depth_of(step.base) if disk else None
    if disk is None or top is None or base is None or top >= base:
        return None
    return replace(merge(vm, disk, top, base, step.bandwidth), resume=True)


def _still_needed(step: Step, vm: VmState, existing: frozenset[str], merging: set[str]) -> bool:
    if isinstance(step, SetSource):
        disk = vm.disk(step.target)
        if disk is None or disk.persistent != step.old or step.target in merging:
            return False
        return step.old != step.new or any(path in step.gone for path in disk.recorded)
    if isinstance(step, (ForgetSnapshot, DeleteInternal)):
        return vm.snapshot(step.name) is not None
    if isinstance(step, RewriteSnapshot):
        return _rewrite_needed(step, vm)
    if isinstance(step, RemoveFile):
        return step.file in existing and (step.file in merging or not _in_a_chain(step.file, vm))
    return False


def _rewrite_needed(step: RewriteSnapshot, vm: VmState) -> bool:
    snapshot = vm.snapshot(step.name)
    if snapshot is None:
        return False
    stale = any(old in snapshot.named for old, _new, _format in step.sources)
    return stale or any(target in snapshot.overlays for target in step.without)
