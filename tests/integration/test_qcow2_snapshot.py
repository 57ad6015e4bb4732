# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_snapshot on real images: every state by the content that qemu-img reads."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from image_story import MIB, Images, content, needs_root, qemu_img, sound, tags, write
from images import corpus
from images.storage import StorageDaemon

NAME = "before-upgrade"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "16M")
    write(path, "-P 1 0 3M")
    return path


def test_taken_gone_back_to_and_deleted(images: Images, image: Path) -> None:
    """The procedure of the seed: snapshot -c, -l, -a, -d."""
    before = content(image)
    result = images.change("qcow2_snapshot", image, name=NAME)
    (entry,) = result["images"]
    assert entry["path"] == str(image) and entry["error"] is None
    assert [(found["id"], found["name"]) for found in entry["snapshots"]] == [("1", NAME)]
    assert tags(image) == {"1": NAME}

    write(image, "-P 2 1M 4M")
    after = content(image)
    assert after != before == content(image, "1")

    images.change("qcow2_snapshot", image, name=NAME, state="applied", keep_current="failed")
    assert content(image) == before and tags(image) == {"1": NAME, "2": "failed"}
    assert content(image, "2") == after

    images.change("qcow2_snapshot", image, name="failed", state="applied")
    assert content(image) == after
    images.change("qcow2_snapshot", image, name=NAME, state="absent")
    assert tags(image) == {"2": "failed"} and content(image) == after
    sound(image)


@pytest.mark.parametrize(
    "command",
    [
        "write -P 9 0 512",
        "write -z 0 64k",
        "discard 0 64k",
        "write -P 9 15M 64k",
        "write -P 1 0 64k",
    ],
)
def test_going_back_is_no_change_only_while_nothing_was_written(
    images: Images, image: Path, command: str
) -> None:
    images.change("qcow2_snapshot", image, name=NAME)
    before = content(image)
    quiet = images.run("qcow2_snapshot", image, name=NAME, state="applied")
    assert not quiet["changed"]
    corpus.qemu_io(image, command)
    images.change("qcow2_snapshot", image, name=NAME, state="applied")
    assert content(image) == before


def test_reading_is_no_writing(images: Images, image: Path) -> None:
    images.change("qcow2_snapshot", image, name=NAME)
    corpus.qemu_io(image, "read 0 16M")
    qemu_img("check", "-r", "all", image)
    assert not images.run("qcow2_snapshot", image, name=NAME, state="applied")["changed"]


def test_an_older_and_a_newer_one(images: Images, image: Path) -> None:
    contents = {}
    for number in "123":
        write(image, f"-P {number} {number}M 2M")
        images.change("qcow2_snapshot", image, name=f"s{number}")
        contents[number] = content(image)
    for number in "3132":
        if content(image) != contents[number]:
            images.change("qcow2_snapshot", image, name=f"s{number}", state="applied")
        assert content(image) == contents[number]
    assert {tag: content(image, tag) for tag in "123"} == contents
    sound(image)


def test_two_names_for_one_content(images: Images, image: Path) -> None:
    images.change("qcow2_snapshot", image, name="a")
    images.change("qcow2_snapshot", image, name="b")
    assert not images.run("qcow2_snapshot", image, name="a", state="applied")["changed"]
    write(image, "-P 5 0 1M")
    images.change("qcow2_snapshot", image, name="a", state="applied", keep_current="kept")
    assert not images.run("qcow2_snapshot", image, name="b", state="applied")["changed"]


def test_what_is_kept_needs_a_free_name(images: Images, image: Path) -> None:
    images.change("qcow2_snapshot", image, name="a")
    write(image, "-P 5 0 1M")
    images.change("qcow2_snapshot", image, name="b")
    write(image, "-P 6 0 1M")
    message = images.refused("qcow2_snapshot", image, name="a", state="applied", keep_current="b")
    assert "already has a snapshot named 'b'" in message and "keep_current" in message
    images.change("qcow2_snapshot", image, name="b", state="applied")
    # The present content is that of b already: nothing has to be taken to keep it.
    result = images.change("qcow2_snapshot", image, name="a", state="applied", keep_current="b")
    assert [step["step"] for step in result["plan"]] == ["apply_snapshot"]


# --- names and ids ---


@pytest.fixture
def twins(image: Path) -> Path:
    """Two snapshots of one name, one whose name is an id, and one with a name of its own."""
    for number, name in enumerate(("daily", "3", "daily", "x")):
        write(image, f"-P {number + 2} {number}M 1M")
        corpus.with_snapshot(name)(image)
    assert tags(image) == {"1": "daily", "2": "3", "3": "daily", "4": "x"}
    write(image, "-P 9 8M 1M")
    return image


def test_of_several_with_one_name_all_are_deleted(images: Images, twins: Path) -> None:
    now = content(twins)
    result = images.change("qcow2_snapshot", twins, name="daily", state="absent")
    assert [(step["step"], step["id"]) for step in result["plan"]] == [
        ("delete_snapshot", "1"),
        ("delete_snapshot", "3"),
    ]
    assert tags(twins) == {"2": "3", "4": "x"} and content(twins) == now
    sound(twins)


def test_several_are_as_present_as_one(images: Images, twins: Path) -> None:
    result = images.run("qcow2_snapshot", twins, name="daily")
    assert not result["changed"]
    assert "2 snapshots have this name: id '1' 'daily' of 20" in result["notes"][0]


def test_going_back_needs_to_know_which(images: Images, twins: Path) -> None:
    wanted = {tag: content(twins, tag) for tag in "1234"}
    message = images.refused("qcow2_snapshot", twins, name="daily", state="applied")
    assert "2 snapshots with the name 'daily': id '1'" in message and "by its 'id'" in message
    for tag in ("3", "1"):
        images.change("qcow2_snapshot", twins, name="daily", id=tag, state="applied")
        assert content(twins) == wanted[tag]
    # The name of one is the id of another: qemu-img snapshot -a 3 would take the id.
    images.change("qcow2_snapshot", twins, name="3", state="applied")
    assert content(twins) == wanted["2"]
    images.change("qcow2_snapshot", twins, id="3", state="applied")
    assert content(twins) == wanted["3"]


def test_a_name_that_is_an_id_is_a_name(images: Images, twins: Path) -> None:
    images.change("qcow2_snapshot", twins, name="3", state="absent")
    assert tags(twins) == {"1": "daily", "3": "daily", "4": "x"}
    assert not images.run("qcow2_snapshot", twins, name="4", state="absent")["changed"]


def test_one_of_several_goes_only_where_qemu_img_finds_it(images: Images, twins: Path) -> None:
    message = images.refused("qcow2_snapshot", twins, id="3", state="absent")
    assert "snapshot '3' is not the first of them" in message and "delete snapshot '1'" in message
    images.change("qcow2_snapshot", twins, id="1", name="daily", state="absent")
    images.change("qcow2_snapshot", twins, id="3", state="absent")
    assert tags(twins) == {"2": "3", "4": "x"}
    assert not images.run("qcow2_snapshot", twins, id="2", name="x", state="absent")["changed"]


def test_names_of_other_tools(images: Images, image: Path) -> None:
    odd = ["sp ace", "-d", "ünï\ncode", "a,b=c:d", "/slash", "x" * 200, "2", "%s $(id)", "'\"<&>"]
    for name in odd:
        corpus.with_snapshot(name)(image)
        write(image, "-P 7 0 64k")
    for number, name in enumerate(odd):
        images.change("qcow2_snapshot", image, name=name, state="applied")
        found = {"id": str(number + 1)} if number % 2 else {"name": name}
        images.change("qcow2_snapshot", image, **found, state="absent")
    assert tags(image) == {}


@pytest.mark.parametrize("name", ["", "a/b", "-dash", "a b", "a\nb", "x" * 300, "a,b", "a=b", "ü"])
def test_names_that_are_not_given(images: Images, image: Path, name: str) -> None:
    message = images.refused("qcow2_snapshot", image, name=name)
    assert "snapshot name" in message and "choose another name" in message
    options = {"name": "a", "state": "applied", "keep_current": name}
    if name:
        assert "snapshot name" in images.refused("qcow2_snapshot", image, **options)


def test_options_that_mean_nothing(images: Images, image: Path) -> None:
    for options, words in (
        ({"name": "a", "id": "1"}, "options id mean nothing with state: present"),
        ({"name": "a", "keep_current": "b"}, "keep_current mean nothing with state: present"),
        ({"state": "absent"}, "neither 'name' nor 'id'"),
        ({"state": "applied"}, "neither 'name' nor 'id'"),
        ({"name": "a", "timeout": 0}, "timeout is 0"),
        ({"name": "a", "lock_timeout": -1}, "lock_timeout is -1"),
    ):
        assert words in images.refused("qcow2_snapshot", image, **options)
    result = images.attempt("qcow2_snapshot", [], name="a")
    assert "empty list" in result["msg"]


def test_a_snapshot_that_is_not_there(images: Images, image: Path) -> None:
    message = images.refused("qcow2_snapshot", image, name="never", state="applied")
    assert "no snapshot with the name 'never'" in message and "it has none" in message
    corpus.with_snapshot("other")(image)
    assert "id '1' 'other'" in images.refused(
        "qcow2_snapshot", image, name="never", state="applied"
    )
    assert not images.run("qcow2_snapshot", image, name="never", state="absent")["changed"]


# --- what images can be ---


@pytest.mark.parametrize(
    "options",
    [
        "compat=0.10",
        "extended_l2=on,cluster_size=64k",
        "cluster_size=512",
        "cluster_size=2M",
        "lazy_refcounts=on",
        "refcount_bits=64",
        "compression_type=zstd",
        "preallocation=metadata",
    ],
)
def test_every_kind_of_image(images: Images, tmp_path: Path, options: str) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "16M")
    write(path, "-P 1 0 3M")
    before = content(path)
    images.change("qcow2_snapshot", path, name="a")
    write(path, "-P 2 1M 8M")
    images.change("qcow2_snapshot", path, name="b")
    after = content(path)
    images.change("qcow2_snapshot", path, name="a", state="applied")
    assert content(path) == before and content(path, "2") == after
    images.change("qcow2_snapshot", path, name="a", state="absent")
    images.change("qcow2_snapshot", path, name="b", state="applied")
    assert content(path) == after
    sound(path)


@pytest.mark.parametrize("size", ["8M", "64M"])
def test_the_size_of_that_time_comes_back(images: Images, image: Path, size: str) -> None:
    images.change("qcow2_snapshot", image, name=NAME)
    before = content(image)
    qemu_img("resize", "-q", "--shrink", image, size)
    write(image, "-P 4 0 8M")
    images.change("qcow2_snapshot", image, name="resized")
    images.change("qcow2_snapshot", image, name=NAME, state="applied")
    assert content(image) == before and os.path.getsize(image) < 64 * MIB
    images.change("qcow2_snapshot", image, name="resized", state="applied")
    assert f"({int(size[:-1]) * MIB} bytes)" in qemu_img("info", image)
    sound(image)


def test_a_snapshot_with_memory(images: Images, image: Path) -> None:
    """As a running VM takes it: what is behind the disk is memory, and no part of its content."""
    with StorageDaemon(image) as daemon:
        daemon.do("blockdev-snapshot-internal-sync", device="disk", name="live")
    assert not images.run("qcow2_snapshot", image, name="live", state="applied")["changed"]
    write(image, "-P 2 0 1M")
    images.change("qcow2_snapshot", image, name="live", state="applied")


def test_bitmaps(images: Images, image: Path) -> None:
    corpus.with_bitmap("daily")(image)
    images.change("qcow2_snapshot", image, name=NAME)
    write(image, "-P 3 0 64k")
    message = images.refused("qcow2_snapshot", image, name=NAME, state="applied")
    assert "persistent bitmaps: 'daily'" in message and "--remove" in message
    images.change("qcow2_snapshot", image, name="second")
    images.change("qcow2_snapshot", image, name="second", state="absent")
    assert "daily" in qemu_img("info", image) and "in-use" not in qemu_img("info", image)
    qemu_img("bitmap", "--remove", image, "daily")
    images.change("qcow2_snapshot", image, name=NAME, state="applied")
    # those of our own backups are given up
    write(image, "-P 4 0 64k")
    qemu_img("bitmap", "--add", image, "vmkeep-00c0ffee-20261102T030000Z")
    result = images.change("qcow2_snapshot", image, name=NAME, state="applied")
    assert "the next restore point is a full one" in result["notes"][0]
    assert "vmkeep-00c0ffee" not in qemu_img("info", image)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ("dirty", "'dirty'"),
        ("corrupt", "'corrupt'"),
        ("aes", "is encrypted"),
        ("luks_default", "is encrypted"),
        ("data_file", "data in another file"),
        ("raw", "is raw"),
        ("vmdk_stream", "is vmdk"),
    ],
)
def test_images_that_are_refused(images: Images, tmp_path: Path, sample: str, words: str) -> None:
    path = tmp_path / "disk"
    next(found for found in corpus.SAMPLES if found.name == sample).make(path)
    message = images.refused("qcow2_snapshot", path, name=NAME)
    assert words in message and str(path) in message and "To do:" in message


def test_an_overlay_has_snapshots_of_its_own(images: Images, image: Path) -> None:
    overlay = image.parent / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay)
    base = image.read_bytes()
    before = content(overlay)
    images.change("qcow2_snapshot", overlay, name=NAME)
    write(overlay, "-P 3 0 2M")
    images.change("qcow2_snapshot", overlay, name=NAME, state="applied")
    assert content(overlay) == before and image.read_bytes() == base
    message = images.refused("qcow2_snapshot", image, name=NAME)
    assert f"needed as it is by image '{overlay}'" in message


def test_an_image_elsewhere_is_found_where_it_is_looked_for(images: Images, image: Path) -> None:
    elsewhere = image.parent / "elsewhere"
    elsewhere.mkdir()
    overlay = elsewhere / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay)
    message = images.refused("qcow2_snapshot", image, name=NAME, look_in=[str(elsewhere)])
    assert str(overlay) in message


# --- many, and places ---


def test_bad_ones_stand_beside_good_ones(images: Images, image: Path) -> None:
    second = image.parent / "second.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", second, "8M")
    raw = image.parent / "disk.raw"
    raw.write_bytes(bytes(MIB))
    paths = [str(image), str(raw), "/nowhere/disk.qcow2", str(second), "relative", str(image)]
    result = images.attempt("qcow2_snapshot", paths, name=NAME)
    assert result["failed"] and result["msg"].startswith("3 of 6 images failed: ")
    assert [entry["path"] for entry in result["images"]] == paths
    assert [bool(entry["error"]) for entry in result["images"]] == [0, 1, 1, 0, 1, 0]
    assert "is no absolute path" in result["images"][4]["error"]
    assert [step["path"] for step in result["plan"]] == [str(image), str(second)]
    assert tags(image) == tags(second) == {"1": NAME}


def test_kinds_of_files(images: Images, image: Path, tmp_path: Path) -> None:
    fifo, folder = tmp_path / "fifo", tmp_path / "folder"
    os.mkfifo(fifo)
    folder.mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for path, words in (
        (fifo, "is a FIFO"),
        (folder, "is a directory"),
        (tmp_path / "dangling", "does not exist"),
        (tmp_path / ("x" * 300), "name too long"),
        (image / "below", "a part of it is a file"),
        ("/dev/null", "character device"),
    ):
        assert words in images.refused("qcow2_snapshot", path, name=NAME)
    link = tmp_path / "link"
    link.symlink_to(image)
    images.change("qcow2_snapshot", link, name=NAME)
    assert tags(image) == {"1": NAME}


@pytest.mark.parametrize(
    "name", ["-f raw", "a,b=c", "json:{}", "ünï\ncode", "nbd:host:1", "file.size=1"]
)
def test_paths_with_odd_names(images: Images, tmp_path: Path, name: str) -> None:
    plain = tmp_path / "plain"
    qemu_img("create", "-q", "-f", "qcow2", plain, "8M")
    os.rename(plain, tmp_path / name)
    images.change("qcow2_snapshot", tmp_path / name, name=NAME)
    images.change("qcow2_snapshot", tmp_path / name, name=NAME, state="absent")


def test_allowed_roots(images: Images, image: Path) -> None:
    message = images.refused("qcow2_snapshot", image, name=NAME, allowed_roots=["/srv"])
    assert "outside the allowed roots" in message
    images.change("qcow2_snapshot", image, name=NAME, allowed_roots=[str(image.parent)])


@needs_root
def test_a_block_device(images: Images, image: Path) -> None:
    os.truncate(image, 32 * MIB)
    line = ["losetup", "--find", "--show", str(image)]
    loop = subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()
    try:
        params = {"name": NAME, "allowed_roots": ["/dev"]}
        assert images.run("qcow2_snapshot", loop, **params)["changed"]
        assert not images.run("qcow2_snapshot", loop, **params)["changed"]
        assert tags(loop) == {"1": NAME}
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


@needs_root
def test_a_read_only_file_system(images: Images, image: Path) -> None:
    place = str(image.parent)
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        images.state_dir = Path("/dev/shm") / f"vmkeep-state-{os.getpid()}"
        message = images.refused("qcow2_snapshot", image, name=NAME)
        assert "its file system is read-only" in message and str(image) in message
    finally:
        subprocess.run(["umount", place], check=True)


@needs_root
def test_a_full_file_system(images: Images, image: Path, tmp_path: Path) -> None:
    """Refused by the numbers; and where the room goes in the meantime, nothing is lost."""
    place = tmp_path / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "vmkeep-full", place], check=True)
    try:
        path = place / "disk.qcow2"
        path.write_bytes(image.read_bytes())
        before = content(path)
        ballast = place / "ballast"
        ballast.write_bytes(bytes(os.statvfs(place).f_bavail * 4096 - MIB))
        message = images.refused("qcow2_snapshot", path, name=NAME)
        assert "bytes free" in message and str(place) in message
        script = place / "qemu-img"
        ballast.unlink()
        script.write_text(
            "#!/bin/sh\n[ $1 = snapshot ] && cat /dev/zero"
            f' > {ballast} 2>/dev/null\nexec /usr/bin/qemu-img "$@"\n'
        )
        script.chmod(0o755)
        path_with_script = {"PATH": f"{place}:{os.environ['PATH']}"}
        result = images.attempt("qcow2_snapshot", path, name=NAME, env=path_with_script)
        assert result["failed"] and "No space left" in result["msg"]
        assert images.journals() == [] and tags(path) == {} and content(path) == before
        sound(path)
        ballast.unlink()
        images.change("qcow2_snapshot", path, name=NAME)
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_program_that_is_missing(images: Images, image: Path) -> None:
    nothing = {"PATH": "/nonexistent"}
    result = images.attempt("qcow2_snapshot", image, name=NAME, env=nothing)
    foreseen = images.attempt("qcow2_snapshot", image, name=NAME, check=True, env=nothing)
    for answer in (result, foreseen):
        assert "setpriv, prlimit, qemu-img cannot be found" in answer["msg"]
    assert images.journals() == []


def test_a_state_directory_that_cannot_be_used(images: Images, image: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)  # others could write to it
    for place in (tmp_path / "file" / "state", tmp_path / "open"):
        images.state_dir = place
        for check in (True, False):
            result = images.attempt("qcow2_snapshot", image, name=NAME, check=check)
            assert "state_dir" in result["msg"] and tags(image) == {}
            assert not result["changed"] and result["plan"] == []
