# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images a block commit has to merge.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from .._model.problem import BadInput, Conflict, NotFound
from .._model.state import DiskState, VmState
from .._model.step import CommitDisk, Plan
from .keep import spans_by_depth
from .kind import check_checkpoints
from .merge import check_points, check_readable, consequences, merge
from .own import Own, doubt, own_disk
from .spent import left_by_hand, removed_with, spent

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CommitWish:
    """The chain that is wanted: nothing between ``base`` and ``top``, or ``max_depth`` images.

    Images are counted down to the VM's own disk, which is the base where none is named.

    ``disks`` empty means all writable ones; ``bandwidth`` is in MiB/s, 0 for no limit. ``keep``:
    what checkpoints and others need stays, where the merge would be refused otherwise.
    """

    disks: tuple[str, ...] = ()
    base: str = ""
    top: str = ""
    max_depth: int = 1
    delete_merged: bool = True
    bandwidth: int = 0
    keep: bool = False


def plan_commit(wish: CommitWish, vm: VmState) -> Plan:
    """The merges and what follows them; no steps where every chain is as wanted."""
    if wish.base and wish.base == wish.top:
        raise BadInput(
            f"base and top are the same image {wish.base}",
            wanted="top above base in the chain",
            todo="correct one of them",
        )
    found = [(disk, *_spans(wish, vm, disk)) for disk in chosen(vm, wish.disks)]
    notes = [note for _disk, _spans, note in found if note]
    merges = _rounds(
        [[merge(vm, disk, *span, wish.bandwidth) for span in spans] for disk, spans, _note in found]
    )
    targets = {disk.target for disk, _spans, _note in found}
    gone = spent(vm, merges, targets)
    notes.extend(left_by_hand(vm, gone, targets))
    if not (merges or gone):
        return Plan(vm.name, (), tuple(notes))
    doomed = tuple(snapshot.name for snapshot in gone)
    loose = tuple(removed_with(vm, gone)) if wish.delete_merged else ()
    check_points(vm, merges, doomed, [step.file for step in loose])
    check_checkpoints(vm, {path for step in merges for path in step.merged})
    if not (wish.base or wish.top):
        _check_foreign(vm, merges)
    after = consequences(vm, merges, doomed, delete=wish.delete_merged)
    return Plan(vm.name, (*merges, *after, *loose), tuple(notes))


def _rounds(of_disks: list[list[CommitDisk]]) -> list[CommitDisk]:
    """The first merge of each disk, which run side by side, then the second of each, and so on."""
    return [step for together in zip_longest(*of_disks) for step in together if step]


def _check_foreign(vm: VmState, merges: list[CommitDisk]) -> None:
    """A snapshot that somebody else took goes only where its images are named."""
    merged = {path for step in merges for path in step.merged}
    for snapshot in vm.snapshots:
        lost = sorted(path for path in snapshot.overlays.values() if path in merged)
        if lost and not snapshot.ours:
            raise Conflict(
                f"snapshot {snapshot.name} of VM {vm.name} was taken by another tool, and merging"
                f" its overlay {', '.join(lost)} would end it",
                wanted="chains whose snapshots were taken by this collection",
                todo=f"if nobody needs it, remove it by name (vm_snapshot with name"
                f" {snapshot.name} and state absent), or name the images with 'top' and 'base'",
            )


def chosen(vm: VmState, targets: tuple[str, ...]) -> tuple[DiskState, ...]:
    """The named disks of a VM, by default all writable ones; NotFound for an unknown name."""
    if not targets:
        return vm.writable
    found = []
    for target in targets:
        disk = vm.disk(target)
        if disk is None:
            raise NotFound(
                f"VM {vm.name} has no disk {target}",
                wanted=f"one of {', '.join(disk.target for disk in vm.disks) or '(it has none)'}",
                todo="correct the option 'disks'",
            )
        if not disk.disk.writable:
            raise BadInput(
                f"disk {target} of VM {vm.name} is a {_why_not_writable(disk)}",
                wanted="a disk that the guest writes to",
                todo="leave it out of the option 'disks'",
            )
        found.append(disk)
    return tuple(found)


def _why_not_writable(disk: DiskState) -> str:
    if disk.disk.device not in ("disk", "lun"):
        return disk.disk.device
    return "read-only disk" if disk.disk.readonly else "disk without a source"


def _spans(wish: CommitWish, vm: VmState, disk: DiskState) -> tuple[Spans, str]:
    """(depth of top, depth of base) of what is to be merged, and a note."""
    check_readable(vm, disk)
    if wish.keep:
        return spans_by_depth(vm, disk, wish.max_depth)
    own = own_disk(vm, disk)
    if own.doubt and not wish.base and own.lowest >= wish.max_depth:
        raise doubt(vm, disk, own)
    if not (wish.base or wish.top):
        return _by_depth(wish.max_depth, own.depth + 1), _below_own(wish, vm, disk, own)
    base = depth_of_base(wish.base, vm, disk) if wish.base else own.depth
    if not wish.top:
        return (((0, base),) if base else ()), ""
    top = disk.depth_of(wish.top)
    if top is None:
        note = f"{vm.name}: {wish.top} is not in the chain of {disk.target}; nothing to merge there"
        return (), note
    if top >= base and not wish.base:
        raise _own_on_top(vm, disk, top, own)
    if top >= base:
        raise BadInput(
            f"top {wish.top} is not above base {disk.chain[base].filename} in the chain of disk"
            f" {disk.target} of VM {vm.name}: {' <- '.join(reversed(disk.files))}",
            wanted="top to stand on base, directly or through other images",
            todo="exchange or correct them",
        )
    return ((top, base),), ""


def _below_own(wish: CommitWish, vm: VmState, disk: DiskState, own: Own) -> str:
    """A note where all that could be merged is a template."""
    if own.depth >= wish.max_depth or len(disk.chain) <= wish.max_depth:
        return ""
    upper, lower = disk.files[own.depth : own.depth + 2]
    return (
        f"{vm.name}: {upper} is the VM's own disk {disk.target}; {lower} below it is a template,"
        " and is written only if 'base' names it"
    )


def _own_on_top(vm: VmState, disk: DiskState, top: int, own: Own) -> BadInput:
    return BadInput(
        f"top {disk.chain[top].filename} is not above the own disk {disk.chain[own.depth].filename}"
        f" of VM {vm.name}, disk {disk.target}: {' <- '.join(reversed(disk.files))}",
        wanted="to merge into the VM's own disk: what is below it is written only if it is named",
        todo="correct 'top', or name the image that is to receive the data with 'base'",
    )


def _by_depth(max_depth: int, depth: int) -> Spans:
    """Keep the newest images and the base: the oldest overlays are merged into the base."""
    if depth <= max_depth:
        return ()
    return ((max_depth - 1, depth - 1),)


def depth_of_base(path: str, vm: VmState, disk: DiskState) -> int:
    depth = disk.depth_of(path)
    if depth is None:
        raise NotFound(
            f"image {path} is not in the chain of disk {disk.target} of VM {vm.name}:"
            f" {' <- '.join(reversed(disk.files))}",
            wanted="a base out of that chain",
            todo="correct the option 'base', or name the disk it belongs to in 'disks'",
        )
    return depth
