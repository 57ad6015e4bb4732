# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is recorded of an image that must not be written to, and what it tells of real images."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_stamp import (
    read_seen,
    stamp_inside,
    stamp_of,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    CRASH,
    noted,
    parse_snapshot,
    read_more,
    read_note,
    rewritten,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stamp import (
    Stamp,
    from_note,
    tables_differ,
    to_note,
    written,
)
from builders import snapshot
from hypothesis import given
from hypothesis import strategies as st
from recorded import recorded

NOW = 1_700_000_000_123_456_789
THEN = Stamp("/vms/a.qcow2", 1000, NOW, 77, tables="abcd", backing="base.qcow2")
RAW = Stamp("/vms/a.raw", 1000, NOW, 77)
DEVICE = Stamp("/dev/vg/a", counted="device boot 5 10 20 0 0")

# --- the record ---

texts = st.text(st.characters(exclude_categories=["Cs"]))
stamps = st.builds(
    Stamp,
    texts,
    *[st.integers(0, 1 << 63)] * 3,
    texts,
    st.text("0123456789abcdef", max_size=16),
    texts,
    st.booleans(),
)


@given(st.lists(stamps))
def test_stamps_are_kept_in_the_note_of_a_snapshot(found):
    stored = noted("for the upgrade", CRASH, {"kind": "checkpoint", "stamps": to_note(found)})
    assert read_note(stored) == ("for the upgrade", CRASH)
    more = read_more(stored)
    assert from_note(more.get("stamps", "")) == tuple(found)
    assert more["kind"] == "checkpoint"


@pytest.mark.parametrize("word", ["", "x", "a:b:c", "/a:1:2:x:::::", "/a:1:2:3:4:5:6:7:8:9", ",,"])
def test_what_is_not_understood_is_left_out(word):
    assert from_note(word) == ()


def test_a_correction_of_the_record_keeps_them_and_can_replace_them():
    xml = rewritten(recorded("snapshot/external-memory.xml"), {}, stamps=to_note([THEN, RAW]))
    assert parse_snapshot(xml).stamps == (THEN, RAW)
    assert parse_snapshot(rewritten(xml, {}, files={"vda": "/x.qcow2"})).stamps == (THEN, RAW)
    assert parse_snapshot(rewritten(xml, {}, stamps="")).stamps == ()
    foreign = recorded("snapshot/by-virsh.xml")
    assert parse_snapshot(rewritten(foreign, {}, stamps=to_note([THEN]))).stamps == ()


# --- the rules ---


@pytest.mark.parametrize(
    ("then", "changes", "verdict"),
    [
        (THEN, {}, False),
        (RAW, {"time": NOW + 1}, True),
        (RAW, {"time": NOW - 1}, True),  # an older version was put in its place
        (RAW, {"size": 2000}, True),  # in a moment that the file system cannot tell from the first
        (RAW, {"inode": 78}, False),  # cp -a
        (RAW, {"inode": 78, "size": 900}, False),  # converted, and given its time back
        (RAW, {"inode": 78, "time": NOW // 10**9 * 10**9}, False),  # by tar
        (RAW, {"inode": 78, "time": NOW + 10**9}, True),
        (THEN, {"time": NOW + 1}, True),
        (THEN, {"time": NOW + 1, "inode": 78}, None),  # cp
        (THEN, {"time": NOW - 1, "inode": 78}, True),  # an older version was put in its place
        (THEN, {"time": NOW + 1, "loose": True}, None),
        (replace(THEN, loose=True), {"time": NOW + 1}, None),
        (replace(THEN, loose=True), {"time": NOW - 1}, True),
        (THEN, {"time": NOW - 1, "inode": 78, "backing": "other.qcow2"}, True),
        (THEN, {"time": NOW + 1, "backing": "other.qcow2"}, None),  # qemu-img rebase -u
        (DEVICE, {}, False),
        (DEVICE, {"counted": "device boot 5 11 28 0 0"}, True),
        (DEVICE, {"counted": "device boot 5 10 20 1 8"}, True),
        (DEVICE, {"counted": "device boot 5 11 20 0 0"}, False),  # made to write out
        (DEVICE, {"counted": "device boot 6 0 0 0 0"}, None),
        (DEVICE, {"counted": "device later 5 10 20 0 0"}, None),
        (DEVICE, {"counted": "device"}, None),
        (replace(DEVICE, loose=True), {"counted": "device boot 5 11 28 0 0"}, None),
        (DEVICE, {"counted": "", "time": NOW}, None),  # moved into a file
    ],
)
def test_what_two_looks_tell(then, changes, verdict):
    assert written(then, replace(then, **changes)) is verdict


def test_tables_tell_where_both_are_known():
    assert tables_differ(THEN, THEN) is False
    assert tables_differ(THEN, replace(THEN, tables="ef")) is True
    assert tables_differ(THEN, RAW) is None and tables_differ(RAW, THEN) is None


# --- real images ---


def run(*line: object) -> None:
    subprocess.run([str(word) for word in line], check=True, capture_output=True)


def qemu_io(path: Path, *commands: str) -> None:
    options = [word for command in commands for word in ("-c", command)]
    run("qemu-io", "-f", path.suffix[1:], *options, path)


@pytest.fixture(params=[(), ("-o", "extended_l2=on"), ("-o", "cluster_size=4k")])
def image(request, tmp_path) -> Path:
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-f", "qcow2", *request.param, path, "1G")
    qemu_io(path, "write 0 1M", "write 700M 1M")
    return path


def verdict_after(path: Path, change) -> bool | None:
    then = stamp_of(str(path), path.suffix[1:])
    assert then is not None
    change()
    (seen,) = read_seen([replace(snapshot("s1"), stamps=(then,))])
    return seen.written


def moved(path: Path, *how: str) -> None:
    run("cp", *how, path, f"{path}.new")
    os.replace(f"{path}.new", path)


@pytest.mark.parametrize(
    ("command", "moves"),
    [
        ("write -P 7 0 4096", False),
        ("write -P 7 0 4096", True),
        ("write 2M 4096", True),
        ("write -z 0 64k", True),
        ("discard 0 64k", True),
    ],
)
def test_a_write_is_found(image, command, moves):
    def change() -> None:
        qemu_io(image, command)
        if moves:
            moved(image)

    assert verdict_after(image, change) is True
    run("qemu-img", "bitmap", "--add", image, "b0")  # so that the time does not count
    qemu_io(image, "write 0 64k", "write -z 2M 64k")
    assert verdict_after(image, change) is True


def test_reading_copying_and_checking_is_no_write(image):
    assert verdict_after(image, lambda: run("qemu-img", "check", image)) is False
    assert verdict_after(image, lambda: qemu_io(image, "read 0 1M")) is False
    for how in ((), ("-a",), ("--preserve=timestamps",)):
        assert verdict_after(image, lambda how=how: moved(image, *how)) is False
    assert verdict_after(image, lambda: image.chmod(0o640)) is False


def test_another_name_of_its_base_is_no_write(image):
    run("qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", image, f"{image}.top.qcow2")
    top = Path(f"{image}.top.qcow2")
    qemu_io(top, "write 3M 1M")
    rebase = ("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", image.name, top)
    assert verdict_after(top, lambda: run(*rebase)) is False


def test_bitmaps_come_and_go_in_an_image_that_has_some(image):
    run("qemu-img", "bitmap", "--add", image, "b0")
    assert verdict_after(image, lambda: run("qemu-img", "bitmap", "--add", image, "b1")) is False
    assert verdict_after(image, lambda: run("qemu-img", "bitmap", "--remove", image, "b1")) is False
    assert verdict_after(image, lambda: qemu_io(image, "write 5M 4096")) is True
    assert verdict_after(image, lambda: qemu_io(image, "write -P 9 700M 4096")) is True


def test_of_a_large_image_each_part_counts(tmp_path):
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "8G")
    qemu_io(path, "write 0 40M", "write 4G 40M")
    assert verdict_after(path, lambda: qemu_io(path, "write -P 9 0 40M")) is True
    assert verdict_after(path, lambda: qemu_io(path, "write -P 9 4G 40M")) is True
    assert verdict_after(path, lambda: qemu_io(path, "read 0 1M")) is False


def test_internal_snapshots_change_no_content(image):
    run("qemu-img", "bitmap", "--add", image, "b0")  # so that the time does not count
    assert verdict_after(image, lambda: run("qemu-img", "snapshot", "-c", "s1", image)) is False
    assert verdict_after(image, lambda: run("qemu-img", "snapshot", "-d", "s1", image)) is False


def test_internal_snapshots_that_somebody_deletes_change_no_content(image):
    run("qemu-img", "snapshot", "-c", "s1", image)
    assert verdict_after(image, lambda: run("qemu-img", "snapshot", "-d", "s1", image)) is False
    run("qemu-img", "snapshot", "-c", "s1", image)
    assert verdict_after(image, lambda: qemu_io(image, "write -P 9 0 64k")) is True


def test_an_internal_snapshot_is_known_again(image):
    run("qemu-img", "snapshot", "-c", "s1", image)
    then = stamp_inside(str(image), "s1")

    def seen() -> bool | None:
        return read_seen([replace(snapshot("s1"), stamps=(then,))])[0].written

    qemu_io(image, "write -P 7 0 1M", "write 2M 4096", "discard 700M 64k")
    run("qemu-img", "snapshot", "-c", "s2", image)
    run("qemu-img", "snapshot", "-a", "s1", image)
    qemu_io(image, "write -P 8 0 1M")
    run("qemu-img", "bitmap", "--add", image, "b0")
    run("qemu-img", "snapshot", "-d", "s2", image)
    assert seen() is False
    run("qemu-img", "snapshot", "-d", "s1", image)
    assert seen() is True
    run("qemu-img", "snapshot", "-c", "s1", image)
    assert seen() is True
    image.unlink()
    assert seen() is None


def test_a_raw_image_and_one_that_is_gone(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(8192))
    assert verdict_after(path, lambda: None) is False
    assert verdict_after(path, lambda: qemu_io(path, "write 0 4096")) is True
    assert verdict_after(path, path.unlink) is None
    assert stamp_of(str(path), "raw") is None


def test_what_is_out_of_date_is_not_looked_at(image):
    then = stamp_of(str(image), "qcow2")
    found = replace(snapshot("s1"), stamps=(then,))
    qemu_io(image, "write 0 4096")
    assert [seen.written for seen in read_seen([found])] == [True]
    assert read_seen([found], {("s1", str(image))}) == ()
    assert read_seen([found], {("s2", str(image))}) != ()
