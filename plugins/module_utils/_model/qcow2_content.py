# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an image provably has the content of one of its internal snapshots.

A snapshot has an L1 table of its own. Taking it or going back to it makes both tables name the
same L2 tables, and QEMU copies an L2 table before it changes anything in it. So as long as both
L1 tables say the same, nothing was written, discarded or zeroed in between. (The other way round
proves nothing: what was written may be what was there before.)

Follows QEMU's docs/interop/qcow2.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Container, Iterable

from .image import INCOMPATIBLE_DATA_FILE, Header, Read
from .qcow2_header import FIXED, parse_header
from .qcow2_tables import snapshot_entries

PRESENT = ""
"""The id of the image's present content; no snapshot has an empty one."""
# Says that an L2 table is in use once; that changes without the content.
_COPIED = 1 << 63
_OFFSET = 0x00FFFFFFFFFFFE00
_UNCOPIED = bytes(byte & 0x7F for byte in range(256))
_COMPRESSED = 1 << 62
# Of 64 KiB each: the L2 tables of 2 TiB.
_MOST_L2 = 4096
_MOST_DATA = 16 << 20


def marks(read: Read, length: int, ids: Container[str]) -> dict[str, bytes]:
    """id -> a mark of its content, for the given snapshots and for PRESENT.

    Equal marks are equal contents. ``length`` is that of the file. Raises Damaged, Unsupported.
    """
    header = parse_header(read(0, FIXED))
    entries = snapshot_entries(read, header, length, []) if header.snapshot_count else ()
    found = {PRESENT: _mark(read, header, header.l1_offset, header.l1_size, header.size)}
    for snapshot, table in entries:
        if snapshot.id in ids:
            found[snapshot.id] = _mark(read, header, table[0], table[1] // 8, snapshot.disk_size)
    return found


def flagged_entries(read: Read, length: int, tag: str) -> list[tuple[int, bytes]]:
    """(offset, new first byte) of each L1 entry of a snapshot that says "in use once".

    That is only looked at in the L1 table of the present content, and may be wrong elsewhere. But
    qemu-img copies these entries into that table when it goes back, some moments before it corrects
    them: who is killed in between leaves an image in which writing would change the snapshot, too.
    """
    header = parse_header(read(0, FIXED))
    found = []
    for snapshot, (offset, size, _owner) in snapshot_entries(read, header, length, []):
        if snapshot.id == tag:
            firsts = enumerate(read(offset, size)[::8])
            found += [(offset + 8 * n, bytes([b & 0x7F])) for n, b in firsts if b & 0x80]
    return found


def content_digest(read: Read) -> str:
    """A short digest of the present content: its L1 and L2 tables, and data that they name.

    It changes with each cluster that is allocated, zeroed or given up, and neither with bitmaps nor
    snapshots nor what the header says of the chain. With what is written in place it changes as far
    as that is read: up to 16 MiB, which is all or, of a larger image, some of each of its parts. Of
    a huge image only the L1 table counts. Raises Damaged, Unsupported.
    """
    header = parse_header(read(0, FIXED))
    first = _mark(read, header, header.l1_offset, header.l1_size, header.size)
    digest = hashlib.sha256(first)
    entries = struct.unpack(f">{-(-len(first) // 8)}Q", first + bytes(-len(first) % 8))[1:]
    offsets = [entry & _OFFSET for entry in entries if entry & _OFFSET]
    inside = not header.incompatible & INCOMPATIBLE_DATA_FILE
    share = _MOST_DATA // header.cluster_size // max(1, len(offsets)) if inside else 0
    for offset in offsets if len(offsets) <= _MOST_L2 else ():
        table = bytearray(read(offset, header.cluster_size))
        stride = 16 if header.extended_l2 else 8
        table[::stride] = table[::stride].translate(_UNCOPIED)
        digest.update(table)
        for cluster in _samples(table, stride, share):
            digest.update(read(cluster, header.cluster_size))
    return digest.hexdigest()[:16]


def _samples(table: bytearray, stride: int, share: int) -> Iterable[int]:
    """Where so many of the clusters lie that an L2 table names, spread over all of them.

    Compressed ones are never written in place.
    """
    words = struct.unpack(f">{len(table) // 8}Q", table)[:: stride // 8]
    clusters = [w & _OFFSET for w in words if w & _OFFSET and not w & _COMPRESSED]
    if len(clusters) <= share:
        return clusters
    return [clusters[n * len(clusters) // share] for n in range(share)]


def _mark(read: Read, header: Header, offset: int, entries: int, disk_size: int) -> bytes:
    """The disk's size and the L1 entries for it; what lies behind them is saved memory."""
    bits = header.cluster_bits
    of_the_disk = -(-disk_size >> 2 * bits - (4 if header.extended_l2 else 3))
    data = read(offset, min(entries, of_the_disk) * 8)
    count = len(data) // 8
    table = [entry & ~_COPIED for entry in struct.unpack_from(f">{count}Q", data)]
    return struct.pack(f">{count + 1}Q", -(-disk_size // 512), *table).rstrip(b"\0")
