# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the header of a save that libvirt has written, and ones that are damaged or made up."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Damaged
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.save import (
    COMPLETE,
    HEADER,
    LONGEST_TEXT,
    PARTIAL,
    Save,
    SavedImage,
    changes,
    parse_save,
    unproven,
)
from hypothesis import given
from hypothesis import strategies as st
from recorded import recorded_save

TEXT = recorded_save()[HEADER:]
SECOND = 10**9


def head(text: bytes = TEXT, magic: bytes = b"LibvirtQemudSave", order: str = "<") -> bytes:
    """The begin of a save; libvirt ends the definition by zero bytes."""
    numbers = struct.pack(f"{order}5I", 2, len(text) + 100, 1, 0, 0)
    return magic + numbers + bytes(HEADER - 36) + text + bytes(100)


def parsed(data: bytes) -> tuple[str, str]:
    kind, definition = parse_save(data, len(data))
    return kind, definition.name


def test_what_libvirt_wrote() -> None:
    length = struct.unpack_from("<I", recorded_save(), 20)[0]
    data = recorded_save() + bytes(length - len(TEXT))
    kind, definition = parse_save(data, len(data) + 80_000_000)
    assert kind == COMPLETE and definition.name == "saved"
    assert definition.uuid.count("-") == 4
    assert [disk.target for disk in definition.disks] == ["vda", "vdb"]
    assert all(disk.path.startswith("/lab/v/saved/") for disk in definition.disks)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_save_of_either_byte_order(order: str) -> None:
    assert parsed(head(order=order)) == (COMPLETE, "saved")


def test_a_save_that_did_not_end() -> None:
    assert parsed(head(magic=b"LibvirtQemudPart")) == (PARTIAL, "saved")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "does not begin like one"),
        (b"QFI\xfb" + bytes(200), "does not begin like one"),
        (b"libvirtqemudsave" + bytes(200), "does not begin like one"),
        (head()[:60], "ends within its header"),
        (head()[:2000], "has 2000 bytes and ends within its definition"),
        (head(b"<domain><name>x"), "definition cannot be read"),
        (head(b""), "definition cannot be read"),
        (head(b"<domain><name>x</name></domain>"), "names no VM"),
        (head(b"<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>"), "none of libvirt's"),
        (
            b"LibvirtQemudSave" + struct.pack("<2I", 2, LONGEST_TEXT + 1) + bytes(68),
            "of a definition",
        ),
    ],
)
def test_what_is_no_save(data: bytes, why: str) -> None:
    with pytest.raises(Damaged, match=why):
        parsed(data)


@given(at=st.integers(0, HEADER + 2000), byte=st.integers(0, 255))
def test_one_wrong_byte_gives_an_answer_or_an_error(at: int, byte: int) -> None:
    data = bytearray(head())
    data[at] = byte
    with contextlib.suppress(Damaged):
        parsed(bytes(data))


@given(length=st.integers(0, HEADER + len(TEXT) + 99))
def test_one_that_was_cut_off_is_an_error(length: int) -> None:
    with pytest.raises(Damaged):
        parsed(head()[:length])


# --- what was done to the disks since ---

BASE = SavedImage("vda", "/vms/base", 11, 4096, 90 * SECOND)
TOP = SavedImage("vda", "/vms/top", 12, 1024, 99 * SECOND)
SAVE = Save(
    "/vms/db.save", COMPLETE, written=100 * SECOND, images=(TOP, BASE), recorded=(TOP, BASE)
)


def told(save: Save) -> list[str]:
    return list(changes(save))


def test_nothing_was_done() -> None:
    assert told(SAVE) == [] and not unproven(SAVE)
    assert told(replace(SAVE, recorded=())) == [] and not unproven(replace(SAVE, recorded=()))


@pytest.mark.parametrize("recorded", [(TOP, BASE), ()])
def test_an_image_was_written(recorded: tuple[SavedImage, ...]) -> None:
    later = replace(BASE, written=107 * SECOND + SECOND // 2)
    save = replace(SAVE, images=(TOP, later), recorded=recorded)
    assert told(save) == ["disk vda: /vms/base was written 7.5 s after the save"]


def test_only_the_record_knows() -> None:
    """A time that was set back, a copy that was put in its place, and what has grown."""
    back = replace(TOP, written=98 * SECOND)
    assert told(replace(SAVE, images=(back, BASE))) == [
        "disk vda: /vms/top has a time that is -1.0 s off"
    ]
    copied = replace(TOP, inode=13)
    assert told(replace(SAVE, images=(copied, BASE))) == [
        "disk vda: /vms/top was replaced by another file"
    ]
    grown = replace(TOP, size=2048)
    assert told(replace(SAVE, images=(grown, BASE))) == [
        "disk vda: /vms/top has 2048 bytes instead of 1024"
    ]
    for images in ((back, BASE), (copied, BASE), (grown, BASE)):
        assert told(replace(SAVE, images=images, recorded=())) == []


def test_the_disk_stands_on_other_images() -> None:
    other = replace(TOP, path="/vms/other")
    assert told(replace(SAVE, images=(other, BASE))) == [
        "disk vda: it did not stand on /vms/other then",
        "disk vda: it stood on /vms/top then",
    ]


@pytest.mark.parametrize("recorded", [(TOP, BASE), ()])
def test_an_image_is_gone(recorded: tuple[SavedImage, ...]) -> None:
    save = replace(SAVE, images=(SavedImage("vda", TOP.path, 0), BASE), recorded=recorded)
    assert told(save) == ["disk vda: /vms/top is gone"]


def test_what_nobody_can_tell() -> None:
    assert unproven(replace(SAVE, written=0, recorded=())) == "its disks"
    assert unproven(replace(SAVE, written=0)) == ""
    assert unproven(replace(SAVE, unseen=("vdb", "vdc"))) == "disk vdb, vdc"
