# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_info as a task runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_file import read_image
from ansible_collections.vmkeep.libvirt.plugins.module_utils._images import look_at_images
from images import build, corpus
from images.hostile import stack, write
from lab.modules import run_module


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An image on a base, with something in it."""
    corpus.created()(tmp_path / "base")
    corpus.written()(tmp_path / "base")
    corpus.on("base", "qcow2")(tmp_path / "disk")
    return tmp_path / "disk"


def look(path: Path | str, **options: Any) -> dict[str, Any]:
    """The entry of one image, without the time that a module takes to start."""
    defaults = {"format": None, "backing_chain": True, "check": False, "check_timeout": 60}
    result, problems = look_at_images(
        {"path": [str(path)], "allowed_roots": None, **defaults, **options}
    )
    (entry,) = result["images"]
    assert problems == ([entry["error"]] if entry["error"] else [])
    return entry


def test_a_chain(disk: Path) -> None:
    result = run_module("qcow2_info", {"path": [str(disk)]})
    assert (result["changed"], result["failed"]) == (False, False)
    (image,) = result["images"]
    assert (image["path"], image["depth"], image["error"]) == (str(disk), 2, None)
    assert [layer["format"] for layer in image["chain"]] == ["qcow2", "qcow2"]
    assert image["chain"][0]["full_backing_filename"] == image["chain"][1]["filename"]


def test_bad_ones_are_reported_beside_good_ones(disk: Path) -> None:
    bad = [str(disk.parent / "nothing"), "/etc/passwd", str(disk.parent)]
    paths = [bad[0], str(disk), bad[1], bad[2]]
    options = {"path": paths, "allowed_roots": [str(disk.parent)]}
    result = run_module("qcow2_info", options)
    assert result["failed"]
    assert [image["path"] for image in result["images"]] == paths
    assert [bool(image["error"]) for image in result["images"]] == [True, False, True, True]
    for path, image in zip(bad, [result["images"][number] for number in (0, 2, 3)], strict=True):
        assert image["error"].startswith(f"'{path}'")
        assert image["error"] in result["msg"]
        assert (image["depth"], image["chain"]) == (0, [])


def test_a_chain_that_breaks_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    path = stack(tmp_path / "disk", b"nbd://192.0.2.1/base", b"raw")
    image = look(path)
    assert "'nbd://192.0.2.1/base', which is never followed" in image["error"]
    assert image["depth"] == 1
    assert image["chain"][0]["backing_filename"] == "nbd://192.0.2.1/base"


def test_only_the_image_itself(tmp_path: Path) -> None:
    path = stack(tmp_path / "disk", b"nbd://192.0.2.1/base", b"raw")
    image = look(path, backing_chain=False)
    assert (image["depth"], image["error"]) == (1, None)


def test_by_default_a_chain_stays_in_its_own_directory(disk: Path) -> None:
    (disk.parent / "deeper").mkdir()
    path = disk.parent / "deeper" / "disk"
    corpus.on("../disk", "qcow2")(path)
    assert "outside the allowed roots (backing file of" in look(path)["error"]
    assert look(path, allowed_roots=[str(disk.parent)])["depth"] == 3


def test_by_default_a_symlink_brings_both_its_directories(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "vms").mkdir()
    (tmp_path / "vms" / "link").symlink_to(disk)
    (tmp_path / "vms" / "base").symlink_to("../base")
    image = look(tmp_path / "vms" / "link")
    assert (image["depth"], image["error"]) == (2, None)


def test_a_raw_disk_is_not_probed(tmp_path: Path) -> None:
    path = write(tmp_path / "disk", build.rich().build())
    (image,) = look(path, format="raw")["chain"]
    assert (image["format"], image["format_source"]) == ("raw", "given")
    assert image["backing_filename"] is None


def test_check(disk: Path) -> None:
    raw = write(disk.parent / "raw", bytes(512))
    checks = [layer["check"] for layer in look(disk, check=True)["chain"]]
    assert [check["result"] for check in checks] == ["clean", "clean"]
    assert checks[1]["allocated_clusters"] == 48
    assert checks[1]["filename"] == str(disk.parent / "base")
    assert look(raw, check=True)["chain"][0]["check"] == {"result": "unsupported"}


def test_check_finds_damage(tmp_path: Path) -> None:
    """A cluster in use that is not counted, and one that is counted and not in use."""
    corpus.changed(corpus.written())(tmp_path / "disk")
    corpus.patched(2 * build.CLUSTER + 2 * 4, b"\0\0")(tmp_path / "disk")
    image = look(tmp_path / "disk", check=True)
    assert image["chain"][0]["check"]["result"] == "corrupt"
    assert image["chain"][0]["check"]["corruptions"] == 2

    corpus.changed(corpus.written())(tmp_path / "leak")
    clusters = -(-os.path.getsize(tmp_path / "leak") // build.CLUSTER)
    os.truncate(tmp_path / "leak", (clusters + 1) * build.CLUSTER)
    corpus.patched(2 * build.CLUSTER + 2 * clusters, b"\0\1")(tmp_path / "leak")
    image = look(tmp_path / "leak", check=True)
    assert image["chain"][0]["check"]["result"] == "leaks"
    assert image["chain"][0]["check"]["leaks"] == 1


def test_check_of_a_data_file_beside_the_image(tmp_path: Path) -> None:
    """A relative name is looked up there by us and by qemu-img, wherever that runs."""
    path = tmp_path / "disk"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data", "disk", "1M"]
    subprocess.run(command, cwd=tmp_path, check=True)
    image = look(path, check=True)
    assert image["chain"][0]["data_file"] == "data"
    assert image["chain"][0]["check"]["result"] == "clean"


def test_check_mode_is_no_different(disk: Path) -> None:
    options = {"path": [str(disk)]}
    assert run_module("qcow2_info", options, check=True) == run_module("qcow2_info", options)


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: a loop device needs root")
def test_a_block_device(disk: Path) -> None:
    """Its length is found by seeking, and it is known by its number, not by its name."""
    os.truncate(disk, 4 * build.CLUSTER)
    loop = subprocess.run(
        ["losetup", "--find", "--show", str(disk)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        entry = look(loop)
        assert entry["error"].startswith("'/dev/base' does not exist (backing file")
        (image,) = entry["chain"]
        assert (image["format"], image["virtual_size"]) == ("qcow2", 64 << 20)
        assert image["actual_size"] == 0
        assert read_image(loop).identity == (os.stat(loop).st_rdev, 0)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
