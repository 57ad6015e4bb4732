# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in the way of going back to a snapshot, seen before the VM is stopped for it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.problem import Conflict, Unsupported
from .._model.snapshot import Snapshot
from .._model.state import VmState


def check_vm(vm: VmState, found: Snapshot) -> None:
    """Raise Unsupported or Conflict where the VM cannot be put back to what it was then."""
    if not vm.persistent:
        raise Unsupported(
            f"VM {vm.name} is transient: libvirt forgets it when it stops",
            wanted=f"a VM with a persistent definition to go back to snapshot {found.name}",
            todo=f"define it first (virsh dumpxml {vm.name} | virsh define /dev/stdin)",
        )
    for disk in vm.writable:
        if disk.persistent not in ("", disk.disk.path):
            raise Conflict(
                f"disk {disk.target} of VM {vm.name} runs on {disk.disk.path}, but the persistent"
                f" definition names {disk.persistent}",
                wanted="one image, so that it is known what the present state is",
                todo="correct the definition (virsh edit), or stop the VM first",
            )
    before = found.before
    known = {disk.target for disk in before.disks} if before else set()
    lost = [target for target in found.points if vm.disk(target) is None]
    if lost:
        raise Conflict(
            f"VM {vm.name} has no disk {', '.join(lost)} any more, which snapshot {found.name}"
            " covers",
            wanted="the disks that the VM had then",
            todo="attach them again first",
        )
    added = [disk.target for disk in vm.writable if disk.target not in known]
    if added:
        raise Conflict(
            f"the disks {', '.join(added)} of VM {vm.name} were attached after snapshot"
            f" {found.name} was taken",
            wanted="the disks that the VM had then",
            todo="detach them first; what is on them stays",
        )


def image_that_holds(vm: VmState, found: Snapshot, target: str) -> str:
    """The image of a disk that an internal snapshot is in; Conflict where it cannot be used."""
    disk, image = vm.disk(target), found.image_before(target)
    if disk is None or disk.depth_of(image) != 0:
        raise Conflict(
            f"the internal snapshot {found.name} of VM {vm.name} lives in {image}, which is not the"
            f" active image of disk {target}",
            wanted="the image that holds it on top",
            todo="merge the overlays above it first (vm_blockcommit)",
        )
    held = [entry.name for entry in disk.chain[0].snapshots]
    if held.count(found.name) != 1:
        raise Conflict(
            f"image {image} of VM {vm.name} holds {held.count(found.name)} snapshots {found.name}",
            wanted="just one",
            todo="look at it (qcow2_info); remove libvirt's record of a snapshot that is gone"
            " (state absent, metadata_only)",
        )
    bitmaps = [bitmap.name for bitmap in disk.chain[0].bitmaps]
    if bitmaps:
        raise Conflict(
            f"image {image} of VM {vm.name}, disk {target}, holds the dirty bitmaps"
            f" {', '.join(bitmaps)}, with which QEMU does not go back to an internal snapshot",
            wanted="an image without them",
            todo="remove the backup checkpoints first (virsh checkpoint-delete); the next backup"
            " is a full one then",
        )
    return image
