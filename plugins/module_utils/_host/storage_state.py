# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what is below the images of a VM: storage snapshots, volumes, subvolumes.

Never changes anything. The record tells which snapshots there are; those whose record is lost are
found by where their copies stand and by the marks they carry.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._model.names import SNAPSHOT_NAME, file_part
from .._model.problem import Unsupported
from .._model.snapshot import CRASH
from .._model.stamp import from_note, to_note, written
from .._model.state import DiskState
from .._model.step import from_dict
from .._model.storage import (
    BTRFS,
    LVM,
    REFLINK,
    Copy,
    Ground,
    StorageSnapshot,
    StorageState,
    copy_file,
    copy_subvolume,
    from_mark,
    gathered,
)
from .._model.storage_steps import RemoveStorage, SnapshotStorage, StorageStep
from .._model.volume import Volume
from .btrfs import is_subvolume, kept_in, subvolume_of
from .clone import mark_in
from .image_stamp import Glances, stamp_of
from .lvm import Lvm
from .stamp import stamp
from .storage_record import StorageRecord, read_record


def copies_of(journal: Mapping[str, Any] | None) -> tuple[Copy, ...]:
    """The copies that the steps of a journal are about."""
    steps = [from_dict(entry["step"]) for entry in journal["steps"]] if journal else []
    return tuple(copy for step in steps if isinstance(step, StorageStep) for copy in step.copies)


def read_storage(
    state_dir: str,
    vm: tuple[str, str],
    disks: Sequence[DiskState],
    journal: Mapping[str, Any] | None,
) -> StorageState:
    """What is below the disks of a VM, which is given as (UUID, name)."""
    uuid, name = vm
    record = read_record(state_dir, uuid)
    known = [*copies_of(journal), *(copy for s in record.snapshots for copy in s.copies)]
    volumes, trouble = _volumes(state_dir, known, disks)
    local = [disk for disk in disks if disk.disk.writable and disk.chain]
    grounds = tuple(_ground(disk, volumes, trouble) for disk in local)
    found = gathered(_by_name(uuid, name, local, grounds, volumes))
    recorded = {snapshot.name for snapshot in record.snapshots} | _in_the_making(journal)
    lost = tuple(snapshot for snapshot in found if snapshot.name not in recorded)
    snapshots = (*record.snapshots, *lost)
    copies = [*known, *(copy for s in lost for copy in s.copies)]
    existing = frozenset(_existing(copies, volumes))
    at, changed = tuple(_reached(record, local)), frozenset(_written(copies))
    below, kept = tuple(_under(copies)), frozenset(_kept(copies))
    return StorageState(True, snapshots, grounds, volumes, existing, at, changed, below, kept)


def stamped(copy: Copy, disks: Iterable[DiskState]) -> Copy:
    """A copy that was just made, with what tells later whether somebody wrote to it.

    And to what it stands on, as far as that is in the chains of these disks.
    """
    formats = {image.filename: image.format for disk in disks for image in disk.chain}
    below = tuple((path, _noted(path, formats.get(path, ""), then)) for path, then in copy.below)
    found = stamp_of(copy.file, "raw")
    return replace(copy, below=below, stamp=to_note([found]) if found else copy.stamp)


def _noted(path: str, image_format: str, then: str) -> str:
    """What tells of a qcow2 file whether its data are the same, though bitmaps in it are not."""
    found = stamp_of(path, image_format) if then and image_format == "qcow2" else None
    return to_note([found]) if found and found.tables else then


def _kept(copies: Iterable[Copy]) -> Iterator[tuple[str, str]]:
    """What copies say of images that they stand on, and that is true of them still."""
    glances = Glances()
    for path, then in dict.fromkeys(pair for copy in copies for pair in copy.below):
        if any(glances.seen("", stamp).written is False for stamp in from_note(then)):
            yield path, then


def _under(copies: Iterable[Copy]) -> Iterator[tuple[str, str]]:
    for path in dict.fromkeys(path for copy in copies for path, _stamp in copy.below):
        if os.path.exists(path):
            yield path, _lasting(stamp(path))


def _written(copies: Iterable[Copy]) -> Iterator[str]:
    for copy in copies:
        for then in from_note(copy.stamp):
            now = stamp_of(copy.file, "raw")
            if now and written(then, now):
                yield copy.made


def _volumes(
    state_dir: str, known: Iterable[Copy], disks: Iterable[DiskState]
) -> tuple[tuple[Volume, ...], str]:
    """All logical volumes where they matter, or why they cannot be told."""
    devices = any(disk.disk.source and disk.disk.source.kind == "block" for disk in disks)
    if not devices and not any(copy.backend == LVM for copy in known):
        return (), ""
    try:
        return Lvm(state_dir, 0).volumes(), ""
    except Unsupported:
        return (), "LVM (the package lvm2) is not installed"


def _ground(disk: DiskState, volumes: Sequence[Volume], trouble: str) -> Ground:
    below = tuple((path, _lasting(stamp(path))) for path in disk.files[1:])
    path = disk.disk.path
    if disk.disk.source is None or disk.disk.source.kind != "block":
        return Ground(disk.target, subvolume_of(path), None, below)
    volume = _volume_at(path, volumes)
    trouble = trouble or ("" if volume else "it is no logical volume")
    return Ground(disk.target, "", volume, below, trouble)


def _lasting(stamped: str) -> str:
    """A stamp that means something after the next boot, else ''."""
    return stamped if stamped.startswith("file ") else ""


def _volume_at(path: str, volumes: Iterable[Volume]) -> Volume | None:
    with contextlib.suppress(OSError):
        number = os.stat(path).st_rdev
        found = (os.major(number), os.minor(number))
        return next((volume for volume in volumes if volume.number == found), None)
    return None


def _in_the_making(journal: Mapping[str, Any] | None) -> set[str]:
    """Snapshots that a dead run was about to make or to remove: its journal knows of them."""
    steps = [from_dict(entry["step"]) for entry in journal["steps"]] if journal else []
    return {step.name for step in steps if isinstance(step, (SnapshotStorage, RemoveStorage))}


def _by_name(
    uuid: str,
    vm: str,
    disks: Sequence[DiskState],
    grounds: Sequence[Ground],
    volumes: Sequence[Volume],
) -> Iterator[StorageSnapshot]:
    """A snapshot of one copy for each that is found."""
    for volume in volumes:
        mark = volume.mark
        if mark.get("vm") == uuid and mark.keys() >= {"name", "target", "of"}:
            yield from_mark(mark, _copy_in(volume, mark, grounds))
    for disk, ground in zip(disks, grounds):
        if ground.volume is None and not ground.trouble:
            yield from _files_beside(uuid, disk, ground)
            yield from _subvolumes_of(vm, disk, ground)


def _copy_in(volume: Volume, mark: Mapping[str, str], grounds: Sequence[Ground]) -> Copy:
    origin = next((g.volume for g in grounds if g.volume and g.volume.name == mark["of"]), None)
    image = origin.paths[0] if origin else f"/dev/{mark['of']}"
    return Copy(
        mark["target"], LVM, image, volume.name, f"/dev/{volume.name}", mark["of"],
        volume.thin, 0 if volume.thin else volume.size,
    )  # fmt: skip


def _files_beside(uuid: str, disk: DiskState, ground: Ground) -> Iterator[StorageSnapshot]:
    image = disk.real[0]
    folder, base = os.path.split(image)
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(folder)):
            path = os.path.join(folder, entry)
            mark = mark_in(path) if entry.startswith(copy_file(base, "")) else {}
            named = path == copy_file(image, mark.get("name", ""))
            if named and mark.get("vm") == uuid and mark.get("consistency"):
                copy = Copy(disk.target, REFLINK, image, path, path, ground.subvolume)
                yield from_mark(mark, copy)


def _subvolumes_of(vm: str, disk: DiskState, ground: Ground) -> Iterator[StorageSnapshot]:
    """Subvolumes carry no marks, but lie where only snapshots of ours do."""
    if not ground.subvolume:
        return
    image = disk.real[0]
    inside = os.path.relpath(image, ground.subvolume)
    prefix = copy_subvolume(ground.subvolume, file_part(vm), "")
    for path in kept_in(ground.subvolume):
        name, file = path[len(prefix) :], os.path.join(path, inside)
        fits = path.startswith(prefix) and SNAPSHOT_NAME.match(name)
        if fits and is_subvolume(path) and os.path.exists(file):
            copy = Copy(disk.target, BTRFS, image, path, file, ground.subvolume)
            yield StorageSnapshot(name, CRASH, int(os.stat(path).st_ctime), (copy,), False)


def _existing(copies: Iterable[Copy], volumes: Iterable[Volume]) -> Iterator[str]:
    names = {volume.name for volume in volumes}
    for copy in copies:
        for thing in (copy.made, copy.place, copy.new, copy.old):
            is_volume = copy.backend == LVM
            if thing in names if is_volume else os.path.lexists(thing):
                yield thing


def _reached(record: StorageRecord, disks: Iterable[DiskState]) -> Iterator[tuple[str, str]]:
    names = {snapshot.name for snapshot in record.snapshots}
    for disk in disks:
        name, then = record.at.get(disk.target, ("", ""))
        if name in names and then and then == stamp(disk.disk.path):
            yield disk.target, name
