# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory of a VM in a file, as ``virsh save`` and ``virsh managedsave`` write it.

A save goes on from the disks as they were at that moment. Whatever was written to them since, the
guest that comes back knows nothing of it and destroys its file systems.

The format is that of libvirt's QEMU driver: a header of 92 bytes in the byte order of the writer
(magic, version, length of the text, and more), then the definition of the VM, ended by a zero
byte, then the memory.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .domain import Definition, domain_from_element
from .problem import Damaged

COMPLETE, PARTIAL, FOREIGN = "complete", "partial", "foreign"
HEADER = 92
LONGEST_TEXT = 4 << 20
"""Bytes that are looked for a definition at most; libvirt leaves room of 64 KiB behind it."""

_MAGIC = {b"LibvirtQemudSave": COMPLETE, b"LibvirtQemudPart": PARTIAL}
_NEWEST_VERSION = 255


@dataclass(frozen=True)
class SavedImage:
    """An image of a disk at one moment; ``written`` is its modification time in nanoseconds.

    ``inode`` is 0 for one that is gone. (A device number may change when the host boots.)
    """

    target: str
    path: str
    inode: int
    size: int = 0
    written: int = 0


@dataclass(frozen=True)
class Save:
    """A save and what its disks are now.

    ``kind`` is complete, partial, or foreign (``trouble`` then says why it is no save). ``file``
    is '' where it is not known where libvirt keeps its managed save; ``written`` is its
    modification time in nanoseconds, 0 if unknown. ``recorded`` are the images as they were right
    after the save, if we have made it. ``unseen`` are the disks of which nobody can see whether
    they were written, such as block devices.
    """

    file: str
    kind: str
    trouble: str = ""
    definition: Definition | None = None
    written: int = 0
    images: tuple[SavedImage, ...] = ()
    recorded: tuple[SavedImage, ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The VM that it is of, as far as it can be told."""
        return self.definition.name if self.definition else ""

    def of(self, uuid: str) -> bool:
        return self.definition is not None and self.definition.uuid == uuid


@dataclass(frozen=True)
class Saves:
    """The saves of one VM: libvirt's ``managed`` one, and what stands ``at`` the path asked for.

    ``path`` is that path, '' for none; ``place`` is where libvirt would put a managed save, ''
    if that is not known. ``elsewhere`` is a file that we have saved this VM to and that it can
    still go on from, looked for only where no path was asked for.
    """

    path: str = ""
    place: str = ""
    managed: Save | None = None
    at: Save | None = None
    elsewhere: str = ""


def parse_save(head: bytes, size: int) -> tuple[str, Definition]:
    """The kind of a save (complete or partial) and its definition, from the first bytes of it.

    ``size`` is that of the file. Raises Damaged for what is no save or was cut off.
    """
    kind = _MAGIC.get(head[:16])
    if kind is None:
        raise Damaged("it does not begin like one")
    if len(head) < HEADER:
        raise Damaged("it ends within its header")
    length = _length(head)
    if length > LONGEST_TEXT:
        raise Damaged(f"its header tells of a definition of {length} bytes")
    if size < HEADER + length or len(head) < HEADER + length:
        raise Damaged(f"it has {size} bytes and ends within its definition")
    text = head[HEADER : HEADER + length].partition(b"\0")[0]
    if b"<!DOCTYPE" in text:
        raise Damaged("its definition is none of libvirt's")
    try:
        root = ET.fromstring(text)  # noqa: S314 - bounded, and without entities
    except ET.ParseError as error:
        raise Damaged(f"its definition cannot be read: {error}") from error
    definition = domain_from_element(root)
    if not definition.uuid:
        raise Damaged("its definition names no VM")
    return kind, definition


def _length(head: bytes) -> int:
    """The length of the text; the version is small in the byte order of the writer."""
    version, length = struct.unpack_from("<II", head, 16)
    if version > _NEWEST_VERSION:
        version, length = struct.unpack_from(">II", head, 16)
    return int(length)


def changes(save: Save) -> Iterator[str]:
    """In words, what was done to the disks since the save; nothing if it can go on from them."""
    before = {(image.target, image.path): image for image in save.recorded}
    for image in save.images:
        then = before.pop((image.target, image.path), None)
        if save.recorded and then is None:
            yield f"disk {image.target}: it did not stand on {image.path} then"
            continue
        told = ", ".join(_differences(save, then or image, image))
        if told:
            yield f"disk {image.target}: {image.path} {told}"
    for target, path in before:
        yield f"disk {target}: it stood on {path} then"


def moved(save: Save, now: Mapping[str, str]) -> Iterator[str]:
    """Disks that would be other ones than those that the VM is defined with now, target -> path."""
    for disk in save.definition.disks if save.definition else ():
        path = now.get(disk.target, disk.path)
        if disk.writable and path != disk.path:
            yield f"disk {disk.target}: it stood on {disk.path}, and is {path} now"


def _differences(save: Save, then: SavedImage, now: SavedImage) -> Iterator[str]:
    """What became of an image; without a record ``then`` is as now, and its time has to tell.

    With one it need not be from before the save: the clock may have been set back.
    """
    if not now.inode:
        yield "is gone"
        return
    if then.inode != now.inode:
        yield "was replaced by another file"
    seconds = (now.written - save.written) / 1e9
    as_recorded = bool(save.recorded) and then.written == now.written
    if save.written and seconds > 0 and not as_recorded:
        yield f"was written {seconds:.1f} s after the save"
    elif then.written != now.written:
        yield f"has a time that is {(now.written - then.written) / 1e9:.1f} s off"
    if then.size != now.size:
        yield f"has {now.size} bytes instead of {then.size}"


def unproven(save: Save) -> str:
    """Of which disks nobody can tell whether they were written since, '' if it can be told."""
    if not save.recorded and not save.written:
        return "its disks"
    return f"disk {', '.join(save.unseen)}" if save.unseen else ""
