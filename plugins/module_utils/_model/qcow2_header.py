# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first cluster of a qcow2 image: its fixed fields, their limits, and the extensions.

Follows QEMU's docs/interop/qcow2 and the limits that QEMU enforces when it opens an image.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from . import image as im
from .image import Header, damaged
from .problem import Unsupported
from .reference import shown

MAGIC = b"QFI\xfb"
KNOWN_INCOMPATIBLE = (1 << 5) - 1
# The fixed fields of version 3 with the byte that says how clusters are compressed.
FIXED = 112
# Header, extensions and backing file name must fit in here, though a cluster may be larger.
HEADER_AREA = 64 << 10
MAX_EXTENSIONS = 64
MAX_BACKING_NAME = 1023
MAX_L1 = 32 << 20
MAX_REFCOUNT_TABLE = 8 << 20

END, BACKING_FORMAT, FEATURE_NAMES = 0, 0xE2792ACA, 0x6803F857
BITMAPS, LUKS, DATA_FILE = 0x23852875, 0x0537BE77, 0x44415441
CRYPT_AES, CRYPT_LUKS = 1, 2

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_LAYOUTS = {2: _V2, 3: _V3}
_EXTENSION = struct.Struct(">II")
_FEATURE = struct.Struct(">BB46s")


def parse_header(data: bytes) -> Header:
    """The fixed fields in the first 112 bytes, each within its limits.

    Raises Damaged or Unsupported.
    """
    if data[:4] != MAGIC:
        raise damaged("it does not start with the magic of qcow2", "a qcow2 image")
    version = int.from_bytes(data[4:8], "big")
    layout = _LAYOUTS.get(version)
    if layout is None:
        raise Unsupported(f"it is qcow2 of version {version}", wanted="version 2 or 3")
    if len(data) < layout.size:
        raise damaged(f"its header is cut off at {len(data)} bytes", f"{layout.size}")
    header = Header(*layout.unpack_from(data))
    if header.header_length > _V3.size and len(data) > _V3.size and data[_V3.size]:
        header = header._replace(compression=data[_V3.size])
    _check_limits(header)
    _check_places(header)
    _check_tables(header)
    return header


def _check_limits(header: Header) -> None:
    least = 14 if header.extended_l2 else 9
    if not least <= header.cluster_bits <= 21:
        raise damaged(f"cluster_bits is {header.cluster_bits}", f"{least} to 21")
    if header.refcount_order > 6:
        raise damaged(f"refcount_order is {header.refcount_order}", "at most 6")
    if header.crypt_method > CRYPT_LUKS:
        found = f"encryption method {header.crypt_method} is not known here"
        raise Unsupported(found, wanted="0 (none), 1 (AES) or 2 (LUKS)")


def _check_places(header: Header) -> None:
    """The header itself and the backing file name must not meet, nor leave the first cluster."""
    least = _LAYOUTS[header.version].size
    most = min(header.cluster_size, HEADER_AREA)
    length = header.header_length
    if not least <= length <= most or length % 8:
        raise damaged(f"header_length is {length}", f"a multiple of 8 from {least} to {most}")
    start, size = header.backing_offset, header.backing_length
    if start and (size > MAX_BACKING_NAME or not length <= start <= most - size):
        raise damaged(
            f"its backing file name has {size} bytes at {start}",
            f"at most {MAX_BACKING_NAME} bytes, from {length} to {most}",
        )


def _check_tables(header: Header) -> None:
    """The sizes of the L1 and refcount tables against QEMU's limits and against the disk's size."""
    entry_bits = 4 if header.extended_l2 else 3
    needed = -(-header.size >> 2 * header.cluster_bits - entry_bits)
    if max(header.l1_size, needed) * 8 > MAX_L1:
        raise damaged(
            f"a disk of {header.size} bytes with an L1 table of {header.l1_size} entries",
            f"at most {MAX_L1 // 8} entries",
        )
    if header.l1_size < needed:
        raise damaged(f"its L1 table has {header.l1_size} entries", f"{needed} for its size")
    size = header.refcount_clusters << header.cluster_bits
    if not 0 < size <= MAX_REFCOUNT_TABLE:
        raise damaged(f"its refcount table has {size} bytes", f"1 to {MAX_REFCOUNT_TABLE}")


def end_of_names(header: Header) -> int:
    """Where header, extensions and backing file name end at the latest."""
    if header.backing_offset:
        return header.backing_offset + header.backing_length
    return min(header.cluster_size, HEADER_AREA)


def holds_names(data: bytes, header: Header) -> bool:
    """Whether an image's first bytes ``data`` hold all extensions and the backing file name.

    Without a backing file the area for extensions is a whole cluster, of which little is used.
    """
    if header.backing_offset:
        return end_of_names(header) <= len(data)
    start = header.header_length
    while start + _EXTENSION.size <= len(data):
        kind, length = _EXTENSION.unpack_from(data, start)
        if kind == END:
            return True
        start += _EXTENSION.size + (length + 7 & ~7)
    return False


def parse_extensions(area: bytes) -> Mapping[int, bytes]:
    """The header extensions by type, those that nobody here knows included. Raises Damaged.

    ``area`` starts behind the header and ends at the backing file name or the cluster's end.
    """
    found: dict[int, bytes] = {}
    start, end = 0, len(area)
    while start + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(area, start)
        if kind == END:
            break
        start += _EXTENSION.size
        if length > end - start:
            raise damaged(f"header extension {kind:#010x} of {length} bytes is cut off")
        if kind in found or len(found) == MAX_EXTENSIONS:
            raise damaged(f"header extension {kind:#010x} is one too many")
        found[kind] = area[start : start + length]
        start += length + 7 & ~7
    return found


def check_features(header: Header, extensions: Mapping[int, bytes]) -> None:
    """Raise for a feature that is not known here, or that lacks what belongs to it."""
    bits = header.incompatible
    if bits & ~KNOWN_INCOMPATIBLE:
        raise _unknown_features(bits & ~KNOWN_INCOMPATIBLE, extensions)
    if bool(bits & im.INCOMPATIBLE_COMPRESSION) != bool(header.compression):
        raise damaged(f"compression type {header.compression} and its feature bit disagree")
    if header.compression > 1:
        found = f"compression type {header.compression} is not known here"
        raise Unsupported(found, wanted="0 (zlib) or 1 (zstd)")
    if bits & im.INCOMPATIBLE_DATA_FILE and not extensions.get(DATA_FILE):
        raise damaged("its data is in another file, which it does not name")


def _unknown_features(unknown: int, extensions: Mapping[int, bytes]) -> Unsupported:
    names = _feature_names(extensions.get(FEATURE_NAMES, b""))
    bits = [bit for bit in range(64) if unknown >> bit & 1]
    return Unsupported(
        "it uses incompatible features that are not known here: "
        + ", ".join(f"bit {bit} ({shown(names.get(bit, 'no name'))})" for bit in bits),
        todo="use a newer version of this collection, if the image can be trusted",
    )


def _feature_names(table: bytes) -> Mapping[int, str]:
    """The names of incompatible feature bits in the feature name table."""
    last = min(len(table), 256 * _FEATURE.size)
    entries = _FEATURE.iter_unpack(table[: last - last % _FEATURE.size])
    return {
        bit: name.rstrip(b"\0").decode("utf-8", "replace")
        for kind, bit, name in entries
        if kind == 0
    }
