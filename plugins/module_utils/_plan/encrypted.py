# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What would write the data of an encrypted disk in the clear is refused.

An overlay that libvirt or qemu-img makes is plain. A disk is encrypted where its definition has a
key for it, or a qcow2 image of its chain says so. A raw image that only begins like LUKS is
encrypted by the guest itself, which writes nothing in the clear to an overlay either.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable

from .._model.image import Image
from .._model.problem import Unsupported
from .._model.snapshot import CHECKPOINT
from .._model.state import DiskState, VmState

_BY_STORAGE = "switch the VM off and let the storage copy it (vm_storage_snapshot)"


def sealed(vm: VmState, images: Iterable[Image]) -> tuple[str, ...]:
    """Those of the images that are encrypted."""
    definitions = (vm.live, *(found.before for found in vm.snapshots if found.before))
    known = {path for d in definitions for disk in d.disks for path in disk.encrypted}
    return tuple(
        image.filename
        for image in images
        if image.encrypted or known.intersection((image.filename, image.file.real))
    )


def is_sealed(vm: VmState, disk: DiskState) -> bool:
    """Whether anything of a disk is encrypted, whether or not its images can be read."""
    return bool(disk.disk.encrypted or sealed(vm, disk.chain))


def check_overlay(vm: VmState, disk: DiskState, kind: str) -> None:
    """Raise Unsupported where the plain overlay of a snapshot would stand on an encrypted image."""
    if is_sealed(vm, disk):
        without = "" if kind == CHECKPOINT else "leave it out with the option 'disks'; or "
        raise _in_the_clear(vm, disk.target, without + _BY_STORAGE)


def check_kept(vm: VmState) -> None:
    """The same for the snapshot of all disks that keeps the present state before going back."""
    for disk in vm.writable:
        if is_sealed(vm, disk):
            todo = (
                "take a snapshot of the other disks first (vm_snapshot with 'disks'), then go back"
                " without 'keep_current'"
            )
            raise _in_the_clear(vm, disk.target, todo)


def check_point(vm: VmState, target: str, chain: Iterable[Image], name: str) -> None:
    """The same for the overlay by which a VM would be brought back to snapshot ``name``."""
    if sealed(vm, chain):
        raise _in_the_clear(
            vm,
            target,
            f"remove snapshot {name} while the VM runs (state: absent), which merges what was"
            " written since into the encrypted image",
        )


def _in_the_clear(vm: VmState, target: str, todo: str) -> Unsupported:
    return Unsupported(
        f"disk {target} of VM {vm.name} is encrypted, and an overlay on it would hold what the"
        " guest writes in the clear",
        wanted="data that was encrypted to stay so",
        todo=todo,
    )


def check_memory(vm: VmState, *, inside: bool = False) -> None:
    """Raise Unsupported where the memory would be written beside encrypted disks.

    ``inside``: into the images. QEMU takes the first, and dies if that is an encrypted one (seen
    with QEMU 7.2).
    """
    locked = [disk.target for disk in vm.disks if is_sealed(vm, disk)]
    if locked:
        without = (
            "use 'mode: external' without memory and without that disk"
            if inside
            else ("leave out the memory")
        )
        raise Unsupported(
            f"disk {', '.join(locked)} of VM {vm.name} is encrypted, and its memory, which holds"
            " what the guest has read of it, would be written in the clear",
            wanted="data that was encrypted to stay so",
            todo=f"{without}; or {_BY_STORAGE}",
        )


def in_memory(vm: VmState) -> tuple[str, ...]:
    """A note for a save of the memory, which is asked for as such, and goes with its next start."""
    locked = [disk.target for disk in vm.disks if is_sealed(vm, disk)]
    return (
        (
            f"{vm.name}: disk {', '.join(locked)} is encrypted; what the guest has read of it is in"
            " the saved memory in the clear",
        )
        if locked
        else ()
    )


def check_merged(vm: VmState, disk: DiskState, leaving: Iterable[Image], into: Image) -> None:
    """Raise Unsupported where encrypted images would be merged into one that is not."""
    found = sealed(vm, leaving)
    receives = sealed(vm, (into,))
    if found and not receives:
        raise Unsupported(
            f"{', '.join(found)} of VM {vm.name}, disk {disk.target}, is encrypted, and"
            f" {into.filename} is not",
            wanted="to merge the one into the other, which would write its data in the clear",
            todo="choose images that are all encrypted, or leave the disk out with the option"
            " 'disks'",
        )
    if receives:
        check_outside(vm, disk, "to merge its images")


def check_inside(vm: VmState, disk: DiskState) -> None:
    """Raise Unsupported where an encrypted image was to hold an internal snapshot.

    While the VM is off libvirt gives qemu-img no key; for one that runs see check_memory.
    """
    if vm.off and is_sealed(vm, disk):
        raise _no_key(vm, disk, "an internal snapshot of it", _BY_STORAGE)


def check_outside(vm: VmState, disk: DiskState, doing: str) -> None:
    """Raise Unsupported where qemu-img would have to open an encrypted image for a VM that is off.

    libvirt gives it no key: to go back fails then, and to delete only seems to succeed.
    """
    if vm.off and is_sealed(vm, disk):
        raise _no_key(
            vm, disk, f"{doing}, which the QEMU that runs the VM can do", "start it first"
        )


def _no_key(vm: VmState, disk: DiskState, wanted: str, todo: str) -> Unsupported:
    return Unsupported(
        f"disk {disk.target} of VM {vm.name} is encrypted, and the VM is off: libvirt gives"
        " qemu-img no key",
        wanted=wanted,
        todo=todo,
    )
