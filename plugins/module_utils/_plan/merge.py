# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merging images down a chain, and what follows from it for definition, snapshots and files.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .._model.problem import Conflict, Unsupported
from .._model.reference import relative_name
from .._model.snapshot import Snapshot
from .._model.state import DiskState, VmState
from .._model.step import CommitDisk, ForgetSnapshot, RemoveFile, RewriteSnapshot, SetSource, Step
from .barred import check_transient
from .encrypted import check_merged
from .heirs import handed_on
from .loose import abandoned
from .users import inside_first, is_spoilt, ran_on, removal_of


def merge(vm: VmState, disk: DiskState, top: int, base: int, bandwidth: int = 0) -> CommitDisk:
    """Merge the images at the depths ``top`` to ``base - 1`` into the one at ``base``.

    Raises Conflict where a merged image holds internal snapshots, which would be lost with it.
    """
    check_readable(vm, disk)
    check_transient(vm, (disk,), "a merge")
    _check_own_disks(vm, disk, top, base)
    leaving = disk.chain[top:base]
    for image in leaving:
        if image.snapshots:
            raise Conflict(
                f"image {image.filename} of VM {vm.name}, disk {disk.target}, holds internal"
                f" snapshots: {', '.join(snapshot.name for snapshot in image.snapshots)}",
                wanted="images to merge without internal snapshots, which would be lost",
                todo=f"{inside_first(vm, image)}, or choose other images",
            )
    into = disk.chain[base]
    check_merged(vm, disk, leaving, into)
    return CommitDisk(
        target=disk.target,
        base=into.filename,
        base_format=into.format,
        top=leaving[0].filename,
        top_format=leaving[0].format,
        merged=tuple(image.filename for image in leaving),
        how="offline" if vm.off else "middle" if top else "active",
        overlay=disk.chain[top - 1].filename if top else "",
        relative=relative_name(i.backing_filename for i in disk.chain[top - 1 : base] if top),
        bitmaps=_carried_bitmaps(disk, top, base) if vm.off else (),
        bandwidth=bandwidth,
        bytes=sum(image.actual_size or 0 for image in leaving),
    )


def check_readable(vm: VmState, disk: DiskState) -> None:
    """Raise Unsupported where it is not known what a disk stands on."""
    if not disk.chain:
        raise Unsupported(
            f"the chain of disk {disk.target} of VM {vm.name} cannot be read: {disk.trouble}",
            wanted="a chain of local files or block devices",
            todo=disk.denied or "repair it, or leave the disk out with the option 'disks'",
        )


def _check_own_disks(vm: VmState, disk: DiskState, top: int, base: int) -> None:
    """Two disks of one VM may stand on the same image; neither may change it under the other."""
    touched = set(disk.real[top : base + 1])
    for other in vm.disks:
        shared = touched.intersection(other.real)
        if other.target != disk.target and shared:
            raise Conflict(
                f"image {', '.join(sorted(shared))} of VM {vm.name}, disk {disk.target}, is also in"
                f" the chain of its disk {other.target}",
                wanted="to merge images that no other disk stands on",
                todo="choose a base above it",
            )


def _carried_bitmaps(disk: DiskState, top: int, base: int) -> tuple[tuple[str, str, int], ...]:
    """(image, bitmap, granularity) to be merged into the base by an offline commit.

    qemu-img commit leaves bitmaps behind; a running QEMU is told by libvirt to merge them.
    """
    return tuple(
        (image.filename, bitmap.name, bitmap.granularity)
        for image in reversed(disk.chain[top:base])
        for bitmap in image.bitmaps
        if not bitmap.inconsistent and disk.chain[base].format == "qcow2"
    )


def check_points(
    vm: VmState,
    merges: Sequence[CommitDisk],
    doomed: Sequence[str] = (),
    removed: Sequence[str] = (),
) -> None:
    """Raise Conflict where a merge would change what a surviving external snapshot goes back to.

    That is an image that receives newer data, one that is merged together with newer ones, or
    one that is ``removed`` without being merged. What an internal snapshot holds stays as it is
    whatever is written to its image.
    """
    dying = _dying(vm, _merged(merges), doomed)
    for snapshot in vm.snapshots:
        if snapshot in dying:
            continue
        _check_beside(vm, snapshot, merges, removed)
        for target, overlay in snapshot.overlays.items():
            point = snapshot.image_before(target)
            lost = any(overlay in step.merged for step in merges)
            changed = any(point == step.base or point in step.merged[1:] for step in merges)
            if not lost and (changed or point in removed) and not is_spoilt(vm, snapshot, target):
                raise _destroyed(vm, snapshot, target, point)


def _check_beside(
    vm: VmState, snapshot: Snapshot, merges: Sequence[CommitDisk], removed: Sequence[str]
) -> None:
    """What a snapshot beside the present state goes back to needs all images that it stands on.

    Unless the VM provably ran on one of them since: then what it needs is lost already.
    """
    touched = {*removed, *(path for step in merges for path in (step.base, *step.merged))}
    for entry in snapshot.taken:
        point = snapshot.image_before(entry.target)
        if any(disk.depth_of(point) is not None for disk in vm.disks):
            continue
        images = vm.chain_of(point)
        spoilt = any(ran_on(vm, snapshot, entry.target, image.filename) for image in images[1:])
        for image in () if spoilt else images:
            if image.filename in touched:
                raise _destroyed(vm, snapshot, entry.target, image.filename)


def _destroyed(vm: VmState, snapshot: Snapshot, target: str, point: str) -> Conflict:
    return Conflict(
        f"image {point} of VM {vm.name}, disk {target}, is what snapshot {snapshot.name} goes"
        " back to",
        wanted="to write to it or to remove it, which would destroy that snapshot",
        todo=f"{removal_of(snapshot)}, or choose another base",
    )


def consequences(
    vm: VmState, merges: Sequence[CommitDisk], doomed: Sequence[str] = (), *, delete: bool = True
) -> tuple[Step, ...]:
    """What has to follow the merges so that definition, snapshots and files agree again.

    ``doomed`` are snapshots that go in any case. ``delete`` False keeps the merged files.
    """
    merged = _merged(merges)
    dying = _dying(vm, merged, doomed)
    steps: list[Step] = [*moved_sources(vm, merges)]
    for snapshot in vm.snapshots:
        if snapshot not in dying:
            steps.extend(_rewrite(snapshot, merged))
    steps.extend(handed_on(vm, dying, gone=merged))
    steps.extend(ForgetSnapshot(name) for name in children_first(dying))
    if delete:
        steps.extend(RemoveFile(path, f"merged into {step.base}") for path, step in merged.items())
        steps.extend(_memory_files(vm, dying))
        others = [found for found in dying if found.ours and found.name not in doomed]
        steps.extend(abandoned(vm, others, but=merged))
    return tuple(steps)


def moved_sources(vm: VmState, merges: Sequence[CommitDisk]) -> tuple[SetSource, ...]:
    """What follows the merges for the persistent definition."""
    return tuple(_set_source(vm, step) for step in merges if _needs_source(vm, step))


def _merged(merges: Sequence[CommitDisk]) -> dict[str, CommitDisk]:
    return {path: step for step in merges for path in step.merged}


def _dying(
    vm: VmState, merged: Mapping[str, CommitDisk], doomed: Sequence[str]
) -> tuple[Snapshot, ...]:
    return tuple(s for s in vm.snapshots if s.name in doomed or _dies(s, merged))


def children_first(snapshots: Iterable[Snapshot]) -> tuple[str, ...]:
    """Names in an order in which no snapshot is forgotten before its children."""
    left = {snapshot.name: snapshot for snapshot in snapshots}
    ordered: list[str] = []
    while left:
        parents = {snapshot.parent for snapshot in left.values()}
        leaves = sorted(name for name in left if name not in parents) or sorted(left)
        ordered.extend(leaves)
        for name in leaves:
            del left[name]
    return tuple(ordered)


def _needs_source(vm: VmState, step: CommitDisk) -> bool:
    """Whether the persistent definition names a merged image, as a source or below one.

    libvirt moves it along with the live one only where both named the same image.
    """
    disk = vm.disk(step.target)
    if disk is None:
        return False
    stale = disk.persistent in step.merged or any(path in step.merged for path in disk.recorded)
    return stale and (vm.off or disk.persistent != disk.disk.path)


def _set_source(vm: VmState, step: CommitDisk) -> SetSource:
    disk = vm.disk(step.target)
    if disk is None or disk.persistent in step.merged:
        old = disk.persistent if disk else ""
        return SetSource(step.target, old, step.base, step.base_format, step.merged)
    return SetSource(step.target, disk.persistent, disk.persistent, disk.disk.format, step.merged)


def _lost(snapshot: Snapshot, merged: Mapping[str, CommitDisk]) -> tuple[str, ...]:
    return tuple(target for target, file in snapshot.overlays.items() if file in merged)


def _dies(snapshot: Snapshot, merged: Mapping[str, CommitDisk]) -> bool:
    """A snapshot goes when nothing is left of it, or when its memory lost one of its disks."""
    lost = _lost(snapshot, merged)
    return bool(lost) and (len(lost) == len(snapshot.overlays) or snapshot.memory == "external")


def _rewrite(snapshot: Snapshot, merged: Mapping[str, CommitDisk]) -> tuple[Step, ...]:
    """The correction of a surviving snapshot's metadata."""
    lost = _lost(snapshot, merged)
    moved = tuple(
        (path, step.base, step.base_format)
        for path, step in merged.items()
        if path in snapshot.named
    )
    return (RewriteSnapshot(snapshot.name, moved, lost),) if moved or lost else ()


def _memory_files(vm: VmState, dying: Iterable[Snapshot]) -> tuple[Step, ...]:
    return tuple(
        RemoveFile(snapshot.memory_file, f"memory of snapshot {snapshot.name}")
        for snapshot in dying
        if snapshot.memory_file and snapshot.memory_file not in vm.missing
    )
