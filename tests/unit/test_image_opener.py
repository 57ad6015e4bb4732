# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Allowed places, and chains that are read from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_file import (
    read_chain,
    read_image,
    walk_chain,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_opener import ImageOpener
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image import identity_of
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    BadInput,
    NotFound,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.reference import (
    full_name,
    is_reference,
    relative_name,
    shown,
)
from images.build import Bytes
from images.hostile import stack, write


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("base.qcow2", False),
        ("/a:b/base", False),
        ("./a:b", False),
        ("json:{}", True),
        ("nbd://host", True),
        ("a:b", True),
        ("", False),
    ],
)
def test_what_qemu_takes_for_a_reference(name: str, reference: bool) -> None:
    assert is_reference(name) is reference


@pytest.mark.parametrize(
    ("names", "relative"),
    [
        (["b", "c"], "c"),
        (["below/b", "c", "../d"], "below/../d"),
        (["b", "/c"], ""),
        (["nbd://b", "c"], ""),
        (["b", None], ""),
        ([], ""),
    ],
)
def test_relative_names_of_a_row_make_one(names: list[str | None], relative: str) -> None:
    assert relative_name(names) == relative


def test_full_names() -> None:
    assert full_name("/a/b", "c") == "/a/c"
    assert full_name("/a/b", "../c") == "/a/../c"
    assert full_name("/a/b", "/c") == "/c"
    assert full_name("/a/b", "nbd:c") == "nbd:c"


def test_a_name_in_a_message_is_short_and_of_one_line() -> None:
    assert shown("a\nb\udcff\x1b[2J") == r"'a\nb\xff\x1b[2J'"
    assert len(shown("x" * 5000)) < 160


def test_a_root_that_is_a_symlink(tmp_path: Path) -> None:
    """Both names of an allowed place are allowed."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "real" / "disk", Bytes().build())
    for root in ("real", "link"):
        path = str(tmp_path / root / "disk")
        assert read_image(path, roots=[str(tmp_path / "link")]).filename == path
    with pytest.raises(BadInput, match="outside"):
        read_image(str(tmp_path / "link" / "disk"), roots=[str(tmp_path / "real")])


def test_a_root_can_be_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "disk", Bytes().build())
    other = write(tmp_path / "disk2", Bytes().build())
    assert read_image(path, roots=[path]).format == "qcow2"
    with pytest.raises(BadInput, match="outside"):
        read_image(other, roots=[path])


def test_without_roots_every_place_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "base", bytes(512))
    path = stack(tmp_path / "top", b"elsewhere/base", b"raw")
    assert [image.format for image in read_chain(path)] == ["qcow2", "raw"]
    with pytest.raises(Unsupported, match="a directory"):
        read_image(str(tmp_path))


def test_a_relative_root_is_refused() -> None:
    with pytest.raises(BadInput, match="no absolute path"):
        read_image("/x", roots=["images"])


def test_symlinks_inside_the_root_are_followed(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    write(tmp_path / "pool" / "base", bytes(512))
    (tmp_path / "base").symlink_to("pool/base")
    path = stack(tmp_path / "top", b"base", b"raw")
    chain = read_chain(path, roots=[str(tmp_path)])
    assert chain[1].filename == str(tmp_path / "base")
    assert chain[1].identity == identity_of(os.stat(tmp_path / "pool" / "base"))


def test_an_incomplete_chain_is_an_error_and_can_be_seen_all_the_same(tmp_path: Path) -> None:
    stack(tmp_path / "middle", b"gone")
    path = stack(tmp_path / "top", b"middle")
    with pytest.raises(NotFound, match=r"gone' does not exist \(backing file of '.*/middle'"):
        read_chain(path)
    images, problem = walk_chain(path)
    assert [os.path.basename(image.filename) for image in images] == ["top", "middle"]
    assert isinstance(problem, NotFound)


def test_the_depth_is_the_number_of_images(tmp_path: Path) -> None:
    write(tmp_path / "base", bytes(512))
    path = stack(tmp_path / "top", b"base", b"raw")
    assert len(read_chain(path, max_depth=2)) == 2
    with pytest.raises(Unsupported, match="more than 1 images"):
        read_chain(path, max_depth=1)


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    path = stack(tmp_path / "top", b"gone")
    for roots in (None, [str(tmp_path)], ["/nowhere"]):
        walk_chain(path, roots=roots)
    with ImageOpener(None) as opener:
        os.close(opener.open(path)[0])
    assert os.listdir("/proc/self/fd") == before
