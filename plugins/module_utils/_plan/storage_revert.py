# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps bring a VM that is off back to a storage snapshot.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._model.names import in_shell
from .._model.problem import Conflict, NotFound
from .._model.state import DiskState, VmState
from .._model.step import Plan, RevertStorage
from .._model.storage import Copy, StorageSnapshot
from .stays import stays
from .users import removal_of


@dataclass(frozen=True)
class StorageRevertWish:
    """A storage snapshot that the disks are to hold; ``disks`` empty means all that it has."""

    name: str
    disks: tuple[str, ...] = ()


def plan_storage_reverted(wish: StorageRevertWish, vm: VmState) -> Plan:
    """The steps; none where it is proved that nothing was written since the disks went back."""
    found = vm.storage.snapshot(wish.name)
    if found is None:
        known = ", ".join(snapshot.name for snapshot in vm.storage.snapshots)
        raise NotFound(
            f"VM {vm.name} has no storage snapshot {wish.name}",
            wanted=f"one of: {known or '(it has none)'}",
            todo="correct the option 'name'",
        )
    if not vm.off:
        raise Conflict(
            f"VM {vm.name} is {vm.status}",
            wanted=f"a VM that is off, to bring its disks back to storage snapshot {wish.name}",
            todo=f"shut it down first (virsh shutdown {in_shell(vm.name)})",
        )
    copies = _chosen(wish, vm, found)
    todo = tuple(copy for copy in copies if (copy.target, found.name) not in vm.storage.at)
    if not todo:
        return Plan(vm.name)
    _check_whole(vm, found)
    for copy in copies:
        _check_disk(vm, found, copy)
    return Plan(vm.name, (RevertStorage(found.name, todo),), _notes(vm, found))


def _chosen(wish: StorageRevertWish, vm: VmState, found: StorageSnapshot) -> tuple[Copy, ...]:
    for target in wish.disks:
        if found.copy(target) is None:
            raise NotFound(
                f"storage snapshot {found.name} of VM {vm.name} has no disk {target}",
                wanted=f"one of: {', '.join(copy.target for copy in found.copies)}",
                todo="correct the option 'disks'",
            )
    return tuple(c for c in found.copies if not wish.disks or c.target in wish.disks)


def _check_whole(vm: VmState, found: StorageSnapshot) -> None:
    for damage in vm.storage.damages(found):
        raise Conflict(
            f"VM {vm.name} cannot go back to storage snapshot {found.name}: {damage}",
            wanted="a snapshot that is whole",
            todo="go back to another one; remove this one (state: absent)",
        )


def _notes(vm: VmState, found: StorageSnapshot) -> tuple[str, ...]:
    lost = (
        f"{vm.name}: the record of storage snapshot {found.name} is lost; its copies were found by"
        " their names"
    )
    return (*(() if found.recorded else (lost,)), *stays(vm, found.name))


def _check_disk(vm: VmState, found: StorageSnapshot, copy: Copy) -> None:
    disk = vm.disk(copy.target)
    if disk is None or not disk.chain:
        raise Conflict(
            f"VM {vm.name} has no disk {copy.target} any more, or its chain cannot be read"
            + (f": {disk.trouble}" if disk else ""),
            wanted=f"the disk that storage snapshot {found.name} is of",
            todo="attach it again, or name the other disks with the option 'disks'",
        )
    _check_stands(vm, found, copy, disk)
    _check_below(vm, found, copy)
    _check_internal(vm, found, copy)


def _check_stands(vm: VmState, found: StorageSnapshot, copy: Copy, disk: DiskState) -> None:
    """The disk must write to the very image that is replaced, and nothing must go back to it."""
    depth = disk.depth_of(copy.image)
    if depth is None:
        raise Conflict(
            f"disk {disk.target} of VM {vm.name} is on {disk.files[0]} now, and storage snapshot"
            f" {found.name} is of {copy.image}",
            wanted="the disk on that image",
            todo=f"let the definition name it again, or restore the copy by hand: {copy.file}",
        )
    if depth > 0:
        above = ", ".join(disk.files[:depth])
        raise Conflict(
            f"disk {disk.target} of VM {vm.name} is on the overlay {above} above {copy.image},"
            " which others may go back to",
            wanted=f"no overlay above the image that storage snapshot {found.name} is of",
            todo=_merging(vm, disk, depth),
        )
    for snapshot in vm.snapshots:
        if copy.target in snapshot.overlays and snapshot.image_before(copy.target) in (
            copy.image,
            disk.disk.path,
        ):
            raise Conflict(
                f"image {copy.image} of VM {vm.name}, disk {copy.target}, is what snapshot"
                f" {snapshot.name} goes back to",
                wanted="to replace it, which would destroy that snapshot",
                todo=removal_of(snapshot),
            )


def _merging(vm: VmState, disk: DiskState, depth: int) -> str:
    """What brings a disk nearer to the image that lies so deep: the newest overlay is merged."""
    for snapshot in vm.snapshots:
        if disk.files[0] in snapshot.overlays.values():
            return removal_of(snapshot)
    return f"merge them (vm_blockcommit with disks [{disk.target}] and base {disk.files[depth]})"


def _check_below(vm: VmState, found: StorageSnapshot, copy: Copy) -> None:
    """A copy of an overlay is worth something as long as what it stands on is as it was."""
    now = dict(vm.storage.below)
    for path, then in copy.below:
        known = (path, then) in vm.storage.kept
        same = known or not then or not now.get(path) or now[path] == then
        if path not in now or not same:
            raise Conflict(
                f"{path} {'was written to since' if path in now else 'is gone'}, and storage"
                f" snapshot {found.name} of VM {vm.name} needs it as it was for {copy.target}",
                wanted="the images that the disk stood on when the snapshot was taken",
                todo="bring them back first, or remove the snapshot (state: absent)",
            )


def _check_internal(vm: VmState, found: StorageSnapshot, copy: Copy) -> None:
    """What an internal snapshot holds is in the image, and would be gone with it."""
    lost = [
        snapshot.name
        for snapshot in vm.snapshots
        if snapshot.mode == "internal"
        and copy.target in {entry.target for entry in snapshot.taken}
        and snapshot.created >= found.created
    ]
    if lost:
        raise Conflict(
            f"image {copy.image} of VM {vm.name} holds the internal snapshots"
            f" {', '.join(lost)}, and storage snapshot {found.name} does not",
            wanted="to replace it, which would destroy them",
            todo="delete them first (vm_snapshot with state absent)",
        )
