# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points of VMs that are off, made without libvirt's backup: images by qemu-img."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import libvirt
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.digest import stored_file
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.repository import (
    folder_of,
    identity,
    read_stock,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.repository_write import (
    commit,
    create,
    new_folder,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model import backup
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stock import Stock
from lab import VM

FIRST = datetime(2026, 11, 24, 3, tzinfo=timezone.utc)


class Repository:
    """A repository of restore points; each point of a VM is a day younger than the last."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        create(str(path), "5ca1ab1e")
        self.id = identity(str(path))

    def folder(self, vm: VM) -> str:
        return folder_of(str(self.path), vm.name, vm.uuid)

    def stock(self, vm: VM) -> Stock:
        return read_stock(str(self.path), self.folder(vm))

    def image(self, vm: VM, point: backup.RestorePoint, target: str = "vda") -> Path:
        return Path(self.folder(vm)) / point.id / f"{target}.qcow2"

    def keep(self, vm: VM, *, nvram: bytes = b"", full: bool = False) -> backup.RestorePoint:
        """A restore point of a VM that is off: full the first time, then what has changed."""
        points = self.stock(vm).points
        parent = points[-1] if points and not full else None
        time = FIRST + timedelta(days=len(points))
        id = backup.id_at(time, [point.id for point in points])
        folder = new_folder(self.folder(vm), id)
        kind = backup.INCREMENTAL if parent else backup.FULL
        disks = []
        for target in vm.disks:
            self._image(vm, target, folder, parent)
            source = vm.source(target)
            form = vm.disks[target].spec.format
            size = _virtual_size(f"{folder}/{target}.qcow2")
            disks.append(backup.StoredDisk(target, f"{target}.qcow2", kind, form, size, source))
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        _write(f"{folder}/domain.xml", vm.domain.XMLDesc(flags).encode())
        names = [(disk.file, backup.IMAGE) for disk in disks] + [("domain.xml", backup.DOMAIN)]
        if nvram:
            _write(f"{folder}/nvram.fd", nvram)
            names.append(("nvram.fd", backup.NVRAM))
        stamp = backup.in_utc(time)
        point = backup.RestorePoint(
            id=id,
            vm=vm.name,
            uuid=vm.uuid,
            sequence=len(points),
            time=stamp,
            type=kind,
            reason="asked for",
            consistency="offline",
            files=tuple(stored_file(folder, name, role) for name, role in names),
            disks=tuple(disks),
            started=stamp,
            finished=stamp,
            seconds=1.0,
            parent=backup.Parent(parent.id, parent.digest) if parent else None,
        )
        return commit(self.folder(vm), point)

    def _image(self, vm: VM, target: str, folder: str, parent: backup.RestorePoint | None) -> None:
        """All of the disk, or an overlay with what differs from the parent's image."""
        path, form = f"{folder}/{target}.qcow2", vm.disks[target].spec.format
        source = ["-f", form, vm.source(target)]
        if parent is None:
            _qemu_img("convert", "-O", "qcow2", *source, path)
        else:
            base = self.image(vm, parent, target)
            # An empty overlay that is put on another base receives what the two differ in.
            _qemu_img("create", "-f", "qcow2", "-b", vm.source(target), "-F", form, path)
            _qemu_img("rebase", "-f", "qcow2", "-F", "qcow2", "-b", base, path)
            relative = os.path.relpath(base, folder)
            _qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", relative, path)
        os.chmod(path, 0o600)

    def merge(self, vm: VM, point: backup.RestorePoint) -> backup.RestorePoint:
        """Make a full point of an incremental one, but for the last renaming."""
        folder = str(self.image(vm, point).parent)
        files = []
        for file in point.files:
            if file.role == backup.IMAGE:
                path = f"{folder}/{file.name}"
                _qemu_img("convert", "-O", "qcow2", path, f"{path}.merged")
                merged = stored_file(folder, f"{file.name}.merged", file.role)
                file = dataclasses.replace(merged, name=file.name, staged=merged.name)
            files.append(file)
        disks = tuple(dataclasses.replace(disk, type=backup.FULL) for disk in point.disks)
        return self.replace(
            vm, point, files=tuple(files), disks=disks, type=backup.FULL, parent=None,
            formerly=(point.digest,),
        )  # fmt: skip

    def replace(self, vm: VM, point: backup.RestorePoint, **values: object) -> backup.RestorePoint:
        """Write another manifest in place of the one of a point."""
        return commit(self.folder(vm), dataclasses.replace(point, **values))


def _virtual_size(path: str) -> int:
    from story import qemu_img

    return int(qemu_img("info", path)["virtual-size"])


def _write(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    os.chmod(path, 0o600)


def _qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def write(path: str | Path, *commands: str, form: str = "qcow2") -> None:
    """Write to an image that no VM uses, in qemu-io's words."""
    listed = [word for command in commands for word in ("-c", f"write {command}")]
    subprocess.run(["qemu-io", "-f", form, *listed, str(path)], check=True, capture_output=True)


def same(path: str | Path, form: str, other: str | Path, other_form: str) -> bool:
    """Whether two images hold the same, with all that they stand on."""
    command = ["qemu-img", "compare", "-U", "-f", form, "-F", other_form, str(path), str(other)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def copy(path: str | Path, to: str | Path) -> Path:
    """A copy of an image file as it is."""
    subprocess.run(["cp", "--sparse=always", path, to], check=True)
    return Path(to)
