# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The definition of a restored VM, made of the one that it has or that was stored.

Follows https://libvirt.org/formatdomain.html. What a VM under another name must not share with the
one that was backed up is left out, so that libvirt chooses it anew.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import hashlib
import itertools
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from .domain import place_disks
from .firmware import set_nvram
from .problem import Damaged
from .restore import Marker, place_marker


@dataclass(frozen=True)
class Change:
    """How a definition changes. ``disks``: target to (image, format), ``dropped``: targets that go.

    ``nvram`` is the file of its firmware's variables, '' to leave that alone. ``clone`` is whether
    the VM gets a new identity; ``macs`` are the MAC addresses that no other VM may have then.
    """

    name: str
    uuid: str
    disks: Mapping[str, tuple[str, str]]
    dropped: frozenset[str] = frozenset()
    nvram: str = ""
    networks: bool = True
    clone: bool = False
    macs: frozenset[str] = field(default=frozenset())


def stored_domain(xml: str, where: str) -> ET.Element:
    """The element of a stored definition. Damaged for what libvirt never writes."""
    try:
        if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
            raise ValueError("it declares a document type")
        root = ET.fromstring(xml)  # noqa: S314 - without a document type there are no entities
        if root.tag != "domain":
            raise ValueError(f"it is a <{root.tag}>")
    except (ValueError, ET.ParseError) as error:
        raise Damaged(
            f"the definition {where} cannot be understood: {error}",
            wanted="a domain XML of libvirt",
            todo="restore from another point",
        ) from error
    return root


def restored_xml(root: ET.Element, change: Change, marker: Marker) -> str:
    """The definition as it is to be defined; ``root`` is changed."""
    root.attrib.pop("id", None)
    devices = root.find("devices")
    if devices is None:
        devices = ET.SubElement(root, "devices")
    for disk in devices.findall("disk"):
        target = disk.find("target")
        if target is not None and target.get("dev") in change.dropped:
            devices.remove(disk)
    place_disks(root, change.disks)
    if not change.networks:
        for interface in devices.findall("interface"):
            devices.remove(interface)
    _set_nvram(root, change)
    if change.clone:
        _identify(root, change)
        _detach(devices, change)
    place_marker(root, marker)
    return ET.tostring(root, encoding="unicode")


def _set_nvram(root: ET.Element, change: Change) -> None:
    """A VM under another name never shares the file; without one libvirt makes a new one."""
    if change.nvram or (change.clone and root.find("os/nvram") is not None):
        set_nvram(root, change.nvram)


def _identify(root: ET.Element, change: Change) -> None:
    for tag, value in (("name", change.name), ("uuid", change.uuid)):
        node = root.find(tag)
        if node is None:
            node = ET.SubElement(root, tag)
        node.text = value
    # libvirt refuses a UUID there that is not that of the VM.
    for system in root.iterfind("sysinfo/system"):
        for entry in system.findall("entry[@name='uuid']"):
            system.remove(entry)
    generation = root.find("genid")
    if generation is not None:
        generation.text = None


def _detach(devices: ET.Element, change: Change) -> None:
    """Nothing on the host that two VMs would get into each other's way with."""
    for backend in devices.iterfind("tpm/backend"):
        _without(backend, "source")
    fresh = new_macs(change.uuid, change.macs)
    for interface in devices.findall("interface"):
        _without(interface, "target")
        mac = interface.find("mac")
        if mac is None:
            mac = ET.SubElement(interface, "mac")
        mac.attrib = {"address": next(fresh)}
    for device in devices:
        if device.get("type") == "unix":
            _without(device, "source")
        elif device.tag in ("serial", "console", "channel", "parallel"):
            _own_file(device, change.name)
        if device.tag == "graphics":
            _free_ports(device)
        if device.tag == "vsock":
            _without(device, "cid")
            ET.SubElement(device, "cid", {"auto": "yes"})


def _without(node: ET.Element, tag: str) -> None:
    for found in node.findall(tag):
        node.remove(found)


def _own_file(device: ET.Element, name: str) -> None:
    """A file that a port or its log is written to gets the new name behind its own."""
    nodes = [*device.findall("log"), *(device.findall("source") if _is_file(device) else ())]
    for node in nodes:
        for attribute in ("file", "path"):
            if node.get(attribute):
                node.set(attribute, f"{node.get(attribute)}.{name}")


def _is_file(device: ET.Element) -> bool:
    return device.get("type") == "file"


def _free_ports(graphics: ET.Element) -> None:
    """Ports and sockets that libvirt finds when the VM starts."""
    for attribute in ("port", "tlsPort", "websocket", "socket"):
        graphics.attrib.pop(attribute, None)
    if graphics.get("type") in ("vnc", "spice", "rdp"):
        graphics.set("autoport", "yes")
    for listen in graphics.findall("listen[@type='socket']"):
        listen.attrib.pop("socket", None)


def new_macs(uuid: str, taken: Collection[str]) -> Iterator[str]:
    """MAC addresses for a VM, always the same, but for those that are taken (in lower case)."""
    for number in itertools.count():
        digest = hashlib.sha256(f"{uuid} {number}".encode()).hexdigest()
        mac = f"52:54:00:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"
        if mac not in taken:
            yield mac
