# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing bitmaps whose checkpoints libvirt has lost.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, NamedTuple

from .._model.backup_steps import RemoveBitmap
from .._model.domain import parse_domain
from .connection import call
from .image_bitmaps import remove_bitmap
from .libvirt_dep import libvirt
from .monitor import block_nodes

if TYPE_CHECKING:
    from .libvirt_dep import Domain


class Held(NamedTuple):
    """A bitmap in QEMU: whether it is to be kept in the image, and was not when QEMU last died."""

    image: str
    name: str
    lasting: bool
    broken: bool


def in_qemu(dom: Domain) -> tuple[Held, ...]:
    """The bitmaps that a running QEMU holds.

    Nothing where that is not answered: what is in the tables of the images is known nevertheless.
    """
    return tuple(
        Held(
            node["file"],
            bitmap.get("name", ""),
            bool(bitmap.get("persistent")),
            bool(bitmap.get("inconsistent")),
        )
        for node in block_nodes(dom)
        if node.get("drv") == "qcow2"
        for bitmap in node.get("dirty-bitmaps", ())
    )


def remove(dom: Domain, step: RemoveBitmap) -> None:
    """Remove it from each image. While the VM runs, only QEMU can, and libvirt has it do so.

    libvirt removes a bitmap with its checkpoint, so it gets one for it first. That has a name of
    its own, so what a run leaves that dies here is a checkpoint that no restore point needs.
    """
    doing = f"VM {dom.name()}: removing the bitmap {step.name}"
    for target, image in step.disks:
        if not call(doing, dom.isActive):
            remove_bitmap(image, step.name)
            continue
        flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
        made = call(doing, dom.checkpointCreateXML, _record(dom, step.name, target), flags)
        call(doing, made.delete, 0)


def remove_rest(dom: Domain, name: str) -> None:
    """Remove a bitmap from the active images of a running VM that hold it, one by one."""
    holding = {held.image for held in in_qemu(dom) if held.name == name}
    disks = parse_domain(call(f"reading VM {dom.name()}", dom.XMLDesc, 0)).disks
    active = tuple((disk.target, disk.path) for disk in disks if disk.path in holding)
    remove(dom, RemoveBitmap(name, active))


def _record(dom: Domain, bitmap: str, target: str) -> str:
    xml = call(f"reading VM {dom.name()}", dom.XMLDesc, 0)
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = f"{bitmap}-lost-{target}"
    ET.SubElement(root, "creationTime").text = "1"
    disks = ET.SubElement(root, "disks")
    for disk in parse_domain(xml).disks:
        entry = ET.SubElement(disks, "disk", name=disk.target, checkpoint="no")
        if disk.target == target:
            entry.attrib.update(checkpoint="bitmap", bitmap=bitmap)
    root.append(ET.fromstring(xml))  # noqa: S314 - the daemon's own output
    return ET.tostring(root, encoding="unicode")
