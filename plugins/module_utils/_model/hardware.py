# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices with which libvirt and QEMU do less than with others.

Follows https://libvirt.org/formatdomain.html.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from zlib import crc32

Shape = tuple[tuple[str, int], ...]

_ASIDE = ("name", "uuid", "genid", "devices", "disk", "controller", "seclabel", "resource")
_GIVEN = ("address", "alias", "seclabel")
# Of a disk what its images decide, or whoever opens a drive.
_IMAGES = ("source", "backingStore", "mirror", "encryption")
_OF_IMAGES = (("disk", "type"), ("driver", "type"), ("target", "tray"))
OF_DISK = "disk "
# Those of the host's devices whose state no QEMU can write out.
_HOST_DEVICES = ("pci", "mdev", "scsi_host")
# Those of which QEMU says that they do not support live migration, also of one that is only read
# or stood on.
_HELD_FORMATS = ("parallels", "qcow", "vdi", "vhdx", "vmdk", "vpc", "vvfat")
# It depends on the program behind it.
VIRTIOFS = "virtiofs"


def keeping_memory(root: ET.Element) -> Iterator[str]:
    """What a ``<domain>`` has whose state cannot be written, so that its memory cannot be either.

    Of a device of a network that takes the place of another (``<teaming>``) libvirt lets go itself.
    """
    for disk in root.iterfind("devices/disk"):
        yield from _of_disk(disk)
    for shmem in root.iterfind("devices/shmem"):
        if shmem.get("role") != "master":
            yield f"shared memory {shmem.get('name')}"
    for device in root.iterfind("devices/hostdev"):
        kind = device.get("type", "")
        if kind in _HOST_DEVICES and device.find("teaming") is None:
            yield f"host device of type {kind}"
    for interface in root.iterfind("devices/interface"):
        if interface.get("type") in ("hostdev", "vdpa") and interface.find("teaming") is None:
            yield f"network device of type {interface.get('type')}"
    for folder in root.iterfind("devices/filesystem"):
        if folder.find("driver[@type='virtiofs']") is not None:
            target = folder.find("target")
            yield f"{VIRTIOFS} for {target.get('dir') if target is not None else ''}"
    if _requires(root, "invtsc") and root.find("clock/timer[@name='tsc'][@frequency]") is None:
        yield "the processor feature invtsc without a frequency of its TSC"


def _requires(root: ET.Element, feature: str) -> bool:
    found = root.find(f"cpu/feature[@name='{feature}']")
    return found is not None and found.get("policy", "require") in ("require", "force")


def _of_disk(disk: ET.Element) -> Iterator[str]:
    driver, name = disk.find("driver"), _target(disk)
    if disk.find("transient") is not None:
        yield f"transient disk {name}"
    own = driver.get("type", "") if driver is not None and disk.find("source") is not None else ""
    below = (node.get("type", "") for node in disk.iterfind(".//backingStore/format"))
    for image_format in dict.fromkeys((own, *below)):
        if image_format in _HELD_FORMATS:
            yield f"disk {name} in the format {image_format}"


def shape(root: ET.Element) -> Shape:
    """What a ``<domain>`` is made of: each part with a number of its content.

    Left out are its name, the images of its disks, and what libvirt adds by itself. A disk is
    called :data:`OF_DISK` and its target.
    """
    devices = root.find("devices")
    parts = (*root, *(() if devices is None else devices))
    disks = () if devices is None else devices.findall("disk")
    return (
        *((part.tag, crc32(_text(part).encode())) for part in parts if part.tag not in _ASIDE),
        *((OF_DISK + _target(disk), crc32(_disk_text(disk).encode())) for disk in disks),
    )


def _target(disk: ET.Element) -> str:
    target = disk.find("target")
    return target.get("dev", "") if target is not None else ""


def _text(node: ET.Element) -> str:
    inner = "".join(_text(child) for child in node if child.tag not in _GIVEN)
    return _tagged(node, node.items(), inner)


def _disk_text(node: ET.Element) -> str:
    """The same of a disk, whatever its images are."""
    given = [(key, value) for key, value in node.items() if (node.tag, key) not in _OF_IMAGES]
    children = [child for child in node if child.tag not in (*_GIVEN, *_IMAGES)]
    return _tagged(node, given, "".join(map(_disk_text, children)))


def _tagged(node: ET.Element, given: Iterable[tuple[str, str]], inner: str) -> str:
    return f"<{node.tag} {sorted(given)}>{(node.text or '').strip()}{inner}"


def has_flash(root: ET.Element) -> bool:
    """Whether its firmware is in flash memory, as UEFI is, and keeps variables in a raw file."""
    system = root.find("os")
    if system is None:
        return False
    loader, nvram = system.find("loader"), system.find("nvram")
    flash = loader is not None and loader.get("type") == "pflash"
    if loader is not None and loader.get("stateless") == "yes":
        return False
    return (flash or system.get("firmware") == "efi") and (
        nvram is None or nvram.get("format", "raw") == "raw"
    )
