# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What we read is what the real qemu-img says, field for field."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_file import (
    read_chain,
    read_image,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image_result import to_result
from images import corpus
from images.compare import compare, expected

SAME = [sample for sample in corpus.SAMPLES if not sample.others]
OTHERS = [sample for sample in corpus.SAMPLES if sample.others]
LAYERS = [sample for sample in SAME if sample.name.startswith("overlay")]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All images of the corpus. A name with a colon would be a reference to qemu-img."""
    made = tmp_path_factory.mktemp("corpus")
    corpus.make_all(made)
    yield made


def info(path: Path, *options: str) -> Any:
    command = ["qemu-img", "info", "--output=json", *options, "--", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_there_are_enough_samples() -> None:
    assert len(SAME) >= 40


@pytest.mark.parametrize("sample", SAME, ids=str)
def test_fields(sample: corpus.Sample, directory: Path) -> None:
    path = directory / sample.name
    compare(to_result(read_image(str(path))), expected(info(path)))


@pytest.mark.parametrize("sample", LAYERS, ids=str)
def test_chains(sample: corpus.Sample, directory: Path) -> None:
    path = directory / sample.name
    chain = [to_result(image) for image in read_chain(str(path), roots=[str(directory)])]
    theirs = info(path, "--backing-chain")
    assert len(chain) == len(theirs) > 1
    for ours, said in zip(chain, theirs, strict=True):
        compare(ours, expected(said))
    assert [image["format_source"] for image in chain] == ["probed", *["recorded"] * len(chain)][
        : len(chain)
    ]


@pytest.mark.parametrize("sample", OTHERS, ids=str)
def test_other_formats_are_named(sample: corpus.Sample, directory: Path) -> None:
    path = directory / sample.name
    ours, theirs = to_result(read_image(str(path))), expected(info(path))
    for key in ("filename", "format", "actual_size"):
        assert ours[key] == theirs[key], key
    assert ours["virtual_size"] is None


def test_the_samples_are_what_their_names_say(directory: Path) -> None:
    def read(name: str) -> dict[str, Any]:
        return to_result(read_image(str(directory / name)))

    assert read("dirty")["dirty"]
    assert read("corrupt")["corrupt"]
    assert read("bitmap_in_use")["bitmaps"][0]["flags"] == ["in-use", "auto"]
    assert read("bitmaps_stale")["bitmaps_stale"]
    assert len(read("bitmaps")["bitmaps"]) == 4
    assert [snapshot["id"] for snapshot in read("snapshots_of_one_name")["snapshots"]] == [*"123"]
    assert read("snapshot_then_resized")["snapshots"][0]["disk_size"] == 64 << 20
    assert read("luks_default")["encrypt"]["cipher_alg"] == "aes-256"
    assert read("luks_alone")["virtual_size"] == 8 << 20
    assert read("data_file_raw")["data_file_raw"]
    assert read("everything")["extended_l2"]


def test_a_difference_would_be_seen(directory: Path) -> None:
    """The control of the comparison."""
    path = directory / "bitmaps"
    ours = to_result(read_image(str(path)))
    for key, wrong in (("virtual_size", 1), ("compat", "0.10"), ("data_file", "x"), ("dirty", 0)):
        with pytest.raises(AssertionError):
            compare({**ours, key: wrong}, expected(info(path)))
    with pytest.raises(AssertionError):
        compare({**ours, "bitmaps": ours["bitmaps"][:-1]}, expected(info(path)))


def test_a_base_without_recorded_format_is_raw_and_not_probed(directory: Path) -> None:
    """qemu-img would look at the content; libvirt takes it for raw, and so do we."""
    path = directory / "unrecorded"
    corpus.on("overlay", "qcow2")(path)
    # The first header extension is the backing format: make it one that nobody knows.
    corpus.patched(112, b"\x00\x00\x00\x01")(path)
    top, base = read_chain(str(path))
    assert top.backing_format is None
    assert (base.format, base.format_source, base.backing_filename) == ("raw", "assumed", None)


def test_relative_names_start_where_the_image_was_named(directory: Path, tmp_path: Path) -> None:
    """As in QEMU, a symbolic link does not move the place where relative names start."""
    link = tmp_path / "link"
    link.symlink_to(directory / "overlay")
    (tmp_path / "v3").symlink_to(directory / "raw")
    theirs = info(link)["full-backing-filename"]
    assert read_image(str(link)).full_backing_filename == theirs == str(tmp_path / "v3")
