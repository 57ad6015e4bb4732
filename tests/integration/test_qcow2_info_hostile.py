# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile images and paths: a clear error, soon, with little memory, and nothing else opened."""

from __future__ import annotations

import os
import stat
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._images import look_at_images
from images import build
from images.hostile import CASES, SECRET, Case

SECONDS = 0.050
BYTES = 16 << 20
TRIES = 5


class Watch:
    """All that this process opens or starts while it is on, as the interpreter reports it."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        self.opened: list[tuple[str, int]] = []
        self._open = os.open
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        watched = event == "open" or event.startswith(("os.exec", "subprocess", "socket", "os.sys"))
        if self.on and watched:
            self.events.append(f"{event} {arguments}")

    def open(self, path: str, flags: int, *rest: Any, **named: Any) -> int:
        """os.open, noting what the kernel says was opened."""
        descriptor = self._open(path, flags, *rest, **named)
        if self.on:
            self.opened.append((os.readlink(f"/proc/self/fd/{descriptor}"), flags))
        return descriptor


WATCH = Watch()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    WATCH.events.clear()
    WATCH.opened.clear()
    monkeypatch.setattr(os, "open", WATCH.open)
    yield WATCH
    WATCH.on = False


def look(path: str, root: str) -> dict[str, Any]:
    """The entry for one path, exactly as the module returns it."""
    options = {
        "path": [path],
        "format": "qcow2" if "disk" in path else None,
        "backing_chain": True,
        "check": False,
        "check_timeout": 1,
        "allowed_roots": [root],
    }
    result, problems = look_at_images(options)
    (entry,) = result["images"]
    assert problems == [entry["error"]]
    return entry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_there_are_enough_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hostile(case: Case, folder: Path, watch: Watch) -> None:
    root = case.root or str(folder)
    path = case.make(folder)
    watch.on = True
    entry = look(path, root)
    watch.on = False
    assert case.expected in entry["error"]
    assert path[:100].split("\0")[0] in entry["error"]
    assert SECRET.decode().strip() not in str(entry)
    assert_only_in(root, watch)
    assert any(seconds(path, root) < SECONDS for dummy in range(TRIES))
    assert peak_of_memory(path, root) < BYTES


def assert_only_in(root: str, watch: Watch) -> None:
    """Nothing was started or connected, and nothing opened by another way than os.open.

    A directory may have been opened as a place (O_PATH), from which nothing can be read.
    """
    assert len(watch.events) == len([event for event in watch.events if event.startswith("open ")])
    for real, flags in watch.opened:
        assert flags & os.O_PATH or real.startswith(f"{root}/"), real
        assert flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0
        if not flags & os.O_PATH:
            assert flags & os.O_NONBLOCK
            assert stat.S_ISREG(os.stat(real).st_mode)


def seconds(path: str, root: str) -> float:
    start = time.perf_counter()
    look(path, root)
    return time.perf_counter() - start


def peak_of_memory(path: str, root: str) -> int:
    tracemalloc.start()
    try:
        look(path, root)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_watch_sees_what_is_opened(folder: Path, watch: Watch) -> None:
    """The control: a good image is opened, and a reading of something else would be noticed."""
    path = folder / "disk.qcow2"
    path.write_bytes(build.Bytes().build())
    watch.on = True
    result, problems = look_at_images(
        {
            "path": [str(path)],
            "format": None,
            "backing_chain": True,
            "check": False,
            "allowed_roots": [str(folder)],
        }
    )
    assert problems == []
    assert result["images"][0]["depth"] == 1
    assert [real for real, flags in watch.opened if not flags & os.O_PATH] == [str(path)]
    os.close(os.open(folder.parent / "outside" / "secret", os.O_RDONLY))
    with pytest.raises(AssertionError):
        assert_only_in(str(folder), watch)


def test_a_symlink_that_is_swapped_in_at_the_last_moment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is checked, replaced by a link to the secret, and only then opened."""
    path = folder / "disk.qcow2"
    path.write_bytes(build.Bytes().build())
    real_open = os.open

    def swap_then_open(name: str, flags: int, *rest: Any, **named: Any) -> int:
        if name == "disk.qcow2":
            path.unlink()
            path.symlink_to("../outside/secret")
        return real_open(name, flags, *rest, **named)

    monkeypatch.setattr(os, "open", swap_then_open)
    entry = look(str(path), str(folder))
    assert "cannot be opened: Too many levels of symbolic links" in entry["error"]


@pytest.mark.parametrize("kind", ["file", "fifo", "directory"])
def test_something_else_is_swapped_in_at_the_last_moment(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is checked, replaced, and only then opened: we neither wait nor believe it."""
    path = folder / "disk.qcow2"
    path.write_bytes(build.Bytes().build())
    real_open = os.open

    def swap_then_open(name: str, flags: int, *rest: Any, **named: Any) -> int:
        if name == "disk.qcow2":
            path.unlink()
            if kind == "file":
                path.write_bytes(SECRET)
            elif kind == "fifo":
                os.mkfifo(path)
            else:
                path.mkdir()
        return real_open(name, flags, *rest, **named)

    monkeypatch.setattr(os, "open", swap_then_open)
    wanted = {"file": "magic", "fifo": "Illegal seek", "directory": "Is a directory"}
    assert wanted[kind] in look(str(path), str(folder))["error"]
