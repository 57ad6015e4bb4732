# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of the lab's virtual machines."""

from __future__ import annotations

import dataclasses
import os
import xml.etree.ElementTree as ET
from pathlib import Path

from .cache import cache_dir
from .programs import LabError, Programs

MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Disk:
    """What a disk shall be.

    `size` in MiB. `content`: "ext4" (the guest mounts it on /mnt/TARGET) or "blank".
    `layers`: images in the backing chain, the content being in the lowest.
    `backing`: an existing image to use as the base instead; `content` and `size` are its own.
    `path`: use this existing image as it is. `target`: vda, vdb, ... in order when left out.
    `readonly` disks and `device="cdrom"` are there to be left out by the code under test.
    """

    size: int = 64
    format: str = "qcow2"
    content: str = "ext4"
    layers: int = 1
    backing: str | None = None
    backing_format: str = "qcow2"
    path: str | None = None
    target: str | None = None
    device: str = "disk"
    readonly: bool = False


@dataclasses.dataclass(frozen=True)
class AttachedDisk:
    """A disk of a virtual machine as it was made; snapshots may have moved it on since."""

    target: str
    path: str
    spec: Disk


def plan_targets(disks: list[Disk]) -> list[Disk]:
    """Give a target to each disk that has none: virtio disks vda.., CD-ROMs sda.. ."""
    taken = {disk.target for disk in disks}
    result = []
    for disk in disks:
        if disk.target is None:
            prefix = "sd" if disk.device == "cdrom" else "vd"
            letters = (f"{prefix}{chr(code)}" for code in range(ord("a"), ord("z") + 1))
            target = next(name for name in letters if name not in taken)
            taken.add(target)
            disk = dataclasses.replace(disk, target=target)
        result.append(disk)
    return result


def make_disk(programs: Programs, folder: Path, disk: Disk) -> AttachedDisk:
    """Create the images of one disk in the folder; an existing `path` is used as it is."""
    if disk.target is None:
        raise LabError("plan_targets comes first")
    if disk.path is not None:
        return AttachedDisk(disk.target, disk.path, disk)
    stem = f"{folder}/{disk.target}"
    extension = "iso" if disk.device == "cdrom" else disk.format
    lower, lower_format = disk.backing, disk.backing_format
    for layer in range(disk.layers):
        top = layer == disk.layers - 1
        path = f"{stem}.{extension}" if top else f"{stem}.base{layer}.{extension}"
        if lower is None:
            _first_image(programs, path, disk)
        else:
            _overlay(programs, path, lower, lower_format)
        lower, lower_format = path, disk.format
    return AttachedDisk(disk.target, str(lower), disk)


def _overlay(programs: Programs, path: str, lower: str, lower_format: str) -> None:
    base = ("-b", lower, "-F", lower_format)
    programs.run("qemu-img", "create", "-q", "-f", "qcow2", *base, path)


def _first_image(programs: Programs, path: str, disk: Disk) -> None:
    if disk.content == "ext4" and disk.device == "disk":
        source = _ext4(programs, disk.size)
        programs.run("qemu-img", "convert", "-q", "-f", "raw", "-O", disk.format, source, path)
    else:
        programs.run("qemu-img", "create", "-q", "-f", disk.format, path, f"{disk.size}M")
    os.chmod(path, 0o600)


def _ext4(programs: Programs, size: int) -> str:
    """A raw image with an empty file system, made once per size."""
    path = cache_dir() / f"ext4-{size}"
    if not path.exists():
        scratch = cache_dir() / f".ext4-{size}.{os.getpid()}"
        with open(scratch, "wb") as file:
            file.truncate(size * MIB)
        # Everything is initialised now, so that an idle guest does not write in the background.
        options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        programs.run("mkfs.ext4", "-q", "-F", "-E", options, str(scratch))
        os.replace(scratch, path)
    return str(path)


def disk_xml(disk: AttachedDisk) -> ET.Element:
    """The <disk> element for a domain definition."""
    spec = disk.spec
    raw = spec.device == "cdrom"
    element = ET.Element("disk", type="file", device=spec.device)
    ET.SubElement(element, "driver", name="qemu", type="raw" if raw else spec.format)
    ET.SubElement(element, "source", file=disk.path)
    bus = "sata" if disk.target.startswith("sd") else "virtio"
    ET.SubElement(element, "target", dev=disk.target, bus=bus)
    if bus == "virtio":
        # The guest mounts by this name, whatever order the kernel finds the disks in.
        ET.SubElement(element, "serial").text = disk.target
    if spec.readonly or raw:
        ET.SubElement(element, "readonly")
    return element


def attached_disk(element: ET.Element) -> AttachedDisk:
    """The disk that a <disk> element describes."""
    source, target, driver = (element.find(tag) for tag in ("source", "target", "driver"))
    path = "" if source is None else source.get("file", "")
    name = "" if target is None else target.get("dev", "")
    form = "raw" if driver is None else driver.get("type", "raw")
    readonly = element.find("readonly") is not None
    device = element.get("device", "disk")
    return AttachedDisk(name, path, Disk(format=form, device=device, readonly=readonly, path=path))
