# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps make a snapshot absent without losing what was written since.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from .._model.image import Image
from .._model.problem import Conflict, Unsupported
from .._model.snapshot import (
    Snapshot,
)
from .._model.state import DiskState, VmState
from .._model.step import CommitDisk, DeleteInternal, ForgetSnapshot, Plan, RemoveFile, Step
from .._model.tree import (
    descendants,
)
from .damage import at_rest
from .encrypted import check_outside, sealed
from .heirs import unrecorded
from .kind import check_kind
from .loose import HELD, abandoned, needed_without, points_of, surviving
from .merge import check_points, consequences, merge
from .own import own_disk
from .revert_disks import is_same


@dataclass(frozen=True)
class AbsentWish:
    """A snapshot of a kind that is not to exist, with all that descend from it if ``subtree``."""

    name: str
    subtree: bool = False
    metadata_only: bool = False
    bandwidth: int = 0
    kind: str = ""


def plan_absent(wish: AbsentWish, vm: VmState) -> Plan:
    """Merge its overlays into what they stand on, correct the metadata, remove the files."""
    if vm.snapshot(wish.name) is None:
        return Plan(vm.name)
    names = descendants(vm.snapshots, wish.name) if wish.subtree else (wish.name,)
    for snapshot in vm.snapshots:
        if snapshot.name in names:
            check_kind(vm, snapshot, wish.kind)
    if wish.metadata_only:
        return Plan(vm.name, tuple(ForgetSnapshot(name) for name in reversed(names)))
    steps = removal(vm, names, wish.bandwidth)
    merges = [step for step in steps if isinstance(step, CommitDisk)]
    merged = [path for step in merges for path in step.merged]
    files = [step.file for step in steps if isinstance(step, RemoveFile)]
    check_points(vm, merges, names, [file for file in files if file not in merged])
    doomed = _doomed(vm, names)
    notes = (*_left_alone(vm, names), *_own_now(vm, names), *unrecorded(vm, doomed))
    return Plan(vm.name, steps, (*notes, *_nobodys(vm, doomed, {*files, *merged})))


def removal(vm: VmState, names: Sequence[str], bandwidth: int = 0) -> tuple[Step, ...]:
    """The steps for these snapshots, parents before children, whatever else stands on them."""
    doomed = _doomed(vm, names)
    _check_readable(vm, doomed)
    merges = _merges(vm, doomed, bandwidth)
    loose = (*abandoned(vm, doomed), *_given_up(vm, doomed))
    going = {step.file for step in loose}
    internal = {snapshot.name: snapshot for snapshot in doomed if snapshot.mode == "internal"}
    deletions = [
        _delete_internal(vm, internal[name], going) for name in reversed(names) if name in internal
    ]
    after = [
        step
        for step in consequences(vm, merges, names)
        if not (isinstance(step, ForgetSnapshot) and step.name in internal)
    ]
    return (*merges, *deletions, *after, *loose)


def _doomed(vm: VmState, names: Sequence[str]) -> tuple[Snapshot, ...]:
    return tuple(snapshot for snapshot in vm.snapshots if snapshot.name in names)


def _check_readable(vm: VmState, doomed: tuple[Snapshot, ...]) -> None:
    """Where a chain cannot be read, nobody knows which of its images is in use."""
    for target in dict.fromkeys(target for snapshot in doomed for target in snapshot.overlays):
        disk = vm.disk(target)
        if disk is not None and not disk.chain:
            raise Unsupported(
                f"the chain of disk {target} of VM {vm.name} cannot be read: {disk.trouble}",
                wanted="to know whether the overlay of the snapshot is in use",
                todo=disk.denied or "repair the image, or use 'metadata_only: true'",
            )


def _merges(vm: VmState, doomed: tuple[Snapshot, ...], bandwidth: int) -> tuple[CommitDisk, ...]:
    merges = []
    for disk in vm.disks:
        depths = sorted(
            depth
            for snapshot in doomed
            for depth in [disk.depth_of(snapshot.overlays.get(disk.target, ""))]
            if depth is not None and depth < own_disk(vm, disk).depth
        )
        if depths:
            _check_together(vm, disk, depths)
            merges.append(merge(vm, disk, depths[0], depths[-1] + 1, bandwidth))
    return tuple(merges)


def _check_together(vm: VmState, disk: DiskState, depths: list[int]) -> None:
    """A subtree is merged in one go; an image in between that is not part of it stays ours not."""
    foreign = [
        disk.chain[depth].filename for depth in range(depths[0], depths[-1]) if depth not in depths
    ]
    if foreign:
        raise Conflict(
            f"the images {', '.join(foreign)} of disk {disk.target} of VM {vm.name} belong to none"
            " of the snapshots to remove but stand between their overlays",
            wanted="overlays of these snapshots directly upon each other",
            todo="remove the snapshots one by one, or merge these images first (vm_blockcommit)",
        )


def _nobodys(vm: VmState, doomed: tuple[Snapshot, ...], gone: Container[str]) -> Iterator[str]:
    """Notes of overlays that only these snapshots go back to and that no record says are ours."""
    needed = needed_without(vm, doomed)
    points = (
        vm.chain_of(found.image_before(each.target)) for found in doomed for each in found.taken
    )
    for path in dict.fromkeys(image.filename for chain in points for image in chain[:-1]):
        if path not in needed and path not in gone and not vm.in_a_chain(path):
            yield (
                f"{vm.name}: {path} was kept, since no snapshot records who has made it; if nobody"
                f" needs what it holds, remove it (qcow2_overlay with path {path}, state absent)"
            )


def _given_up(vm: VmState, doomed: tuple[Snapshot, ...]) -> Iterator[RemoveFile]:
    """Overlays of snapshots that stay, as far as they were kept for the points of these alone.

    Going back would have removed them with the rest of what it gave up. Only what provably holds
    nothing newer than such a point goes, and nothing that the VM has left by other hands: then it
    still descends from the snapshot that made it.
    """
    staying = surviving(vm, doomed)
    needed = {path for found in staying for image in points_of(vm, found) for path in _of(image)}
    resting = [image for found in doomed for image in at_rest(vm, found)]
    loose = {image.filename for image in resting if needed.isdisjoint(_of(image))}
    for snapshot in staying:
        below = descendants(vm.snapshots, snapshot.name)
        left = not any(found.current for found in vm.snapshots if found.name in below)
        for target, file in snapshot.overlays.items() if snapshot.ours and left else ():
            disk, then = vm.disk(target), snapshot.before.disk(target) if snapshot.before else None
            same = disk is not None and then is not None and is_same(vm, disk, then)
            if same and file in loose and not vm.in_a_chain(file):
                yield RemoveFile(file, HELD, spare=True)


def _of(image: Image) -> tuple[str, str]:
    return image.filename, image.file.real


def _left_alone(vm: VmState, names: Sequence[str]) -> tuple[str, ...]:
    """A disk that was detached still needs its images, wherever it is."""
    return tuple(
        f"{vm.name}: {entry.file or snapshot.image_before(entry.target)} was left as it is, since"
        f" the VM has no disk {entry.target} any more"
        for snapshot in vm.snapshots
        for entry in snapshot.taken
        if snapshot.name in names and vm.disk(entry.target) is None and entry.file not in vm.missing
    )


def _own_now(vm: VmState, names: Sequence[str]) -> Iterator[str]:
    """An overlay with nothing below it but a template, or nothing at all, is merged into nothing.

    What it stood on was pulled into it, or merged away by hand: it is the VM's own disk now.
    """
    for snapshot in vm.snapshots:
        for target, file in snapshot.overlays.items() if snapshot.name in names else ():
            disk = vm.disk(target)
            depth = disk.depth_of(file) if disk else None
            if disk and depth is not None and depth >= own_disk(vm, disk).depth:
                yield (
                    f"{vm.name}: {file} stays in use by {target}: what snapshot {snapshot.name}"
                    " went back to is not in the chain, so there is nothing to merge it into"
                )


def _delete_internal(vm: VmState, snapshot: Snapshot, going: Container[str]) -> Step:
    """libvirt deletes it from the active images, qemu-img from those beside that are to stay."""
    images: list[str] = []
    beside: list[str] = []
    below = False
    for entry in snapshot.taken:
        disk, point = vm.disk(entry.target), snapshot.image_before(entry.target)
        if disk is None:
            continue
        check_outside(vm, disk, f"to delete the internal snapshot {snapshot.name}")
        depth = disk.depth_of(point)
        if depth and not vm.off:
            raise _open_below(vm, snapshot, disk, point)
        below = below or bool(depth)
        if depth is not None or not disk.chain:
            images.append(point)
        elif point not in going and _holds(vm, point, snapshot):
            beside.append(point)
    if images:
        _check_as_then(vm, snapshot)
    if images or beside:
        return DeleteInternal(snapshot.name, tuple(images), below=below, beside=tuple(beside))
    return ForgetSnapshot(snapshot.name)


def _open_below(vm: VmState, snapshot: Snapshot, disk: DiskState, point: str) -> Conflict:
    return Conflict(
        f"the internal snapshot {snapshot.name} of VM {vm.name} lives in {point}, which is not the"
        f" active image of disk {disk.target} ({disk.files[0]})",
        wanted="the image that holds it on top, or a VM that is off",
        todo="switch the VM off first; or merge the overlays above it (vm_blockcommit with"
        f" 'disks: [{disk.target}]' and 'base: {point}')",
    )


def _holds(vm: VmState, path: str, snapshot: Snapshot) -> bool:
    """Whether qemu-img, which gets no key, can delete an internal snapshot from an image beside."""
    image = vm.chain_of(path)[:1]
    inside = any(found.name == snapshot.name for each in image for found in each.snapshots)
    return inside and not sealed(vm, image)


def _check_as_then(vm: VmState, snapshot: Snapshot) -> None:
    """Raise Conflict where a VM that runs has not the disks and media that it had then.

    libvirt then refuses to delete an internal snapshot, and dies of a target that is gone (seen
    with 9.0).
    """
    for disk in snapshot.before.disks if snapshot.before and not vm.off else ():
        now = vm.disk(disk.target)
        if now is None or now.disk.source != disk.source:
            has = f"has {now.disk.source or 'nothing'} there now" if now else "has it no more"
            raise Conflict(
                f"{disk.target} of VM {vm.name} was {disk.source or 'empty'} when the internal"
                f" snapshot {snapshot.name} was taken, and the VM {has}",
                wanted="to delete it while the VM runs, for which libvirt needs the disks and media"
                " of then",
                todo="switch the VM off first, or bring them back",
            )
