# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images a block pull has to copy up, and what follows from it.

A pull writes to the active image alone, and not even that has another content afterwards. What it
takes out of the chain stays as it is; only what we have made and nothing needs is removed.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .._model.problem import BadInput, Conflict, Unsupported
from .._model.reference import relative_name
from .._model.snapshot import CHECKPOINT, Snapshot
from .._model.state import DiskState, VmState
from .._model.step import (
    ForgetSnapshot,
    Plan,
    PullDisk,
    RemoveFile,
    RewriteSnapshot,
    SetSource,
    Step,
)
from .barred import check_transient, to_wake
from .commit import chosen, depth_of_base
from .encrypted import check_merged
from .heirs import handed_on
from .loose import abandoned
from .merge import check_readable, children_first
from .own import doubt, own_disk
from .users import inside_first


@dataclass(frozen=True)
class PullWish:
    """Active images that stand on ``base``, or on the lowest of ``max_depth`` images, or on none.

    Images are counted down to the VM's own disk, and what is below that stays; with 0 all go.
    ``disks`` empty means all writable ones; ``bandwidth`` is in MiB/s, 0 for no limit.
    """

    disks: tuple[str, ...] = ()
    base: str = ""
    max_depth: int = 0
    delete_merged: bool = True
    bandwidth: int = 0


def plan_pull(wish: PullWish, vm: VmState) -> Plan:
    """The pulls and what follows them; no steps where every chain is as wanted."""
    pulls: list[PullDisk] = []
    notes: list[str] = []
    for disk in chosen(vm, wish.disks):
        depth = _depth_of_base(wish, vm, disk)
        notes.extend(_may_be_own(wish, vm, disk))
        if depth > 1:
            pulls.append(pull(vm, disk, depth, wish.bandwidth))
    if not pulls:
        return Plan(vm.name, (), tuple(notes))
    if vm.status not in ("running", "blocked", "shutoff"):
        raise Unsupported(
            f"VM {vm.name} is {vm.status}",
            wanted="a VM that is running or off: QEMU does not see to it that what it has pulled is"
            " on the disk, and only a VM that runs can be made to",
            todo=to_wake(vm, "let it go on (vm_memory with state running), or switch it off"),
        )
    for found in vm.snapshots:
        _check_snapshot(vm, found, pulls, named=bool(wish.base))
    after = pull_consequences(vm, pulls, delete=wish.delete_merged)
    return Plan(vm.name, (*pulls, *after), tuple(notes))


def _depth_of_base(wish: PullWish, vm: VmState, disk: DiskState) -> int:
    """How deep in the chain of a disk its base is now, the length of the chain for none."""
    check_readable(vm, disk)
    if not (wish.base or wish.max_depth):
        return len(disk.chain)
    if not wish.base:
        return own_disk(vm, disk).depth + 2 - wish.max_depth
    depth = depth_of_base(wish.base, vm, disk)
    if depth == 0:
        raise BadInput(
            f"base {wish.base} is the active image of disk {disk.target} of VM {vm.name}",
            wanted="an image below it in its chain",
            todo="correct the option 'base'",
        )
    return depth


def _may_be_own(wish: PullWish, vm: VmState, disk: DiskState) -> Iterator[str]:
    """A note where an image that stays, taken for a template, may as well be the VM's own disk."""
    own = own_disk(vm, disk)
    if own.doubt and wish.max_depth and own.lowest >= wish.max_depth:
        yield (
            f"{vm.name}: {doubt(vm, disk, own).found}; {disk.files[own.lowest]} was taken for a"
            " template and left in the chain; to pull it as well, name with 'base' what is to stay"
        )


def pull(vm: VmState, disk: DiskState, base: int, bandwidth: int = 0) -> PullDisk:
    """Copy the images at the depths 1 to ``base - 1`` up into the active one.

    ``base`` may be one more than there are: then nothing is left below. Raises Conflict where an
    internal snapshot would lose what it stands on.
    """
    check_transient(vm, (disk,), "a pull")
    into, leaving, below = disk.chain[0], disk.chain[1:base], disk.chain[base:]
    _check_internal(vm, disk, base)
    check_merged(vm, disk, leaving, into)
    known = {bitmap.name for bitmap in into.bitmaps if not bitmap.inconsistent}
    return PullDisk(
        target=disk.target,
        into=into.filename,
        base=below[0].filename if below else "",
        base_format=below[0].format if below else "",
        pulled=tuple(image.filename for image in leaving),
        pulled_format=leaving[0].format,
        how="offline" if vm.off else "running",
        relative=relative_name(image.backing_filename for image in disk.chain[:base]),
        bitmaps=tuple(
            (image.filename, bitmap.name)
            for image in leaving
            for bitmap in image.bitmaps
            if vm.off and bitmap.name in known and not bitmap.inconsistent
        ),
        bandwidth=bandwidth,
        bytes=sum(image.actual_size or 0 for image in leaving),
    )


def _check_internal(vm: VmState, disk: DiskState, base: int) -> None:
    """An internal snapshot of the active image reads from the chain what it has not got itself."""
    for image in disk.chain[:base]:
        if image.snapshots:
            raise Conflict(
                f"image {image.filename} of VM {vm.name}, disk {disk.target}, holds internal"
                f" snapshots: {', '.join(snapshot.name for snapshot in image.snapshots)}",
                wanted="images without internal snapshots, which would lose what they stand on",
                todo=f"{inside_first(vm, image)}, or choose another base",
            )


def _check_snapshot(
    vm: VmState, found: Snapshot, pulls: Sequence[PullDisk], *, named: bool
) -> None:
    """Checkpoints are kept; a snapshot that somebody else took goes only where a base is named."""
    left = _left_behind(found, pulls)
    moved = {path for step in pulls for path in step.pulled}.intersection(found.overlays.values())
    if found.kind == CHECKPOINT and (left or moved):
        needed = sorted({*moved, *(found.image_before(target) for target in left)})
        raise Conflict(
            f"checkpoint {found.name} of VM {vm.name} needs {', '.join(needed)}",
            wanted="to take it out of the chain, which would destroy that checkpoint",
            todo=f"remove the checkpoint first (vm_checkpoint with name {found.name} and state"
            " absent), or choose another base",
        )
    if left and not found.ours and not named:
        raise Conflict(
            f"snapshot {found.name} of VM {vm.name} was taken by another tool, and pulling"
            f" {', '.join(found.image_before(target) for target in left)} out of the chain would"
            " end it",
            wanted="chains whose snapshots were taken by this collection",
            todo=f"if nobody needs it, remove it by name (vm_snapshot with name {found.name} and"
            " state absent), or name the image to stand on with 'base'",
        )


def _left_behind(found: Snapshot, pulls: Sequence[PullDisk]) -> tuple[str, ...]:
    """The disks of an external snapshot whose points leave the chain."""
    return tuple(
        step.target
        for step in pulls
        if step.target in found.overlays and found.image_before(step.target) in step.pulled
    )


def still_between(step: PullDisk, vm: VmState) -> tuple[str, ...] | None:
    """Which of the images to be pulled a disk stands on; None where it is somewhere else."""
    disk = vm.disk(step.target)
    if disk is None or disk.depth_of(step.into) != 0:
        return None
    depth = disk.depth_of(step.base) if step.base else len(disk.chain)
    between = disk.files[1:depth]
    known = depth is not None and set(step.pulled).issuperset(between)
    return between if known else None


def pull_consequences(
    vm: VmState, pulls: Sequence[PullDisk], *, delete: bool = True
) -> tuple[Step, ...]:
    """What has to follow the pulls so that definition, snapshots and files agree again."""
    dying = [found for found in vm.snapshots if _dies(found, pulls)]
    needed = _needed(vm, pulls, dying)
    steps: list[Step] = [*pull_sources(vm, pulls)]
    for found in vm.snapshots:
        if found not in dying:
            steps.extend(_rewrite(found, pulls, needed))
    pulled = {path for step in pulls for path in step.pulled}
    named = {file for step in steps if isinstance(step, RewriteSnapshot) for _t, file in step.files}
    active = {step.into for step in pulls} - named
    steps.extend(handed_on(vm, dying, gone=pulled - needed, leaving=pulled, active=active))
    steps.extend(ForgetSnapshot(name) for name in children_first(dying))
    if delete:
        steps.extend(_unneeded(vm, pulls, dying, needed))
        steps.extend(abandoned(vm, [found for found in dying if found.ours], but=pulled))
    return tuple(steps)


def pull_sources(vm: VmState, pulls: Sequence[PullDisk]) -> Iterator[SetSource]:
    """What follows for the persistent definition: it must not name what has left the chain.

    libvirt corrects it along with the live one where both name the same image.
    """
    for step in pulls:
        disk = vm.disk(step.target)
        if disk is None or not (vm.off or disk.persistent != disk.disk.path):
            continue
        form = disk.disk.format
        if disk.persistent in step.pulled:
            yield SetSource(step.target, disk.persistent, step.into, form, step.pulled)
        elif disk.persistent == step.into and any(path in step.pulled for path in disk.recorded):
            yield SetSource(step.target, step.into, step.into, form, step.pulled)


def _dies(found: Snapshot, pulls: Sequence[PullDisk]) -> bool:
    """A snapshot goes when nothing is left of it, or when its memory lost one of its disks."""
    lost = _left_behind(found, pulls)
    return bool(lost) and (len(lost) == len(found.overlays) or found.memory == "external")


def _needed(vm: VmState, pulls: Sequence[PullDisk], dying: Sequence[Snapshot]) -> frozenset[str]:
    """Images that a disk or a snapshot will still stand on."""
    pulled = {(step.target, path) for step in pulls for path in step.pulled}
    chained = [
        name
        for disk in vm.disks
        for image in disk.chain
        if (disk.target, image.filename) not in pulled
        for name in (image.filename, image.file.real)
    ]
    points = [
        image.filename
        for found in vm.snapshots
        if found not in dying
        for target, point in found.points.items()
        if target not in _left_behind(found, pulls) and point not in {s.into for s in pulls}
        for image in vm.chain_of(point)
    ]
    return frozenset((*chained, *points))


def _rewrite(
    found: Snapshot, pulls: Sequence[PullDisk], needed: frozenset[str]
) -> Iterator[RewriteSnapshot]:
    """The correction of a surviving snapshot: on its points stand the active images now."""
    lost = _left_behind(found, pulls)
    gone = [(path, step) for step in pulls for path in step.pulled if path not in needed]
    sources = tuple((path, step.into, "qcow2") for path, step in gone if path in found.named)
    files = tuple(
        (step.target, step.into)
        for step in pulls
        if step.target not in lost and found.overlays.get(step.target) in step.pulled
    )
    if sources or lost or files:
        yield RewriteSnapshot(found.name, sources, lost, files)


def _unneeded(
    vm: VmState, pulls: Sequence[PullDisk], dying: Sequence[Snapshot], needed: frozenset[str]
) -> Iterator[RemoveFile]:
    """What our snapshots have made and nothing needs any more."""
    made = {path for found in vm.snapshots if found.ours for path in found.made}
    for step in pulls:
        for path in step.pulled:
            if path in made and path not in needed:
                yield RemoveFile(path, f"pulled into {step.into}", spare=True)
    for found in dying:
        if found.ours and found.memory_file and found.memory_file not in vm.missing:
            yield RemoveFile(found.memory_file, f"memory of snapshot {found.name}")
