# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps let the storage take a snapshot of a VM, or drop it.

A running VM writes to overlays while its images are copied. So they are all of one moment and
whole, and the guest is frozen no longer than for a snapshot of libvirt. That snapshot is merged
back when the copies are made.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .._model.names import check_snapshot_name, file_part
from .._model.problem import BadInput, Conflict, Unsupported
from .._model.snapshot import CRASH
from .._model.state import DiskState, VmState
from .._model.step import CommitDisk, Plan, RemoveStorage, SnapshotStorage, Step
from .._model.storage import (
    BTRFS,
    LVM,
    REFLINK,
    Copy,
    Ground,
    StorageSnapshot,
    copy_file,
    copy_subvolume,
    copy_volume,
)
from .._model.volume import Volume
from .absent import AbsentWish, plan_absent
from .commit import chosen
from .predict import predict
from .snapshot import SnapshotWish, kind_without_overlay, plan_present

TEMPORARY = "vmkeep-storage"
"""The snapshot of libvirt that keeps the images of a running VM as they are."""

# What lvcreate accepts as the name of a volume (lvm(8), VALID NAMES).
_VOLUME_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,127}\Z")
_RESERVED = re.compile(
    r"_(cdata|cmeta|corig|iorig|mimage|mlog|pmspare|rimage|rmeta|tdata|tmeta|vdata|vorigin|cvol"
    r"|wcorig|imeta)"
)
_LONGEST_FILE_NAME = 255 - len(".vmkeep-new")


@dataclass(frozen=True)
class StorageWish:
    """A storage snapshot that is to exist.

    ``backend`` is auto, lvm, reflink or btrfs; ``disks`` empty means all writable ones;
    ``directory`` is for the overlays meanwhile. The space for changes of an LVM snapshot that is
    not thin is ``cow_bytes``, or ``cow_percent`` of its origin. ``freeze_timeout`` and
    ``flush_timeout`` are in seconds.
    """

    name: str
    backend: str = "auto"
    disks: tuple[str, ...] = ()
    directory: str = ""
    cow_bytes: int = 0
    cow_percent: int = 20
    quiesce: str = "preferred"
    freeze_timeout: int = 10
    flush_timeout: int = 0


def plan_storage_present(wish: StorageWish, vm: VmState) -> Plan:
    """The steps, none if the snapshot is there as asked; Conflict if it is there but differs."""
    found = vm.storage.snapshot(wish.name)
    if found:
        _check_same(wish, vm, found)
        # A merge that could not be done when it was taken is made up for.
        return plan_absent(AbsentWish(TEMPORARY), vm)
    check_snapshot_name(wish.name)
    disks = chosen(vm, wish.disks)
    if not disks:
        raise Unsupported(
            f"VM {vm.name} has no disk to take a snapshot of (CD-ROM, floppy and read-only disks"
            " are left out)",
            wanted="at least one writable disk",
        )
    copies = tuple(_copy(wish, vm, disk) for disk in disks)
    if vm.off:
        return Plan(vm.name, (SnapshotStorage(wish.name, copies),))
    return _while_running(wish, vm, disks, copies)


def plan_storage_absent(name: str, vm: VmState) -> Plan:
    """The removal of a snapshot's copies, no steps if there is none."""
    found = vm.storage.snapshot(name)
    return Plan(vm.name, (RemoveStorage(name, found.copies),) if found else ())


def _while_running(
    wish: StorageWish, vm: VmState, disks: tuple[DiskState, ...], copies: tuple[Copy, ...]
) -> Plan:
    if vm.snapshot(TEMPORARY):
        raise Conflict(
            f"VM {vm.name} has a snapshot {TEMPORARY}, which a storage snapshot has left whose"
            " journal is lost",
            wanted="to take one of that name",
            todo=f"remove it (vm_snapshot with name {TEMPORARY} and state absent)",
        )
    _check_directory(wish, vm, disks)
    freezing = SnapshotWish(
        name=TEMPORARY,
        mode="external",
        disks=tuple(disk.target for disk in disks),
        directory=wish.directory,
        quiesce=wish.quiesce,
        freeze_timeout=wish.freeze_timeout,
        flush_timeout=wish.flush_timeout,
    )
    point = plan_present(freezing, vm)
    merging = plan_absent(AbsentWish(TEMPORARY), predict(vm, point))
    # What the overlays will hold by then is not known.
    merges = (replace(s, bytes=0) if isinstance(s, CommitDisk) else s for s in merging.steps)
    copying = SnapshotStorage(wish.name, copies, frozen=TEMPORARY)
    steps: tuple[Step, ...] = (*point.steps, copying, *merges)
    return Plan(vm.name, steps, point.notes)


def _check_directory(wish: StorageWish, vm: VmState, disks: tuple[DiskState, ...]) -> None:
    devices = [d.target for d in disks if d.disk.source and d.disk.source.kind == "block"]
    if devices and not wish.directory:
        raise BadInput(
            f"VM {vm.name} is running, and its disks {', '.join(devices)} are block devices",
            wanted="a directory for the overlays that it writes to while these are copied",
            todo="set the option 'directory'",
        )


def _check_same(wish: StorageWish, vm: VmState, found: StorageSnapshot) -> None:
    differences = [*_differences(wish, found), *vm.storage.damages(found)]
    if differences:
        raise Conflict(
            f"storage snapshot {found.name} of VM {vm.name} exists but {'; '.join(differences)}",
            wanted="the snapshot as the task describes it",
            todo="choose another name, remove it first (state: absent), or correct the task",
        )


def _differences(wish: StorageWish, found: StorageSnapshot) -> Iterator[str]:
    covered = sorted(copy.target for copy in found.copies)
    if wish.disks and sorted(wish.disks) != covered:
        yield f"covers {', '.join(covered)}, not {', '.join(sorted(wish.disks))}"
    for copy in found.copies:
        if wish.backend not in ("auto", copy.backend):
            yield f"that of {copy.target} was made by {copy.backend}, not {wish.backend}"
    if wish.quiesce == "required" and found.consistency == CRASH:
        yield "is only crash-consistent, not quiesced"


def _copy(wish: StorageWish, vm: VmState, disk: DiskState) -> Copy:
    """How a disk is copied. Raises Unsupported or BadInput where that cannot be."""
    what = f"disk {disk.target} of VM {vm.name}"
    kind = kind_without_overlay(disk)
    if kind or not disk.chain or disk.chain[0].data_file:
        why = f"is a {kind}" if kind else "has a data file of its own"
        raise Unsupported(
            f"{what} {why if disk.chain else f'cannot be read: {disk.trouble}'}",
            wanted="an image that is one file or one logical volume",
            todo=disk.denied or "leave it out with the option 'disks'",
        )
    ground = vm.storage.ground(disk.target)
    device = disk.disk.source is not None and disk.disk.source.kind == "block"
    backend = wish.backend if wish.backend != "auto" else LVM if device else REFLINK
    if device != (backend == LVM):
        raise Unsupported(
            f"{what} is {disk.disk.path}, a {'block device' if device else 'file'}",
            wanted=f"a snapshot by {backend}, which is for"
            f" {'files' if device else 'logical volumes'}",
            todo="use 'backend: auto', or leave it out with the option 'disks'",
        )
    if backend == LVM:
        return _lvm(wish, what, disk, ground)
    return (
        _reflink(wish, what, disk, ground) if backend == REFLINK else _btrfs(wish, vm, disk, ground)
    )


def _reflink(wish: StorageWish, what: str, disk: DiskState, ground: Ground) -> Copy:
    image = disk.real[0]
    made = copy_file(image, wish.name)
    if len(posixpath.basename(made).encode()) > _LONGEST_FILE_NAME:
        raise BadInput(
            f"the name {posixpath.basename(made)[:60]}... for the copy of {what} is too long",
            wanted=f"at most {_LONGEST_FILE_NAME} bytes",
            todo="choose a shorter snapshot name",
        )
    return Copy(disk.target, REFLINK, image, made, made, ground.subvolume, below=ground.below)


def _btrfs(wish: StorageWish, vm: VmState, disk: DiskState, ground: Ground) -> Copy:
    what = f"disk {disk.target} of VM {vm.name}"
    _check_alone(what, disk, BTRFS)
    image = disk.real[0]
    if not ground.subvolume:
        raise Unsupported(
            f"{what} is {image}, which lies in no btrfs subvolume",
            wanted="a snapshot by btrfs",
            todo="use 'backend: auto', or move the image to a subvolume of its own",
        )
    made = copy_subvolume(ground.subvolume, file_part(vm.name), wish.name)
    if len(posixpath.basename(made).encode()) > _LONGEST_FILE_NAME:
        raise BadInput(
            f"the name {posixpath.basename(made)[:60]}... for the copy of {what} is too long",
            wanted=f"at most {_LONGEST_FILE_NAME} bytes",
            todo="choose a shorter snapshot name",
        )
    file = posixpath.join(made, posixpath.relpath(image, ground.subvolume))
    return Copy(disk.target, BTRFS, image, made, file, ground.subvolume)


def _check_alone(what: str, disk: DiskState, backend: str) -> None:
    if len(disk.chain) > 1:
        raise Unsupported(
            f"{what} stands on other images: {' <- '.join(reversed(disk.files))}",
            wanted=f"a disk of one image for a snapshot by {backend}",
            todo="merge its overlays first (vm_blockcommit)",
        )


def _lvm(wish: StorageWish, what: str, disk: DiskState, ground: Ground) -> Copy:
    _check_alone(what, disk, LVM)
    volume = ground.volume
    if volume is None or (volume.origin and not volume.thin):
        why = ground.trouble if volume is None else "it is a snapshot itself"
        raise Unsupported(
            f"{what} is {disk.disk.path}, of which LVM cannot take a snapshot: {why}",
            wanted="a logical volume, thin or not",
            todo="leave it out with the option 'disks'",
        )
    _check_path(what, disk.disk.path, volume)
    made = copy_volume(volume.name, wish.name)
    short = made.partition("/")[2]
    if not _VOLUME_NAME.match(short) or _RESERVED.search(wish.name):
        raise BadInput(
            f"the logical volume for {what} cannot be called {short}",
            wanted="1 to 127 letters, digits or any of _ . + -, and no word that LVM reserves",
            todo="choose another snapshot name",
        )
    size = 0 if volume.thin else wish.cow_bytes or volume.size * wish.cow_percent // 100
    return Copy(
        disk.target, LVM, disk.disk.path, made, f"/dev/{made}", volume.name, volume.thin, size
    )


def _check_path(what: str, path: str, volume: Volume) -> None:
    """Going back puts another device into the place, which only a name of LVM's leads to."""
    if path not in volume.paths:
        raise Unsupported(
            f"{what} is defined as {path}, which is another name of {volume.name}",
            wanted=f"one of the names that LVM keeps: {', '.join(volume.paths)}",
            todo="correct the definition (virsh edit)",
        )
