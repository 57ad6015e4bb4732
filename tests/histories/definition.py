# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people edit in the definition of a machine, to be seen in it again."""

from __future__ import annotations

import xml.etree.ElementTree as ET

CHOICES = {
    "memory": ("160", "176", "192"),
    "discard": ("unmap", "ignore"),
    "boot": ("hd", "network"),
    "drive": ("yes", "no"),
    "note": (),  # anything
}
_NOTES = "https://example.org/notes"
_DISK = "devices/disk/target[@dev='vdb']/.."
_DRIVE = "sdc"


def edits(root: ET.Element) -> dict[str, str]:
    """All that can be edited, as it is in a definition."""
    drive = root.find(f"devices/disk/target[@dev='{_DRIVE}']")
    note = root.find(f"metadata/{{{_NOTES}}}note")
    boot = root.find("os/boot")
    driver = root.find(f"{_DISK}/driver")
    return {
        "memory": str(int(root.findtext("memory", "0")) // 1024),
        "discard": "" if driver is None else driver.get("discard", ""),
        "boot": "" if boot is None else boot.get("dev", ""),
        "drive": "no" if drive is None else "yes",
        "note": "" if note is None else note.text or "",
        "description": root.findtext("description", ""),
        "serials": ",".join(disk.text or "" for disk in root.iterfind("devices/disk/serial")),
    }


def edit(root: ET.Element, what: str, value: str) -> None:
    """Change one thing, and nothing else."""
    _EDITORS[what](root, value)


def _memory(root: ET.Element, value: str) -> None:
    for tag in ("memory", "currentMemory"):
        _child(root, tag).text = str(int(value) * 1024)


def _discard(root: ET.Element, value: str) -> None:
    disk = root.find(_DISK)
    if disk is not None:
        _child(disk, "driver").set("discard", value)


def _boot(root: ET.Element, value: str) -> None:
    _child(_child(root, "os"), "boot").set("dev", value)


def _drive(root: ET.Element, value: str) -> None:
    devices = _child(root, "devices")
    for disk in devices.findall(f"disk/target[@dev='{_DRIVE}']/.."):
        devices.remove(disk)
    if value == "yes":
        drive = ET.SubElement(devices, "disk", type="file", device="cdrom")
        ET.SubElement(drive, "driver", name="qemu", type="raw")
        ET.SubElement(drive, "target", dev=_DRIVE, bus="sata")
        ET.SubElement(drive, "readonly")


def _note(root: ET.Element, value: str) -> None:
    _child(_child(root, "metadata"), f"{{{_NOTES}}}note").text = value


def _child(parent: ET.Element, tag: str) -> ET.Element:
    found = parent.find(tag)
    return ET.SubElement(parent, tag) if found is None else found


_EDITORS = {
    "memory": _memory,
    "discard": _discard,
    "boot": _boot,
    "drive": _drive,
    "note": _note,
}
