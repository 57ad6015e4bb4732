# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bounded reader for qcow2 images of version 2 and 3, for images that nobody vouches for.

At most 64 KiB of header and 1 MiB of each table are read. What breaks a rule of the format
raises Damaged, what this reader has not learned raises Unsupported, and nothing else is raised.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

from .image import (
    AUTOCLEAR_BITMAPS,
    Bitmap,
    Encryption,
    File,
    Header,
    Image,
    InternalSnapshot,
    Read,
    damaged,
)
from .luks import HEADER_SIZE, parse_luks
from .qcow2_header import (
    BACKING_FORMAT,
    BITMAPS,
    CRYPT_AES,
    DATA_FILE,
    FIXED,
    LUKS,
    check_features,
    end_of_names,
    holds_names,
    parse_extensions,
    parse_header,
)
from .qcow2_tables import Region, bitmap_list, check_regions, snapshot_list

FIRST_READ = 4096
_ANY_LENGTH = 1 << 65
_LUKS_POINTER = struct.Struct(">QQ")


def parse_qcow2(read: Read, file: File, format_source: str, *, tables: bool = True) -> Image:
    """Read the image in ``file``; ``tables`` False leaves snapshots and bitmaps out."""
    data = read(0, FIRST_READ)
    header, fixed, fixed_end = _fixed(data[:FIXED])
    end = end_of_names(header)
    if file.length > FIRST_READ and not holds_names(data, header):
        data = read(0, end)
    extensions = parse_extensions(data[header.header_length : header.backing_offset or end])
    check_features(header, extensions)
    regions: list[Region] = []
    encrypt = _encryption(read, header, extensions, file.length, regions)
    snapshots: tuple[InternalSnapshot, ...] = ()
    bitmaps: tuple[Bitmap, ...] = ()
    stale = BITMAPS in extensions and not header.autoclear & AUTOCLEAR_BITMAPS
    if tables and header.snapshot_count:
        snapshots = snapshot_list(read, header, file.length, regions)
    if tables and BITMAPS in extensions and not stale:
        bitmaps = bitmap_list(read, extensions[BITMAPS], header, file.length, regions)
    if regions or fixed_end > file.length:
        check_regions([*fixed, *regions], header, file.length)
    return Image(
        file,
        "qcow2",
        format_source,
        -(-header.size // 512) * 512,
        header,
        _backing_name(data, header),
        _name(extensions, BACKING_FORMAT),
        _name(extensions, DATA_FILE),
        encrypt,
        snapshots,
        bitmaps,
        stale,
    )


# The images of one host were made by few programs: most headers have been seen before.
@lru_cache(maxsize=64)
def _fixed(data: bytes) -> tuple[Header, tuple[Region, ...], int]:
    """The header in its first bytes, what every image has and where, and where that ends."""
    header = parse_header(data)
    bits = header.cluster_bits
    regions = [
        (0, 1 << bits, "header"),
        (header.refcount_offset, header.refcount_clusters << bits, "refcount table"),
    ]
    if header.l1_size:
        regions.append((header.l1_offset, header.l1_size * 8, "L1 table"))
    check_regions(regions, header, _ANY_LENGTH)
    return header, tuple(regions), max(offset + size for offset, size, owner in regions)


def _encryption(
    read: Read,
    header: Header,
    extensions: Mapping[int, bytes],
    length: int,
    regions: list[Region],
) -> Encryption | None:
    """How it is encrypted; the place of a LUKS header is added to ``regions``."""
    if not header.crypt_method:
        return None
    if header.crypt_method == CRYPT_AES:
        return Encryption("aes")
    pointer = extensions.get(LUKS, b"")
    if len(pointer) != _LUKS_POINTER.size:
        raise damaged("it is encrypted with LUKS and has no pointer to the LUKS header")
    offset, size = _LUKS_POINTER.unpack(pointer)
    regions.append((offset, size, "LUKS header"))
    return parse_luks(read(offset, HEADER_SIZE) if offset + HEADER_SIZE <= length else b"")


def _backing_name(data: bytes, header: Header) -> str | None:
    start, length = header.backing_offset, header.backing_length
    if not start or not length:
        return None
    name = data[start : start + length]
    if len(name) < length or 0 in name:
        raise damaged("its backing file name is cut off or contains a NUL byte")
    return name.decode("utf-8", "surrogateescape")


def _name(extensions: Mapping[int, bytes], kind: int) -> str | None:
    """The string in a header extension; None if there is none or it is empty."""
    field = extensions.get(kind)
    if not field:
        return None
    if 0 in field:
        raise damaged(f"header extension {kind:#010x} contains a NUL byte")
    return field.decode("utf-8", "surrogateescape")
