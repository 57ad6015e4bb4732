# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image formats: their names, how to tell them apart, and the images that are not qcow2.

Names are QEMU's; ``iso`` is libvirt's word for what QEMU treats as raw.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .image import File, Image, Read
from .luks import HEADER_SIZE, parse_luks
from .luks import MAGIC as LUKS_MAGIC
from .problem import Problem, Unsupported
from .qcow2 import parse_qcow2
from .qcow2_header import MAGIC as QCOW_MAGIC
from .reference import shown

# Recorded by old programs for a base that is used as it stands: QEMU's protocol drivers.
RAW_ALIASES = ("file", "host_device", "host_cdrom")
# Formats that this collection knows by name only.
NAMED_ONLY = (
    "bochs",
    "cloop",
    "dmg",
    "iso",
    "parallels",
    "qcow",
    "qed",
    "vdi",
    "vhdx",
    "vmdk",
    "vpc",
)
FORMATS = ("qcow2", "raw", "luks", *NAMED_ONLY)

_MAGIC = (
    (0, QCOW_MAGIC + b"\0\0\0\1", "qcow"),
    (0, QCOW_MAGIC, "qcow2"),
    (0, LUKS_MAGIC, "luks"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
)
_ISO = (32769, b"CD001")


def probe(read: Read) -> str:
    """The format that the content looks like; raw if it looks like none.

    Whoever writes to a raw disk decides what it looks like, so this is for images that their
    owner has named and whose format nobody has recorded.
    """
    data = read(0, 128)
    for offset, magic, name in _MAGIC:
        if data.startswith(magic, offset):
            return name
    offset, magic = _ISO
    return "iso" if read(offset, len(magic)) == magic else "raw"


def parse_image(
    read: Read, file: File, image_format: str | None, source: str, *, tables: bool = True
) -> Image:
    """The image in ``file``; ``image_format`` None looks at the content (see :func:`probe`).

    ``source`` says where the format comes from (see Image). Raises Damaged and Unsupported.
    """
    try:
        if image_format is None:
            image_format, source = probe(read), "probed"
        if image_format == "qcow2":
            return parse_qcow2(read, file, source, tables=tables)
        return _plain_image(read, file, image_format, source)
    except Problem as problem:
        found = f"{shown(file.filename)}: {problem.found}"
        raise type(problem)(found, wanted=problem.wanted, todo=problem.todo) from None


def _plain_image(read: Read, file: File, image_format: str, source: str) -> Image:
    """An image that can stand on no other as far as this collection knows."""
    if image_format == "luks":
        encrypt = parse_luks(read(0, HEADER_SIZE))
        payload = max(file.length - (encrypt.payload_offset or 0), 0)
        return Image(file, "luks", source, _sectors(payload), encrypt=encrypt)
    if image_format == "raw" or image_format in RAW_ALIASES:
        return Image(file, "raw", source, _sectors(file.length))
    if image_format in NAMED_ONLY:
        size = _sectors(file.length) if image_format == "iso" else None
        return Image(file, image_format, source, size)
    raise Unsupported(
        f"it is said to have the format {shown(image_format)}",
        wanted="one of " + ", ".join(FORMATS),
    )


def _sectors(length: int) -> int:
    """``length`` as a disk: whole sectors of 512 bytes, as QEMU counts it."""
    return -(-length // 512) * 512
