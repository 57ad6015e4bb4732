# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's locks on images, held here as QEMU holds them, and what is made of them."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import image_lock
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Busy, Problem

# Permissions of QEMU (block/block-common.h): consistent read, write, unchanged write, resize.
READ, WRITE, UNCHANGED, RESIZE = range(4)
HOLDER = """
import fcntl, os, struct, sys, time
file = os.open(sys.argv[-1], os.O_RDONLY)
for byte in map(int, sys.argv[-2].split()):
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, byte, 1, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
print("ready", flush=True)
time.sleep(600)
"""


class Holder:
    """A process that has these bytes of a file locked, as a VM of this name."""

    def __init__(self, path: Path, *bytes_: int) -> None:
        name = ["-name", "guest=db01,debug-threads=on"]
        held = " ".join(map(str, bytes_))
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *name, held, str(path)], stdout=subprocess.PIPE
        )
        self.pid = self._process.pid

    def __enter__(self) -> Holder:
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "disk"
    made.write_bytes(b"")
    yield made


@pytest.mark.parametrize(
    ("held", "in_use", "written"),
    [
        ((), False, False),
        ((100 + READ,), False, False),
        ((100 + READ, 200 + WRITE, 200 + RESIZE), True, False),
        ((100 + READ, 100 + WRITE, 100 + RESIZE, 200 + WRITE), True, True),
        ((100 + WRITE,), True, True),
        ((100 + UNCHANGED,), False, False),
        ((0, 99, 300), False, False),
    ],
)
def test_who_bars_a_writer(path: Path, held: tuple[int, ...], in_use: bool, written: bool) -> None:
    """A reader that shares everything (qemu-img info -U) is in nobody's way."""
    with Holder(path, *held) as holder:
        users, writers = image_lock.users(str(path)), image_lock.writers(str(path))
        assert (bool(users), bool(writers)) == (in_use, written)
        for text in filter(None, (users, writers)):
            assert text == f"process {holder.pid} ({comm(holder.pid)}), VM db01"
    assert image_lock.users(str(path)) == ""


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_asking_takes_no_lock(path: Path) -> None:
    with Holder(path, 200 + WRITE):
        assert image_lock.users(str(path))
    with path.open("rb+") as file:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)


def test_a_file_that_is_kept_from_writers(path: Path) -> None:
    with image_lock.unwritten(str(path)):
        assert str(os.getpid()) not in image_lock.users(str(path))
        assert "may not see" in image_lock.users(str(path))
        assert not image_lock.writers(str(path))
    assert not image_lock.users(str(path))
    with (
        Holder(path, 100 + WRITE),
        pytest.raises(Busy, match="VM db01"),
        image_lock.unwritten(str(path)),
    ):
        pytest.fail("there is a writer")


def test_files_that_are_not_there(path: Path) -> None:
    assert image_lock.users(f"{path}.none") == ""
    with pytest.raises(Problem, match="cannot be opened"):
        image_lock.users(f"{path}/below")
