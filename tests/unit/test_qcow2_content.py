# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When two L1 tables prove the same content, byte by byte."""

from __future__ import annotations

import struct

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.qcow2_content import (
    PRESENT,
    flagged_entries,
    marks,
)
from images import build

COPIED = 1 << 63
L2 = 8 * build.CLUSTER


def image(
    present: list[int], kept: list[int], size: int = 64 * build.MIB, disk_size: int | None = None
) -> bytes:
    """An image of this size with one snapshot of ``disk_size``, and both L1 tables."""
    sizes = struct.pack(">QQQ", 0, size if disk_size is None else disk_size, 0)
    made = build.with_snapshot(
        build.snapshot(l1_size=len(kept), extra=sizes), size=size, l1_size=len(present)
    )
    made.parts[build.place("l1")] = struct.pack(f">{len(present)}Q", *present)
    made.parts[build.place("snapshot_l1")] = struct.pack(f">{len(kept)}Q", *kept)
    return made.build()


def reader(data: bytes):
    return lambda offset, length: data[offset : offset + length]


def same(data: bytes) -> bool:
    found = marks(reader(data), len(data), ["1"])
    return found["1"] == found[PRESENT]


@pytest.mark.parametrize(
    ("present", "kept", "expected"),
    [
        ([L2], [L2], True),
        ([L2 | COPIED], [L2], True),
        ([0], [0], True),
        ([L2], [0], False),
        ([L2], [L2 + build.CLUSTER], False),
        ([L2, 7 * L2], [L2], True),
        ([L2], [L2, 7 * L2], True),
        ([L2], [], False),
        ([0], [], True),
    ],
)
def test_same_tables_are_the_same_content(
    present: list[int], kept: list[int], expected: bool
) -> None:
    """What lies behind the disk's end in a table is saved memory; a short table ends in zeros."""
    assert same(image(present, kept)) == expected


def test_another_size_is_another_content() -> None:
    assert not same(image([L2], [L2], disk_size=32 * build.MIB))
    assert not same(image([0], [0], disk_size=128 * build.MIB))


def test_each_entry_counts() -> None:
    size = 4 * 512 * build.MIB
    table = [L2, 0, 2 * L2, 0]
    assert same(image(table, table, size))
    assert not same(image(table, [L2, 0, 2 * L2, L2], size))
    assert not same(image(table, [0, L2, 2 * L2, 0], size))


def test_only_what_was_asked_for_is_read() -> None:
    data = image([L2], [L2])
    assert marks(reader(data), len(data), []).keys() == {PRESENT}


def test_flags_that_a_snapshot_need_not_have() -> None:
    data = image([L2 | COPIED], [L2 | COPIED, 0, 3 * L2 | COPIED])
    place = build.place("snapshot_l1")
    found = flagged_entries(reader(data), len(data), "1")
    assert found == [(place, b"\0"), (place + 16, b"\0")]
    patched = bytearray(data)
    for offset, byte in found:
        patched[offset : offset + 1] = byte
    assert bytes(patched) == image([L2 | COPIED], [L2, 0, 3 * L2])
    assert flagged_entries(reader(data), len(data), "2") == []
