# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that somebody writes to while they are read."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import qemu_img
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_file import read_image
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image_result import to_result
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Problem
from images import build, corpus
from images.compare import compare, expected
from images.storage import StorageDaemon

CHANGES = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "disk.qcow2"
    corpus.created()(made)
    corpus.with_bitmap("first")(made)
    return made


@pytest.fixture
def daemon(path: Path) -> Iterator[StorageDaemon]:
    with StorageDaemon(path) as running:
        yield running


def info(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["qemu-img", "info", "--output=json", *options, "--", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("daemon")
def test_an_image_in_use_is_read(path: Path) -> None:
    """qemu-img refuses it without being forced; forced, it says what we say."""
    assert "Failed to get shared" in info(path).stderr
    compare(to_result(read_image(str(path))), expected(json.loads(info(path, "-U").stdout)))
    (bitmap,) = read_image(str(path)).bitmaps
    assert bitmap.inconsistent, "as every bitmap of an image in use"


def test_reading_takes_no_lock(path: Path) -> None:
    """A writer starts while our descriptor is open: the reader that it would wait for is gone."""
    with path.open("rb"), StorageDaemon(path):
        assert read_image(str(path)).virtual_size == 64 << 20


@pytest.mark.usefixtures("daemon")
def test_an_image_in_use_cannot_be_checked(path: Path) -> None:
    with pytest.raises(Problem, match="lock"):
        qemu_img.check(str(path), "qcow2")


def test_tables_that_move_while_they_are_read(path: Path, daemon: StorageDaemon) -> None:
    """Bitmaps and snapshots come and go all the time; every read gives one state or another."""
    stop = threading.Event()
    changes: list[int] = []
    writer = threading.Thread(target=rewrite_tables, args=(daemon, stop, changes))
    writer.start()
    try:
        seen = set()
        while len(changes) < CHANGES and writer.is_alive():
            image = read_image(str(path), format="qcow2")
            seen.add((len(image.bitmaps), len(image.snapshots)))
    finally:
        stop.set()
        writer.join()
    assert len(changes) >= CHANGES
    assert len(seen) > 1, "the writer has changed nothing that a reader could see"


def rewrite_tables(daemon: StorageDaemon, stop: threading.Event, changes: list[int]) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        daemon.do("blockdev-snapshot-internal-sync", device="disk", name=f"s{number}")
        daemon.do("block-dirty-bitmap-add", node="disk", name=f"b{number}", persistent=True)
        daemon.do("block-dirty-bitmap-remove", node="disk", name=f"b{number}")
        daemon.do("blockdev-snapshot-delete-internal-sync", device="disk", name=f"s{number}")
        changes.append(number)


def test_a_table_that_is_torn_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first read meets a header that points at a table of another time."""
    torn = build.with_snapshot(b"").build()
    real = path.read_bytes()
    path.write_bytes(torn)
    monkeypatch.setattr("time.sleep", lambda _seconds: path.write_bytes(real))
    assert [bitmap.name for bitmap in read_image(str(path)).bitmaps] == ["first"]
