# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks of a VM go into a restore point, and which cannot.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Collection

from .._model.backup import NOT_ASKED, RestorePoint
from .._model.names import in_shell
from .._model.problem import NotFound, Unsupported
from .._model.state import DiskState, VmState
from .barred import check_transient
from .encrypted import is_sealed

# What a copy can be made of, while the VM runs and while it is off.
_FORMATS = ("qcow2", "raw")


def chosen(
    asked: Collection[str], vm: VmState
) -> tuple[tuple[DiskState, ...], tuple[tuple[str, str], ...]]:
    """The disks that go into the restore point, and the others with the reason."""
    unknown = [target for target in asked if not any(d.target == target for d in vm.writable)]
    if unknown:
        raise NotFound(
            f"VM {vm.name} has no disk {', '.join(unknown)} that a guest writes to",
            wanted=f"some of: {', '.join(disk.target for disk in vm.writable)}",
            todo="correct the option 'disks'",
        )
    found = tuple(d for d in vm.writable if not asked or d.target in asked)
    if not found:
        raise NotFound(
            f"VM {vm.name} has no disk that a guest writes to",
            wanted="a disk to back up",
            todo="leave this VM out",
        )
    others = (disk for disk in vm.disks if disk not in found)
    return found, tuple((disk.target, _why_not(disk)) for disk in others)


def _why_not(disk: DiskState) -> str:
    if disk.disk.writable:
        return NOT_ASKED
    if disk.disk.source is None:
        return f"{disk.disk.device} without a medium"
    return "read-only" if disk.disk.readonly and disk.disk.device == "disk" else disk.disk.device


def check_disk(vm: VmState, disk: DiskState) -> None:
    """Refuse by name what cannot be copied."""
    where = f"disk {disk.target} of VM {vm.name}"
    todo = "name the disks to back up with the option 'disks', without this one"
    if not disk.chain:
        raise Unsupported(
            f"{where}: {disk.trouble}", wanted="to read its images", todo=disk.denied or todo
        )
    if disk.disk.device == "lun" or disk.disk.shareable:
        kind = "is passed through as a LUN" if disk.disk.device == "lun" else "is shareable"
        raise Unsupported(f"{where} {kind}", wanted="a disk of this VM alone", todo=todo)
    check_transient(vm, (disk,), "a copy")
    if is_sealed(vm, disk):
        raise Unsupported(
            f"{where} is encrypted",
            wanted="a copy that is as safe, which libvirt's backup does not make here",
            todo=todo,
        )
    active = disk.chain[0]
    if active.format not in _FORMATS:
        raise Unsupported(
            f"{where} has the format {active.format} ({active.filename})",
            wanted=f"one of: {', '.join(_FORMATS)}",
            todo=f"convert it while the VM is off (qemu-img convert -f {active.format} -O qcow2)"
            f" and let the VM use the copy (virsh edit {in_shell(vm.name)}); or {todo}",
        )


def same_disk(disk: DiskState, point: RestorePoint, vm: VmState) -> bool:
    """Whether nothing shows that it had another name in a restore point, or that another had its.

    The bitmaps of all disks have one name, so a bitmap does not tell whose it is.
    """
    was = {stored.target: stored.source for stored in point.disks}
    others = {source for target, source in was.items() if target != disk.target}
    now = {path for other in vm.disks if other is not disk for path in other.files}
    return others.isdisjoint(disk.files) and was.get(disk.target, "") not in now


def size_of(disk: DiskState) -> int:
    """What a guest sees of it, in bytes."""
    return disk.chain[0].virtual_size or 0


def allocated(disk: DiskState) -> int:
    """What a full copy takes at most."""
    return min(size_of(disk), sum(image.actual_size for image in disk.chain))
