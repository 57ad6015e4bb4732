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
from typing import NamedTuple

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


class _Front(NamedTuple):
    """What the fixed fields say: what every image has and where, and where that ends."""

    header: Header
    regions: tuple[Region, ...]
    end: int
    end_of_names: int


class _Named(NamedTuple):
    """What the header extensions say; ``bitmaps`` points at bitmaps that count for something."""

    extensions: Mapping[int, bytes]
    backing_format: str | None
    data_file: str | None
    bitmaps: bytes | None
    bitmaps_stale: bool


def parse_qcow2(read: Read, file: File, format_source: str, *, tables: bool = True) -> Image:
    """Read the image in ``file``; ``tables`` False leaves snapshots and bitmaps out."""
    data = read(0, FIRST_READ)
    head = data[:FIXED]
    header, fixed, fixed_end, end = _front(head)
    if file.length > FIRST_READ and not holds_names(data, header):
        data = read(0, end)
    named = _named(head, data[header.header_length : header.backing_offset or end])
    encrypt: Encryption | None = None
    snapshots: tuple[InternalSnapshot, ...] = ()
    bitmaps: tuple[Bitmap, ...] = ()
    regions: list[Region] = []
    if header.crypt_method:
        encrypt = _encryption(read, header, named.extensions, file.length, regions)
    if tables and header.snapshot_count:
        snapshots = snapshot_list(read, header, file.length, regions)
    if tables and named.bitmaps is not None:
        bitmaps = bitmap_list(read, named.bitmaps, header, file.length, regions)
    if regions or fixed_end > file.length:
        check_regions([*fixed, *regions], header, file.length)
    return Image(
        file,
        "qcow2",
        format_source,
        -(-header.size // 512) * 512,
        header,
        _backing_name(data, header),
        named.backing_format,
        named.data_file,
        encrypt,
        snapshots,
        bitmaps,
        named.bitmaps_stale,
    )


# The images of one host were made by few programs: most headers and most lists of extensions
# have been seen before. What does not differ is read and checked once.
@lru_cache(maxsize=64)
def _front(head: bytes) -> _Front:
    header = parse_header(head)
    bits = header.cluster_bits
    regions = [
        (0, 1 << bits, "header"),
        (header.refcount_offset, header.refcount_clusters << bits, "refcount table"),
    ]
    if header.l1_size:
        regions.append((header.l1_offset, header.l1_size * 8, "L1 table"))
    check_regions(regions, header, _ANY_LENGTH)
    end = max(offset + size for offset, size, owner in regions)
    return _Front(header, tuple(regions), end, end_of_names(header))


@lru_cache(maxsize=16)
def _named(head: bytes, area: bytes) -> _Named:
    header = _front(head).header
    extensions = parse_extensions(area)
    check_features(header, extensions)
    bitmaps = extensions.get(BITMAPS)
    stale = bitmaps is not None and not header.autoclear & AUTOCLEAR_BITMAPS
    return _Named(
        extensions,
        _name(extensions, BACKING_FORMAT),
        _name(extensions, DATA_FILE),
        None if stale else bitmaps,
        stale,
    )


def _encryption(
    read: Read,
    header: Header,
    extensions: Mapping[int, bytes],
    length: int,
    regions: list[Region],
) -> Encryption:
    """How it is encrypted; the place of a LUKS header is added to ``regions``."""
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
