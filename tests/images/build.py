# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2 images byte by byte, so that any field can be wrong.

Every structure lies in the cluster that its name stands for in PLACES. Only what a reader of
metadata looks at is there: no refcounts, no data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MIB = 1 << 20
CLUSTER = 1 << 16
PLACES = ("header", "refcounts", "l1", "snapshots", "snapshot_l1", "bitmaps", "bitmap", "luks")
END, BACKING_FORMAT, FEATURES = 0, 0xE2792ACA, 0x6803F857
BITMAPS, LUKS, DATA_FILE = 0x23852875, 0x0537BE77, 0x44415441
DIRTY, CORRUPT, EXTERNAL, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))


def place(name: str) -> int:
    """The offset of a structure."""
    return PLACES.index(name) * CLUSTER


@dataclass
class Fields:
    """The header's fields; the defaults make a good image of 64 MiB."""

    magic: bytes = b"QFI\xfb"
    version: int = 3
    backing_offset: int | None = None
    backing_length: int | None = None
    cluster_bits: int = 16
    size: int = 64 * MIB
    crypt_method: int = 0
    l1_size: int = 1
    l1_offset: int = place("l1")
    refcount_offset: int = place("refcounts")
    refcount_clusters: int = 1
    snapshot_count: int = 0
    snapshot_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_length: int = 112
    compression: int = 0


@dataclass
class Bytes:
    """An image: header fields, header extensions, backing file name, and other structures."""

    fields: Fields = field(default_factory=Fields)
    extensions: list[tuple[int, bytes]] = field(default_factory=list)
    backing: bytes = b""
    parts: dict[int, bytes] = field(default_factory=dict)
    length: int = len(PLACES) * CLUSTER

    def build(self) -> bytes:
        fields = self.fields
        names = b"".join(extension(kind, data) for kind, data in self.extensions)
        names += extension(END, b"")
        start = (72 if fields.version == 2 else fields.header_length) + len(names)
        if self.backing and fields.backing_offset is None:
            fields.backing_offset, fields.backing_length = start, len(self.backing)
        image = bytearray(self.length)
        head = header(fields) + names + self.backing
        image[: len(head)] = head
        for offset, part in self.parts.items():
            image[offset : offset + len(part)] = part
        return bytes(image[: self.length])


def header(fields: Fields) -> bytes:
    first = struct.pack(
        ">4sIQIIQIIQQIIQ",
        fields.magic,
        fields.version,
        fields.backing_offset or 0,
        fields.backing_length or 0,
        fields.cluster_bits,
        fields.size,
        fields.crypt_method,
        fields.l1_size,
        fields.l1_offset,
        fields.refcount_offset,
        fields.refcount_clusters,
        fields.snapshot_count,
        fields.snapshot_offset,
    )
    if fields.version == 2:
        return first
    features = (fields.incompatible, fields.compatible, fields.autoclear)
    rest = struct.pack(">QQQII", *features, fields.refcount_order, fields.header_length)
    return first + rest + bytes([fields.compression]) + bytes(7)


def extension(kind: int, data: bytes, length: int | None = None) -> bytes:
    return struct.pack(">II", kind, len(data) if length is None else length) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def feature(kind: int, bit: int, name: str) -> bytes:
    return struct.pack(">BB46s", kind, bit, name.encode())


def snapshot(
    name: bytes = b"before-update",
    *,
    identifier: bytes = b"1",
    l1_offset: int = place("snapshot_l1"),
    l1_size: int = 1,
    extra: bytes = struct.pack(">QQQ", 7, 64 * MIB, (1 << 64) - 1),
    extra_length: int | None = None,
    name_length: int | None = None,
) -> bytes:
    """An entry of the snapshot table, taken at second 1000 after 2.5 s of running."""
    head = struct.pack(
        ">QIHHIIQII",
        l1_offset,
        l1_size,
        len(identifier),
        len(name) if name_length is None else name_length,
        1000,
        5,
        2_500_000_000,
        0,
        len(extra) if extra_length is None else extra_length,
    )
    return padded(head + extra + identifier + name)


def bitmap(
    name: bytes = b"daily",
    *,
    offset: int = place("bitmap"),
    entries: int = 1,
    flags: int = 2,
    kind: int = 1,
    granularity: int = 16,
    name_length: int | None = None,
) -> bytes:
    """An entry of the bitmap directory."""
    length = len(name) if name_length is None else name_length
    head = struct.pack(">QIIBBHI", offset, entries, flags, kind, granularity, length, 0)
    return padded(head + name)


def bitmaps(
    directory: bytes, count: int = 1, *, size: int | None = None, offset: int = place("bitmaps")
) -> bytes:
    """The bitmaps extension's data."""
    return struct.pack(">IIQQ", count, 0, len(directory) if size is None else size, offset)


def luks_header(cipher: bytes = b"aes", mode: bytes = b"xts-plain64", key_bytes: int = 64) -> bytes:
    """A LUKS 1 header with the first key slot in use."""
    head = struct.pack(
        ">6sH32s32s32sII20s32sI40s",
        b"LUKS\xba\xbe",
        1,
        cipher,
        mode,
        b"sha256",
        4040,
        key_bytes,
        b"digest",
        b"salt",
        9375,
        b"743bff93-dbf1-4604-86de-1d3cd2b490a4",
    )
    used = struct.pack(">II32sII", 0x00AC71F3, 37449, b"salt", 8, 4000)
    free = struct.pack(">II32sII", 0x0000DEAD, 0, b"", 512, 4000)
    return head + used + 7 * free


def with_snapshot(entry: bytes | None = None, count: int = 1, **fields: int) -> Bytes:
    """An image with one internal snapshot."""
    values = {"snapshot_count": count, "snapshot_offset": place("snapshots"), **fields}
    table = snapshot() if entry is None else entry
    return Bytes(Fields(**values), parts={place("snapshots"): table})


def with_bitmap(entry: bytes | None = None, pointer: bytes | None = None) -> Bytes:
    """An image with one bitmap."""
    directory = bitmap() if entry is None else entry
    found = bitmaps(directory) if pointer is None else pointer
    return Bytes(
        Fields(autoclear=1), extensions=[(BITMAPS, found)], parts={place("bitmaps"): directory}
    )


def with_luks(head: bytes | None = None, pointer: bytes | None = None) -> Bytes:
    """An image that is encrypted with LUKS."""
    found = struct.pack(">QQ", place("luks"), 4096) if pointer is None else pointer
    return Bytes(
        Fields(crypt_method=2),
        extensions=[(LUKS, found)],
        parts={place("luks"): luks_header() if head is None else head},
    )


def rich() -> Bytes:
    """An image with all that an image can have at once."""
    directory = bitmap() + bitmap(b"weekly", entries=0, flags=1)
    return Bytes(
        Fields(
            crypt_method=2,
            snapshot_count=1,
            snapshot_offset=place("snapshots"),
            incompatible=DIRTY | EXTERNAL | COMPRESSION,
            compatible=1,
            autoclear=3,
            compression=1,
        ),
        extensions=[
            (BACKING_FORMAT, b"qcow2"),
            (FEATURES, feature(0, 0, "dirty bit") + feature(0, 17, "from the future")),
            (BITMAPS, bitmaps(directory, 2)),
            (LUKS, struct.pack(">QQ", place("luks"), 4096)),
            (DATA_FILE, b"data.raw"),
            (0x12345678, b"nobody knows"),
        ],
        backing=b"base.qcow2",
        parts={
            place("snapshots"): snapshot(),
            place("bitmaps"): directory,
            place("luks"): luks_header(),
        },
    )
