# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in the way of going back to a snapshot, seen before the VM is stopped for it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .._model.image import Image, InternalSnapshot
from .._model.names import in_shell
from .._model.problem import Conflict, NotFound, Unsupported
from .._model.reference import shown
from .._model.snapshot import Snapshot
from .._model.state import VmState
from .damage import damages, way_on
from .revert_disks import is_same
from .users import removal_of


def check_vm(vm: VmState, found: Snapshot) -> None:
    """Raise Unsupported or Conflict where the VM cannot be put back to what it was then."""
    if not vm.persistent:
        raise Unsupported(
            f"VM {vm.name} is transient: libvirt forgets it when it stops",
            wanted=f"a VM with a persistent definition to go back to snapshot {found.name}",
            todo=f"define it first (virsh dumpxml {in_shell(vm.name)} | virsh define /dev/stdin)",
        )
    for disk in vm.writable:
        if disk.persistent not in ("", disk.disk.path):
            raise Conflict(
                f"disk {disk.target} of VM {vm.name} runs on {disk.disk.path}, but the persistent"
                f" definition names {disk.persistent}",
                wanted="one image, so that it is known what the present state is",
                todo="correct the definition (virsh edit), or stop the VM first",
            )


def check_whole(vm: VmState, found: Snapshot) -> None:
    """Raise Conflict where the snapshot has lost something."""
    lost = tuple(damages(vm, found))
    if lost:
        raise Conflict(
            f"VM {vm.name} cannot go back to snapshot {found.name}: {'; '.join(lost)}",
            wanted="a snapshot that is whole",
            todo=way_on(vm, found),
        )


def image_that_holds(vm: VmState, found: Snapshot, target: str) -> str:
    """The image of a disk that an internal snapshot is in; Conflict where it cannot be used."""
    image = found.image_before(target)
    active = _active(vm, found, target, image)
    held = [entry.name for entry in active.snapshots]
    if held.count(found.name) != 1:
        raise Conflict(
            f"image {image} of VM {vm.name} holds {held.count(found.name)} snapshots {found.name}",
            wanted="just one",
            todo="look at it (qcow2_info); remove libvirt's record of a snapshot that is gone"
            " (state absent, metadata_only)",
        )
    _check_no_id(vm, found, image, active.snapshots)
    _check_no_point(vm, target, image, f"which holds the internal snapshot {found.name},")
    return image


def check_attached(vm: VmState, found: Snapshot, attached: Iterable[tuple[str, str]]) -> None:
    """Raise Conflict where a disk that the snapshot leaves out is the point of another one."""
    for target, image in attached:
        _check_no_point(vm, target, image, f"which snapshot {found.name} leaves out,")


def _check_no_point(vm: VmState, target: str, image: str, which: str) -> None:
    """The guest would write to the image, which another branch may go back to as it is."""
    disk = vm.disk(target)
    for other in vm.snapshots if disk is None or disk.depth_of(image) != 0 else ():
        point = other.points.get(target, "")
        if image in (point, *(below.filename for below in vm.chain_of(point))):
            raise Conflict(
                f"image {image} of VM {vm.name}, disk {target}, {which} is what snapshot"
                f" {other.name} goes back to{'' if point == image else ' or stands on'}",
                wanted="to let the VM write to it, which would destroy that snapshot",
                todo=removal_of(other),
            )


def _active(vm: VmState, found: Snapshot, target: str, image: str) -> Image:
    """The image: that of the disk, of another branch, or of a disk that has left the VM."""
    disk, then = vm.disk(target), found.before.disk(target) if found.before else None
    if disk is not None and then is not None and is_same(vm, disk, then):
        depth = disk.depth_of(image)
        if depth == 0:
            return disk.chain[0]
        if depth is not None:
            raise Conflict(
                f"the internal snapshot {found.name} of VM {vm.name} lives in {image}, which is not"
                f" the active image of disk {target}",
                wanted="the image that holds it on top",
                todo="merge the overlays above it first (vm_blockcommit with"
                f" 'disks: [{target}]' and 'base: {image}')",
            )
    chain = vm.chain_of(image)
    if not chain:
        gone = "is gone" if image in vm.missing else "cannot be read"
        raise NotFound(
            f"image {image}, which holds snapshot {found.name} of disk {target} of VM {vm.name},"
            f" {gone}",
            wanted="every image that the VM had then",
            todo="bring it back to that place; or go back to another snapshot",
        )
    return chain[0]


def _check_no_id(
    vm: VmState, found: Snapshot, image: str, held: Sequence[InternalSnapshot]
) -> None:
    """QEMU looks for a snapshot of that id first, and only then for one of that name."""
    meant = [each.id for each in held if each.name == found.name]
    other = [each.name for each in held if each.id == found.name and each.name != found.name]
    if other:
        raise Conflict(
            f"QEMU would take the name of snapshot {found.name} for the id of another one in"
            f" {image} of VM {vm.name}, {shown(other[0])}, and go back to that",
            wanted="a snapshot that it can tell from all others",
            todo=f"switch the VM off and bring its image back by the id (qcow2_snapshot with id"
            f" {', '.join(meant)} and state applied); the memory of then is not used so",
        )
