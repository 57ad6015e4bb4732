# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The snapshot table and the bitmap directory of a qcow2 image, and where its tables may lie.

Follows QEMU's docs/interop/qcow2. Both tables are lists of entries of different length; their
number and size are bounded before anything is read.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from .image import Bitmap, Header, InternalSnapshot, Read, damaged
from .problem import Unsupported
from .qcow2_header import MAX_L1
from .reference import shown

# QEMU takes 65,536 snapshots and 65,535 bitmaps in 64 MiB; nobody has that many, and reading
# them would let one image hold up a whole run.
MAX_ENTRIES = 1024
MAX_TABLE = 1 << 20
MAX_SNAPSHOT_EXTRA = 1024
MAX_NAME = 1023
MAX_BITMAP_TABLE = 0x8000000
NO_ICOUNT = (1 << 64) - 1

_SNAPSHOT = struct.Struct(">QIHHIIQII")
_BITMAPS = struct.Struct(">IIQQ")
_BITMAP = struct.Struct(">QIIBBHI")
_IN_USE, _AUTO, _EXTRA_COMPATIBLE = 1, 2, 4
_DIRTY_TRACKING = 1

# A part of the file: its offset, its length, and which structure owns it.
Region = tuple[int, int, str]


def check_regions(regions: Iterable[Region], header: Header, length: int) -> None:
    """Raise Damaged unless all lie on cluster boundaries, inside the file and apart.

    ``length`` is the length of the file.
    """
    mask = (1 << header.cluster_bits) - 1
    end, before = 0, ""
    for offset, size, owner in sorted(regions):
        if offset & mask:
            raise damaged(f"the {owner} starts at {offset}, inside a cluster")
        if offset < end:
            raise damaged(f"the {owner} at {offset} overlaps the {before}, which ends at {end}")
        end, before = offset + size, owner
        if end > length:
            found = f"the {owner} ends at {end}, the file at {length}"
            raise damaged(found, "a file that was not truncated")


def snapshot_list(
    read: Read, header: Header, length: int, regions: list[Region]
) -> tuple[InternalSnapshot, ...]:
    """The entries of the snapshot table; what it and its L1 tables take is added to ``regions``."""
    entries = snapshot_entries(read, header, length, regions)
    regions.extend(l1_table for snapshot, l1_table in entries if l1_table[1])
    return tuple(snapshot for snapshot, l1_table in entries)


def snapshot_entries(
    read: Read, header: Header, length: int, regions: list[Region]
) -> tuple[tuple[InternalSnapshot, Region], ...]:
    """Each snapshot with its L1 table; what the list of them takes is added to ``regions``."""
    count, start = header.snapshot_count, header.snapshot_offset
    _check_count(count, "internal snapshots")
    most = count * (_SNAPSHOT.size + MAX_SNAPSHOT_EXTRA + 2 * MAX_NAME + 8)
    data = _read_at(read, start, min(most, MAX_TABLE), length)
    found, position, end = [], 0, 0
    for number in range(count):
        end = position + _snapshot_size(data, position, number)
        found.append(_snapshot(data, position, header))
        position = end + 7 & ~7
    # QEMU does not pad the last entry, with which the file may end.
    regions.append((start, end, "snapshot table"))
    return tuple(found)


def _check_count(count: int, what: str) -> None:
    if count > MAX_ENTRIES:
        raise Unsupported(
            f"it claims to hold {count} {what}",
            wanted=f"at most {MAX_ENTRIES}",
            todo="delete those that are no longer needed, if the image can be trusted at all",
        )


def _snapshot_size(data: bytes, position: int, number: int) -> int:
    """How long the entry at ``position`` is, once it is sure to be complete and within limits."""
    if position + _SNAPSHOT.size > len(data):
        raise damaged(f"snapshot table entry {number} is cut off")
    fields = _SNAPSHOT.unpack_from(data, position)
    l1_size, id_length, name_length, extra = fields[1], fields[2], fields[3], fields[8]
    lengths = (extra, id_length, name_length, l1_size * 8)
    limits = (MAX_SNAPSHOT_EXTRA, MAX_NAME, MAX_NAME, MAX_L1)
    if any(found > limit for found, limit in zip(lengths, limits)):
        raise damaged(
            f"snapshot table entry {number} has extra data, id, name and L1 table of"
            f" {lengths} bytes",
            f"at most {limits}",
        )
    if not id_length:
        raise damaged(f"snapshot table entry {number} has no id")
    size: int = _SNAPSHOT.size + extra + id_length + name_length
    if position + size > len(data):
        raise damaged(f"snapshot table entry {number} is cut off")
    return size


def _snapshot(data: bytes, position: int, header: Header) -> tuple[InternalSnapshot, Region]:
    fields = _SNAPSHOT.unpack_from(data, position)
    l1_offset, l1_size, id_length, name_length, sec, nsec, clock, vm_state, extra_length = fields
    extra = position + _SNAPSHOT.size
    identifier = extra + extra_length
    name = identifier + id_length
    # Extra data grew over time; what is not there has the value that it had before it existed.
    large, disk_size, icount = _extra(data[extra:identifier])
    snapshot = InternalSnapshot(
        id=_text(data[identifier:name]),
        name=_text(data[name : name + name_length]),
        vm_state_size=vm_state if large is None else large,
        date_sec=sec,
        date_nsec=nsec,
        vm_clock_sec=clock // 10**9,
        vm_clock_nsec=clock % 10**9,
        icount=None if icount == NO_ICOUNT else icount,
        disk_size=header.size if disk_size is None else disk_size,
    )
    return snapshot, (l1_offset, 8 * l1_size, f"L1 table of snapshot {shown(snapshot.id)}")


def _extra(data: bytes) -> tuple[int | None, int | None, int | None]:
    values = [int.from_bytes(data[at : at + 8], "big") for at in range(0, min(len(data), 24), 8)]
    known: list[int | None] = [*values[: len(data) // 8], None, None, None]
    return known[0], known[1], known[2]


def bitmap_list(
    read: Read, extension: bytes, header: Header, length: int, regions: list[Region]
) -> tuple[Bitmap, ...]:
    """The bitmaps that the extension points to; what they take is added to ``regions``."""
    if len(extension) != _BITMAPS.size:
        raise damaged(f"its bitmaps extension has {len(extension)} bytes", f"{_BITMAPS.size}")
    count, reserved, size, start = _BITMAPS.unpack(extension)
    _check_count(count, "bitmaps")
    if reserved or not count or not count * _BITMAP.size <= size <= MAX_TABLE:
        raise damaged(f"its directory of {count} bitmaps has {size} bytes")
    data = _read_at(read, start, size, length)
    regions.append((start, size, "bitmap directory"))
    found, position = [], 0
    for number in range(count):
        position, bitmap, table = _bitmap(data, position, number)
        _check_coverage(bitmap, table[1] // 8, header)
        found.append(bitmap)
        if table[1]:
            regions.append(table)
    if position != size:
        raise damaged(f"its {count} bitmaps take {position} bytes", f"{size} bytes")
    return tuple(found)


def _bitmap(data: bytes, position: int, number: int) -> tuple[int, Bitmap, Region]:
    """Where the next directory entry starts, the bitmap of this one, and where its table lies."""
    start = position + _BITMAP.size
    if start > len(data):
        raise damaged(f"bitmap {number} is cut off")
    fields = _BITMAP.unpack_from(data, position)
    offset, entries, flags, kind, granularity, name_length, extra = fields
    end = start + extra + name_length
    if end > len(data):
        raise damaged(f"bitmap {number} is cut off")
    if not (0 < name_length <= MAX_NAME and 9 <= granularity <= 31):
        raise damaged(
            f"bitmap {number} has a name of {name_length} bytes and granularity 2^{granularity}",
            f"1 to {MAX_NAME} bytes and 2^9 to 2^31",
        )
    if entries * 8 > MAX_BITMAP_TABLE:
        raise damaged(f"bitmap {number} has a table of {entries * 8} bytes", f"{MAX_BITMAP_TABLE}")
    if kind != _DIRTY_TRACKING or flags & ~(_IN_USE | _AUTO | _EXTRA_COMPATIBLE):
        raise Unsupported(f"bitmap {number} has type {kind} and flags {flags:#x}")
    names = tuple(name for bit, name in ((_IN_USE, "in-use"), (_AUTO, "auto")) if flags & bit)
    bitmap = Bitmap(_text(data[start + extra : end]), 1 << granularity, names)
    return end + 7 & ~7, bitmap, (offset, entries * 8, f"table of bitmap {number}")


def _check_coverage(bitmap: Bitmap, clusters: int, header: Header) -> None:
    """A bitmap that is too short would make the next backup miss blocks."""
    covered = (clusters << header.cluster_bits + 3) * bitmap.granularity
    if not bitmap.inconsistent and covered < header.size:
        raise damaged(f"bitmap {shown(bitmap.name)} covers {covered} bytes", f"{header.size}")


def _read_at(read: Read, start: int, size: int, length: int) -> bytes:
    """Up to ``size`` bytes, fewer where the file ends."""
    return read(start, min(size, length - start)) if start < length else b""


def _text(field: bytes) -> str:
    return field.decode("utf-8", "surrogateescape")
