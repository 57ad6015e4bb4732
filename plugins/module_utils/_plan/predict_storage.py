# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is below the images after a step, and the picture of it that a person compares.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .._model.state import DiskState, VmState
from .._model.step import (
    RemoveStorage,
    RevertStorage,
    SnapshotStorage,
    Step,
    UnprepareRevert,
)
from .._model.storage import StorageSnapshot, StorageState


def after_storage(vm: VmState, step: Step) -> VmState:
    """The VM after a step; one that is about something else changes nothing here."""
    vm = replace(vm, storage=_storage_after(vm.storage, step))
    if not isinstance(step, RevertStorage):
        return vm
    below = {copy.target: [path for path, _stamp in copy.below] for copy in step.copies}
    disks = tuple(_standing(disk, below.get(disk.target, [])) for disk in vm.disks)
    return replace(vm, disks=disks)


def _standing(disk: DiskState, below: Sequence[str]) -> DiskState:
    """The disk on the images that its copy stands on."""
    if not below or list(disk.files[1:]) == below:
        return disk
    top = disk.chain[0]
    images = (top._replace(file=top.file._replace(filename=p, real=p)) for p in below)
    return replace(disk, chain=(top, *images))


def _storage_after(storage: StorageState, step: Step) -> StorageState:
    if isinstance(step, SnapshotStorage):
        # What it is worth only the run can tell.
        taken = StorageSnapshot(step.name, "", 0, step.copies)
        made = {thing for copy in step.copies for thing in (copy.made, copy.place)}
        snapshots = (*storage.snapshots, taken)
        return replace(storage, snapshots=snapshots, existing=storage.existing | made)
    if isinstance(step, RemoveStorage):
        left = tuple(found for found in storage.snapshots if found.name != step.name)
        at = tuple(entry for entry in storage.at if entry[1] != step.name)
        gone = {copy.made for copy in step.copies}
        return replace(storage, snapshots=left, at=at, existing=storage.existing - gone)
    if isinstance(step, RevertStorage):
        return _reverted(storage, step)
    if isinstance(step, UnprepareRevert):
        gone = {copy.new for copy in step.copies}
        return replace(storage, existing=storage.existing - gone)
    return storage


def _reverted(storage: StorageState, step: RevertStorage) -> StorageState:
    targets = {copy.target for copy in step.copies}
    before = (entry for entry in storage.at if entry[0] not in targets)
    at = tuple(sorted((*before, *((target, step.name) for target in targets))))
    gone = {thing for copy in step.copies for thing in (copy.new, copy.old)}
    there = {copy.place for copy in step.copies}
    adopted = tuple(
        replace(found, recorded=True) if found.name == step.name else found
        for found in storage.snapshots
    )
    existing = (storage.existing - gone) | there
    return replace(storage, snapshots=adopted, at=at, existing=existing)


def storage_lines(storage: StorageState) -> Iterator[str]:
    """The storage snapshots with their copies, and what the disks are known to hold."""
    if not storage.seen:
        return
    yield "  storage snapshots:" if storage.snapshots else "  storage snapshots: none"
    for found in sorted(storage.snapshots, key=lambda snapshot: snapshot.name):
        yield f"    {found.name}"
        yield from (f"      {copy.target}: {copy.made}" for copy in found.copies)
    for target, name in sorted(storage.at):
        yield f"  {target} holds what {name} holds"
