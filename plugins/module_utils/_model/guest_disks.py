# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks of a VM the file systems of its guest lie on.

The agent names disks by where they are on the buses of the guest (guest-get-fsinfo), libvirt by
where it has put them. Follows https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html.

libvirt's own list (virDomainGetFSInfo) leaves out what it cannot find, so a file system on two
disks looks as if it were on one.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

# Those that lie on the disks that the agent lists and on no other. Of btrfs, for one, it lists a
# single disk, however many there are.
_PLAIN = ("ext2", "ext3", "ext4", "xfs", "vfat", "msdos", "exfat", "iso9660", "udf")
# Where an agent tells the place of each disk. Of nvme, for one, it does not tell the namespace.
_BUSES = ("virtio", "scsi", "sata", "ide")
_EXPANDERS = ("pci-expander-bus", "pcie-expander-bus")
# What a virtio disk shows of its serial number.
_SERIAL_LENGTH = 20

Address = tuple[int, ...]


def points_on(xml: str, answer: Any, targets: Collection[str]) -> tuple[str, ...] | None:
    """The mount points of what lies on these disks, sorted.

    None unless each file system of the guest can be told to lie on disks of the VM, without doubt.
    ``xml`` is the live definition, ``answer`` what the agent says, which may be anything.
    """
    root = ET.fromstring(xml)  # noqa: S314 - the daemon's own output
    disks = _told_apart(_addresses(root)) if _numbered_alike(root) else {}
    try:
        found = {str(entry["mountpoint"]): _disks_of(entry, disks) for entry in answer}
        twice = len(found) < len(answer)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None
    if twice or not found or not all(found.values()):
        return None
    return tuple(sorted(point for point, on in found.items() if on.intersection(targets)))


def _disks_of(entry: Mapping[str, Any], disks: Mapping[Address, ET.Element]) -> frozenset[str]:
    """The targets that a file system lies on, none where that is in doubt."""
    if entry["type"] not in _PLAIN:
        return frozenset()
    found = [_disk_at(place, disks) for place in entry["disk"]]
    return frozenset(found) if all(found) else frozenset()


def _disk_at(place: Mapping[str, Any], disks: Mapping[Address, ET.Element]) -> str:
    """The target of the disk at a place that the agent tells, '' where there is none."""
    pci = place["pci-controller"]
    where = tuple(int(pci[key]) for key in ("domain", "bus", "slot", "function"))
    on_bus = tuple(int(place[key]) for key in ("bus", "target", "unit"))
    kind = place["bus-type"]
    disk = disks.get(where if kind == "virtio" else where + on_bus)
    if disk is None or kind not in _BUSES or kind != _attribute(disk, "target", "bus"):
        return ""
    shown, given = str(place.get("serial", "")), disk.findtext("serial", "")
    alike = not shown or not given or given[:_SERIAL_LENGTH] in shown
    return _attribute(disk, "target", "dev") if alike else ""


def _told_apart(found: Iterable[tuple[Address, ET.Element]]) -> dict[Address, ET.Element]:
    """The disks by address, but those that differ by the target alone: some agents tell only 0."""
    places = list(found)
    seen = Counter(_without_target(place) for place, _disk in places)
    return {place: disk for place, disk in places if seen[_without_target(place)] == 1}


def _without_target(place: Address) -> Address:
    return (*place[:5], *place[6:])


def _addresses(root: ET.Element) -> Iterator[tuple[Address, ET.Element]]:
    """Where each disk is: on the PCI bus, or on the bus of a controller that is there."""
    controllers = {
        (node.get("type", ""), node.get("index", "")): node
        for node in root.iterfind("devices/controller")
    }
    for disk in root.iterfind("devices/disk"):
        address = disk.find("address")
        kind = "" if address is None else address.get("type", "")
        if address is None or kind not in ("pci", "drive"):
            continue
        if kind == "pci":
            yield _pci(address), disk
            continue
        key = (_attribute(disk, "target", "bus"), address.get("controller", ""))
        place = controllers[key].find("address") if key in controllers else None
        if place is not None and place.get("type") == "pci":
            yield _pci(place) + _numbers(address, ("bus", "target", "unit")), disk


def _numbered_alike(root: ET.Element) -> bool:
    """Whether the firmware numbers the PCI buses as libvirt: it counts them as it finds them."""
    behind: dict[int, list[tuple[Address, int]]] = {}
    for node in root.iterfind("devices/controller[@type='pci']"):
        address = node.find("address")
        if node.get("model") in _EXPANDERS:
            return False
        if address is not None:
            where = _pci(address)
            behind.setdefault(where[1], []).append((where[2:], int(node.get("index", "-1"))))
    numbers = list(_as_found(behind, 0))
    return numbers == list(range(1, len(numbers) + 1))


def _as_found(behind: Mapping[int, list[tuple[Address, int]]], bus: int) -> Iterator[int]:
    """libvirt's numbers of the buses behind one, in the order in which they are found."""
    for _where, index in sorted(behind.get(bus, [])):
        yield index
        if index > bus:
            yield from _as_found(behind, index)


def _pci(address: ET.Element) -> Address:
    return _numbers(address, ("domain", "bus", "slot", "function"))


def _numbers(address: ET.Element, names: tuple[str, ...]) -> Address:
    return tuple(int(address.get(name, "0"), 0) for name in names)


def _attribute(node: ET.Element, path: str, name: str) -> str:
    found = node.find(path)
    return "" if found is None else found.get(name, "")
