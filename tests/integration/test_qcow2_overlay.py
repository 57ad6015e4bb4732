# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_overlay on real images: every state by the content that qemu-img reads."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from image_story import (
    MIB,
    Images,
    content,
    fingerprints,
    needs_root,
    qemu_img,
    sound,
    write,
)
from images import corpus


def make(path: Path, *commands: str, size: str = "16M", options: str = "") -> Path:
    """A qcow2 image with something in it."""
    listed = ["-o", options] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *listed, path, size)
    if commands:
        write(path, *commands)
    return path


def on(base: Path, path: Path, *commands: str, image_format: str = "qcow2") -> Path:
    """An overlay made by hand."""
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", image_format, path)
    if commands:
        write(path, *commands)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make(tmp_path / "base.qcow2", "-P 1 0 4M")


@pytest.fixture
def overlay(base: Path) -> Path:
    return on(base, base.with_name("overlay.qcow2"), "-P 2 1M 4M", "-z 8M 64k")


def steps(result: dict) -> list[str]:
    return [step["step"] for step in result["plan"]]


# --- present ---


def test_a_new_overlay(images: Images, base: Path) -> None:
    """The procedure of the seed: qemu-img create -b."""
    path = base.with_name("new.qcow2")
    result = images.change("qcow2_overlay", path, base=base)
    assert [image["filename"] for image in result["images"][0]["chain"]] == [str(path), str(base)]
    info = json.loads(qemu_img("info", "--output=json", path))
    assert info["backing-filename"] == str(base) and info["backing-filename-format"] == "qcow2"
    assert content(path) == content(base)
    write(path, "-P 5 0 1M")
    assert not images.run("qcow2_overlay", path, base=base)["changed"]
    sound(path)


def test_many_clones_in_one_task(images: Images, base: Path) -> None:
    paths = [base.with_name(f"clone{number}.qcow2") for number in range(5)]
    result = images.change("qcow2_overlay", paths, base=base, base_format="qcow2", size="32M")
    assert [entry["chain"][0]["virtual_size"] for entry in result["images"]] == [32 * MIB] * 5
    result = images.run("qcow2_overlay", paths[:2], state="absent")
    assert steps(result) == ["remove_file"] * 2 and paths[2].exists()


def test_a_raw_base(images: Images, tmp_path: Path) -> None:
    """Also one whose guest has written what looks like qcow2: the task says what it is."""
    raw = tmp_path / "disk.raw"
    make(tmp_path / "inner", "-P 1 0 1M").rename(raw)
    os.truncate(raw, 3 * MIB + 100)
    path = tmp_path / "overlay"
    images.change("qcow2_overlay", path, base=raw, base_format="raw")
    assert content(path) == content(raw, image_format="raw")
    # What is recorded counts, not what the base looks like.
    assert not images.run("qcow2_overlay", path, base=raw)["changed"]
    message = images.refused("qcow2_overlay", path, base=raw, base_format="qcow2")
    assert "records its base as raw" in message


def test_who_owns_a_new_overlay(images: Images, base: Path) -> None:
    path = base.with_name("new.qcow2")
    images.change("qcow2_overlay", path, base=base)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_uid == base.stat().st_uid


@needs_root
def test_owners_and_modes(images: Images, base: Path) -> None:
    os.chown(base, 12345, 54321)
    for number, (options, owner, mode) in enumerate(
        (
            ({}, (12345, 54321), 0o600),
            ({"owner": "root"}, (0, 54321), 0o600),
            ({"group": "7", "mode": "0640"}, (12345, 7), 0o640),
        )
    ):
        path = base.with_name(f"new{number}")
        images.change("qcow2_overlay", path, base=base, **options)
        found = path.stat()
        assert ((found.st_uid, found.st_gid), stat.S_IMODE(found.st_mode)) == (owner, mode)


def test_options_that_mean_nothing(images: Images, base: Path, overlay: Path) -> None:
    for options, words in (
        ({}, "without 'base'"),
        ({"base": base, "mode": 416}, "mode is 416"),
        ({"base": base, "mode": "rw"}, "mode is 'rw'"),
        ({"base": base, "owner": "nobody-of-that-name"}, "does not know"),
        ({"base": base, "size": "1M"}, "size"),
        ({"base": base, "bandwidth": 1}, "bandwidth mean nothing with state: present"),
        ({"base": base, "rebase": True, "base_moved": True}, "both given"),
        ({"base": "base.qcow2"}, "no absolute path"),
        ({"base": base, "state": "absent"}, "base mean nothing with state: absent"),
        ({"state": "committed", "rebase": True}, "rebase mean nothing with state: committed"),
        ({"state": "committed", "bandwidth": -1}, "bandwidth is -1"),
    ):
        assert words in images.refused("qcow2_overlay", overlay, **options)


def test_an_overlay_is_as_large_as_its_base(images: Images, base: Path, overlay: Path) -> None:
    path = base.with_name("new.qcow2")
    message = images.refused("qcow2_overlay", path, base=base, size="8M")
    assert "at least as large as its base" in message
    assert not images.run("qcow2_overlay", overlay, base=base, size="16M")["changed"]
    assert "correct 'size'" in images.refused("qcow2_overlay", overlay, base=base, size="20M")


def test_what_stands_there_is_never_written_over(images: Images, base: Path) -> None:
    raw = base.with_name("raw")
    raw.write_bytes(b"precious" * 1000)
    (base.with_name("dangling")).symlink_to(base.with_name("nothing"))
    empty = base.with_name("empty")
    empty.write_bytes(b"")
    for path, words in (
        (raw, "exists and is raw"),
        (empty, "exists and is raw"),
        (base, "exists and stands on no other image"),
        (base.with_name("dangling"), "does not exist"),
        (base.parent, "is a directory"),
    ):
        assert words in images.refused("qcow2_overlay", path, base=base)


def test_bases_that_are_refused(images: Images, tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    for name in ("aes", "dirty", "corrupt", "vmdk_stream"):
        next(sample for sample in corpus.SAMPLES if sample.name == name).make(folder / name)
    path = tmp_path / "new"
    for name, words in (
        ("aes", "encrypted"),
        ("dirty", "'dirty'"),
        ("corrupt", "'corrupt'"),
        ("vmdk_stream", "is vmdk"),
        ("fifo", "is a FIFO"),
        ("nothing", "does not exist"),
    ):
        message = images.refused("qcow2_overlay", path, base=folder / name)
        assert words in message and str(folder / name) in message
    corpus.external("data_file_raw=on")(folder / "external")
    images.change("qcow2_overlay", path, base=folder / "external")


def test_places_for_an_overlay(images: Images, base: Path) -> None:
    for path, words in (
        (base.parent / "nowhere" / "x", "does not exist"),
        (base / "x", "is not a directory"),
        (base.parent / ("x" * 300), "name too long"),
        ("relative", "no absolute path"),
    ):
        assert words in images.refused("qcow2_overlay", path, base=base)
    long = base.parent / ("x" * 255)
    images.change("qcow2_overlay", long, base=base)


@pytest.mark.parametrize(
    "name", ["-f raw", "a,b=c", "json:{}", "ünï\ncode", "nbd:host:1", "file.size=1", "--", "a\\b"]
)
def test_odd_names(images: Images, tmp_path: Path, name: str) -> None:
    """For the overlay, its base and the next base: all of them are names for qemu-img."""
    first = make(tmp_path / "plain", "-P 1 0 1M").rename(tmp_path / f"{name} 1")
    second = make(tmp_path / "plain", "-P 2 0 1M").rename(tmp_path / f"{name} 2")
    path = tmp_path / name
    images.change("qcow2_overlay", path, base=first)
    before = content(path)
    images.change("qcow2_overlay", path, base=second, rebase=True)
    assert content(path) == before
    images.change("qcow2_overlay", path, state="committed")
    assert content(second) == before
    images.change("qcow2_overlay", path, base=second)
    second.rename(first)
    images.change("qcow2_overlay", path, base=first, base_moved=True)
    assert content(path) == before
    images.change("qcow2_overlay", path, state="absent")


def test_bitmaps_of_a_base_do_not_go_on(images: Images, base: Path) -> None:
    corpus.with_bitmap("daily")(base)
    result = images.change("qcow2_overlay", base.with_name("new"), base=base)
    assert "'daily'" in result["notes"][0] and "full one" in result["notes"][0]


def test_allowed_roots(images: Images, base: Path, overlay: Path) -> None:
    deep = base.parent / "deep"
    deep.mkdir()
    path = deep / "new"
    message = images.refused("qcow2_overlay", path, base=overlay, allowed_roots=[str(deep)])
    assert "outside the allowed roots" in message
    images.change("qcow2_overlay", path, base=overlay, allowed_roots=[str(base.parent)])


# --- rebase ---


@pytest.fixture
def other(base: Path) -> Path:
    """A base of its own, in part like the first."""
    return make(base.with_name("other.qcow2"), "-P 1 0 2M", "-P 7 6M 4M")


def test_another_base_is_refused_or_the_content_stays(
    images: Images, base: Path, overlay: Path, other: Path
) -> None:
    before = content(overlay)
    message = images.refused("qcow2_overlay", overlay, base=other)
    assert f"stands on '{base}'" in message and "rebase: true" in message
    result = images.change("qcow2_overlay", overlay, base=other, rebase=True)
    assert [image["filename"] for image in result["images"][0]["chain"]] == [
        str(overlay),
        str(other),
    ]
    base.unlink()
    assert content(overlay) == before
    sound(overlay)


def test_a_base_that_is_smaller_or_raw_or_below(images: Images, base: Path, overlay: Path) -> None:
    before = content(overlay)
    small = base.with_name("small.raw")
    small.write_bytes(b"\1" * 3 * MIB)
    images.change("qcow2_overlay", overlay, base=small, base_format="raw", rebase=True)
    assert content(overlay) == before
    middle = on(base, base.with_name("middle.qcow2"), "-P 3 2M 3M", "-z 0 1M")
    images.change("qcow2_overlay", overlay, base=middle, rebase=True)
    assert content(overlay) == before
    images.change("qcow2_overlay", overlay, base=base, rebase=True)
    assert content(overlay) == before
    qemu_img("resize", "-q", overlay, "64M")
    before = content(overlay)
    images.change("qcow2_overlay", overlay, base=middle, rebase=True)
    images.change("qcow2_overlay", overlay, base=base, rebase=True)
    assert content(overlay) == before


def test_the_same_base_by_another_name(images: Images, base: Path, overlay: Path) -> None:
    (base.with_name("link")).symlink_to(base)
    os.link(base, base.with_name("hard"))
    for name in ("link", "hard"):
        assert not images.run("qcow2_overlay", overlay, base=base.with_name(name))["changed"]
    qemu_img("rebase", "-u", "-F", "qcow2", "-b", "base.qcow2", overlay)
    assert not images.run("qcow2_overlay", overlay, base=base)["changed"]


def test_a_base_that_was_moved(images: Images, base: Path, overlay: Path, other: Path) -> None:
    before = content(overlay)
    new = base.with_name("new-place.qcow2")
    message = images.refused("qcow2_overlay", overlay, base=other, base_moved=True)
    assert "is still there" in message
    base.rename(new)
    message = images.refused("qcow2_overlay", overlay, base=new, rebase=True)
    assert "cannot be read" in message and "base_moved" in message
    result = images.change("qcow2_overlay", overlay, base=new, base_moved=True)
    assert steps(result) == ["rebase"] and "copy" not in result["plan"][0]
    assert content(overlay) == before


def test_a_moved_base_of_another_format(images: Images, base: Path, overlay: Path) -> None:
    raw = base.with_name("raw")
    qemu_img("convert", "-O", "raw", base, raw)
    base.unlink()
    message = images.refused("qcow2_overlay", overlay, base=raw, base_moved=True)
    assert "records its base as qcow2" in message and "is raw" in message


def test_a_format_that_is_not_recorded(images: Images, base: Path, other: Path) -> None:
    """What nobody recorded is not guessed where it matters, and can be recorded."""
    path = base.with_name("old.qcow2")
    path.write_bytes(unrecorded(base))
    before = content(path)
    assert "libvirt takes it for raw" in images.run("qcow2_overlay", path, base=base)["notes"][0]
    assert "does not record" in images.refused("qcow2_overlay", path, state="committed")
    assert "does not record" in images.refused("qcow2_overlay", path, base=other, rebase=True)
    params = {"base": base, "base_format": "qcow2"}
    assert "set 'rebase: true'" in images.refused("qcow2_overlay", path, **params)
    images.change("qcow2_overlay", path, **params, rebase=True)
    assert content(path) == before
    images.change("qcow2_overlay", path, base=other, rebase=True)
    assert content(path) == before


def unrecorded(base: Path) -> bytes:
    """An overlay as programs made it before QEMU 6.1; today's qemu-img records a format."""
    path = on(base, base.with_name("scratch"))
    data = bytearray(path.read_bytes())
    path.unlink()
    # The type of the header extension that holds the format: one that nobody knows.
    place = data.index(bytes.fromhex("e2792aca"))
    data[place : place + 4] = b"none"
    return bytes(data)


def test_rebases_that_are_refused(images: Images, base: Path, overlay: Path, other: Path) -> None:
    on(overlay, base.with_name("above.qcow2"))
    message = images.refused("qcow2_overlay", overlay, base=other, rebase=True)
    assert "needed as it is by image" in message
    base.with_name("above.qcow2").unlink()
    message = images.refused("qcow2_overlay", overlay, base=overlay, rebase=True)
    assert "is the same image" in message
    above = on(overlay, base.with_name("above.qcow2"))
    message = images.refused("qcow2_overlay", overlay, base=above, rebase=True)
    assert "needs the overlay" in message.replace("does not need", "needs")
    above.unlink()
    corpus.with_snapshot("inner")(overlay)
    message = images.refused("qcow2_overlay", overlay, base=other, rebase=True)
    assert "internal snapshots: 'inner'" in message


# --- committed ---


def test_committed_into_its_base(images: Images, base: Path, overlay: Path) -> None:
    """The procedure of the seed: qemu-img commit. Then the overlay goes."""
    wanted = content(overlay)
    result = images.change("qcow2_overlay", overlay, state="committed", base=base)
    assert steps(result) == ["commit", "remove_file"] and result["images"][0]["chain"] == []
    assert not overlay.exists() and content(base) == wanted
    sound(base)
    note = images.run("qcow2_overlay", overlay, state="committed")["notes"][0]
    assert "there is nothing to commit" in note


def test_a_chain_has_to_begin_at_its_top(images: Images, base: Path, overlay: Path) -> None:
    top = on(overlay, base.with_name("top.qcow2"), "-P 9 3M 5M")
    wanted, before = content(top), content(base)
    result = images.attempt("qcow2_overlay", [overlay, top], state="committed")
    assert "1 of 2 images failed" in result["msg"]
    assert f"'{overlay}' is needed as it is by image '{top}'" in result["images"][0]["error"]
    assert content(overlay) == wanted and content(base) == before and not top.exists()


def test_a_chain_in_one_task(images: Images, base: Path, overlay: Path) -> None:
    top = on(overlay, base.with_name("top.qcow2"), "-P 9 3M 5M")
    wanted = content(top)
    images.change("qcow2_overlay", [top, overlay], state="committed")
    assert content(base) == wanted
    assert sorted(os.listdir(base.parent)) == ["base.qcow2"]


def test_a_raw_base_of_less_size(images: Images, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"\1" * MIB)
    path = tmp_path / "overlay"
    images.change("qcow2_overlay", path, base=raw, base_format="raw", size="8M")
    write(path, "-P 3 512k 4M")
    wanted = content(path)
    images.change("qcow2_overlay", path, state="committed")
    assert content(raw, image_format="raw") == wanted and raw.stat().st_size == 8 * MIB


@pytest.mark.parametrize("options", ["", "extended_l2=on,cluster_size=64k", "compat=0.10"])
def test_a_qcow2_base_of_less_size(images: Images, tmp_path: Path, options: str) -> None:
    base = make(tmp_path / "base", "-P 1 0 4M", size="8M", options=options)
    path = tmp_path / "overlay"
    images.change("qcow2_overlay", path, base=base, size="32M")
    write(path, "-P 3 6M 4M", "-P 4 30M 2M")
    wanted = content(path)
    images.change("qcow2_overlay", path, state="committed", verify=False)
    assert content(base) == wanted
    sound(base)


def test_a_base_with_snapshots_keeps_them(images: Images, base: Path, overlay: Path) -> None:
    corpus.with_snapshot("old")(base)
    old, wanted = content(base, "1"), content(overlay)
    images.change("qcow2_overlay", overlay, state="committed")
    assert content(base) == wanted and content(base, "1") == old


def test_commits_that_are_refused(images: Images, base: Path, overlay: Path, other_base) -> None:
    message = images.refused("qcow2_overlay", overlay, state="committed", base=other_base)
    assert f"stands on '{base}'" in message
    message = images.refused("qcow2_overlay", overlay, state="committed", base_format="raw")
    assert "records its base as qcow2" in message
    sibling = on(base, base.with_name("sibling.qcow2"))
    message = images.refused("qcow2_overlay", overlay, state="committed")
    assert f"'{base}' is needed as it is by image '{sibling}'" in message
    sibling.unlink()
    link = base.with_name("link")
    link.symlink_to(overlay)
    assert "symbolic link" in images.refused("qcow2_overlay", link, state="committed")
    message = images.refused("qcow2_overlay", base, state="committed")
    assert "stands on no other image" in message
    corpus.with_snapshot("inner")(overlay)
    message = images.refused("qcow2_overlay", overlay, state="committed")
    assert "internal snapshots: 'inner'" in message


@pytest.fixture
def other_base(tmp_path: Path) -> Path:
    return make(tmp_path / "other.qcow2")


def test_an_overlay_that_was_made_smaller(images: Images, overlay: Path) -> None:
    qemu_img("resize", "-q", "--shrink", overlay, "8M")
    assert "what follows would come back" in images.refused(
        "qcow2_overlay", overlay, state="committed"
    )


def test_a_version_2_base_with_snapshots_cannot_grow(images: Images, tmp_path: Path) -> None:
    base = make(tmp_path / "base", size="8M", options="compat=0.10")
    corpus.with_snapshot("old")(base)
    path = tmp_path / "overlay"
    images.change("qcow2_overlay", path, base=base, size="16M")
    message = images.refused("qcow2_overlay", path, state="committed")
    assert "version 2" in message and "16777216" in message


def test_bitmaps_are_carried_over(images: Images, base: Path, overlay: Path) -> None:
    """qemu-img commit leaves them behind and exits with 0 (qemu#1330)."""
    corpus.with_bitmap("both")(base)
    for name, *options in (("both",), ("daily", "-g", "32k"), ("off", "--disable")):
        corpus.with_bitmap(name, *options)(overlay)
    write(overlay, "-P 4 10M 64k")
    images.change("qcow2_overlay", overlay, state="committed")
    found = json.loads(qemu_img("info", "--output=json", base))
    bitmaps = {each["name"]: each for each in found["format-specific"]["data"]["bitmaps"]}
    assert bitmaps.keys() == {"both", "daily", "off"}
    assert bitmaps["daily"]["granularity"] == 32768
    assert [bitmaps[name]["flags"] for name in ("both", "off")] == [["auto"], []]
    assert dirty(base, "daily") >= {10 * MIB}


def test_bitmaps_are_carried_into_a_base_that_grows(images: Images, base: Path) -> None:
    """QEMU merges only bitmaps of one size."""
    overlay = base.with_name("larger")
    images.change("qcow2_overlay", overlay, base=base, size="24M")
    for path in (base, overlay):
        corpus.with_bitmap("daily")(path)
    write(base, "-P 4 2M 64k")
    write(overlay, "-P 4 20M 64k")
    images.change("qcow2_overlay", overlay, state="committed")
    assert dirty(base, "daily") == {2 * MIB, 20 * MIB}


def dirty(path: Path, bitmap: str) -> set[int]:
    """Where a bitmap says that something was written."""
    node = {"driver": "qcow2", "file.driver": "file", "file.filename": str(path), "read-only": "on"}
    options = ",".join(f"{key}={value}" for key, value in node.items())
    socket = f"{path}.sock"
    line = ["qemu-nbd", "-r", "-t", "-k", socket, "-B", bitmap, "--image-opts", options]
    with subprocess.Popen(line) as server:
        try:
            while not os.path.exists(socket):
                assert server.poll() is None
            uri = f"driver=nbd,server.type=unix,server.path={socket},"
            uri += f"x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}"
            extents = json.loads(qemu_img("map", "--output=json", "--image-opts", uri))
        finally:
            server.terminate()
    return {extent["start"] for extent in extents if not extent["data"]}


@pytest.mark.parametrize("kind", ["raw", "compat=0.10", "in-use"])
def test_bitmaps_that_cannot_be_carried(images: Images, tmp_path: Path, kind: str) -> None:
    base = tmp_path / "base"
    if kind == "raw":
        base.write_bytes(bytes(8 * MIB))
    else:
        make(base, size="8M", options=kind if "=" in kind else "")
    if kind == "in-use":
        corpus.changed(corpus.with_bitmap("daily"), corpus.killed("write 0 64k"))(base)
    overlay = on(base, tmp_path / "overlay", image_format="raw" if kind == "raw" else "qcow2")
    corpus.with_bitmap("daily")(overlay)
    message = images.refused("qcow2_overlay", overlay, state="committed")
    assert "bitmaps 'daily'" in message and "cannot take over" in message
    qemu_img("bitmap", "--remove", overlay, "daily")
    images.change("qcow2_overlay", overlay, state="committed")


def test_a_bitmap_that_counts_for_nothing_goes(images: Images, base: Path, overlay: Path) -> None:
    corpus.with_bitmap("broken")(overlay)
    corpus.killed("write -P 3 0 64k")(overlay)
    wanted = content(overlay)
    result = images.change("qcow2_overlay", overlay, state="committed")
    assert "'broken' were not usable" in result["notes"][0] and content(base) == wanted


def test_nothing_is_removed_before_it_is_proved(
    images: Images, base: Path, overlay: Path, tmp_path: Path
) -> None:
    """A qemu-img that says that it has committed and has not: the overlay stays."""
    script = tmp_path / "bin" / "qemu-img"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\n[ "$1" = commit ] && exit 0\nexec /usr/bin/qemu-img "$@"\n')
    script.chmod(0o755)
    wanted = content(overlay)
    lying = {"PATH": f"{script.parent}:{os.environ['PATH']}"}
    result = images.attempt("qcow2_overlay", overlay, state="committed", env=lying)
    assert result["failed"] and "they differ" in result["msg"]
    assert content(overlay) == wanted
    images.run("qcow2_overlay", overlay, state="committed")
    assert content(base) == wanted and not overlay.exists()


# --- absent ---


def test_an_overlay_is_removed(images: Images, base: Path, overlay: Path) -> None:
    before = content(base)
    images.change("qcow2_overlay", overlay, state="absent")
    assert not overlay.exists() and content(base) == before


def test_an_overlay_whose_base_is_gone(images: Images, base: Path, overlay: Path) -> None:
    base.unlink()
    images.change("qcow2_overlay", overlay, state="absent")


def test_removals_that_are_refused(images: Images, base: Path, overlay: Path) -> None:
    top = on(overlay, base.with_name("top.qcow2"))
    raw = base.with_name("raw")
    raw.write_bytes(b"precious")
    link = base.with_name("link")
    link.symlink_to(top)
    for path, words in (
        (base, "stands on no other image"),
        (raw, "exists and is raw"),
        (overlay, f"needed as it is by image '{top}'"),
        (link, "symbolic link"),
        (base.parent, "is a directory"),
    ):
        assert words in images.refused("qcow2_overlay", path, state="absent")
    images.change("qcow2_overlay", [top, overlay], state="absent")
    assert base.exists() and raw.read_bytes() == b"precious"


# --- surroundings ---


@needs_root
def test_places_that_nobody_can_write_to(
    images: Images, base: Path, overlay: Path, tmp_path_factory
):
    place = str(base.parent)
    images.state_dir = tmp_path_factory.mktemp("state")
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        new = base.with_name("new")
        for path, options in (
            (new, {"base": base}),
            (overlay, {"state": "absent"}),
            (overlay, {"state": "committed"}),
        ):
            message = images.refused("qcow2_overlay", path, **options)
            assert "read-only" in message and place in message
    finally:
        subprocess.run(["umount", place], check=True)


@needs_root
def test_a_full_file_system(images: Images, base: Path, overlay: Path, tmp_path: Path) -> None:
    """The base has no room for it: refused by the numbers, and where they lie nothing is lost."""
    place = tmp_path / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "vmkeep-full", place], check=True)
    try:
        small = place / "base.qcow2"
        shutil.copyfile(base, small)
        qemu_img("rebase", "-u", "-F", "qcow2", "-b", small, overlay)
        write(overlay, "-P 7 6M 8M")
        wanted = content(overlay)
        ballast = place / "ballast"
        ballast.write_bytes(bytes(os.statvfs(place).f_bavail * 4096 - 2 * MIB))
        message = images.refused("qcow2_overlay", overlay, state="committed")
        assert "bytes free" in message and str(place) in message
        message = images.refused("qcow2_overlay", place / "new", base=base)
        assert "bytes free" in message

        ballast.write_bytes(bytes(ballast.stat().st_size - 7 * MIB))
        script = tmp_path / "bin" / "qemu-img"
        script.parent.mkdir()
        script.write_text(
            f"#!/bin/sh\n[ $1 = commit ] && cat /dev/zero > {ballast} 2>/dev/null\n"
            'exec /usr/bin/qemu-img "$@"\n'
        )
        script.chmod(0o755)
        env = {"PATH": f"{script.parent}:{os.environ['PATH']}"}
        result = images.attempt("qcow2_overlay", overlay, state="committed", env=env)
        assert result["failed"] and "No space left" in result["msg"]
        assert "finished by the next run" in result["msg"] and content(overlay) == wanted
        # The base alone is no whole image now, so nobody else may stand on it.
        message = images.attempt("qcow2_overlay", tmp_path / "new", base=small)["msg"]
        assert "half way through a merge" in message and str(overlay) in message
        ballast.unlink()
        result = images.run("qcow2_overlay", overlay, state="committed")
        assert content(small) == wanted and not overlay.exists()
        assert "interrupted run" in result["notes"][0]
        sound(small)
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_file_that_appears_in_between(images: Images, base: Path, tmp_path: Path) -> None:
    """It is somebody else's, and stays."""
    path = tmp_path / "new"
    script = tmp_path / "bin" / "qemu-img"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho mine > {path}\nexec /usr/bin/qemu-img "$@"\n')
    script.chmod(0o755)
    env = {"PATH": f"{script.parent}:{os.environ['PATH']}"}
    result = images.attempt("qcow2_overlay", path, base=base, env=env)
    assert result["failed"] and "has appeared in the meantime" in result["msg"]
    assert path.read_text() == "mine\n" and images.journals() == []
    assert [name for name in fingerprints([path]) if "vmkeep" in name] == []
