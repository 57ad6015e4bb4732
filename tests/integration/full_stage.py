# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small file systems that are really full."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

KINDS = ("tmpfs", "ext4")
_SIZE = 4 << 20
_FILLER = "filler"


@contextlib.contextmanager
def small(kind: str, place: Path) -> Iterator[Path]:
    """A mounted file system of 4 MiB."""
    place.mkdir(parents=True)
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0700", "tmpfs", str(place)]
    else:
        image = place.with_name(f"{place.name}.img")
        image.write_bytes(bytes(_SIZE))
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-b", "1024", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(place)]
    subprocess.run(mount, check=True)
    try:
        os.chmod(place, 0o700)
        yield place
    finally:
        _unmount(place)


def _unmount(place: Path) -> None:
    """A guard that has nothing left to guard needs a moment to end, longer on a busy machine."""
    end = time.monotonic() + 20
    while subprocess.run(["umount", str(place)], check=False).returncode:
        if time.monotonic() > end:
            pytest.fail(f"{place} is still in use")
        time.sleep(0.2)


def block(place: Path) -> int:
    """The size of what is taken at once."""
    return os.statvfs(place).f_frsize


def free(place: Path) -> int:
    space = os.statvfs(place)
    return space.f_bavail * space.f_frsize


def leave(place: Path, size: int) -> None:
    """Fill the file system so that just this much is free, as exactly as it can be."""
    filler = place / _FILLER
    filler.unlink(missing_ok=True)
    os.sync()
    with filler.open("wb", buffering=0) as file:
        want = free(place) - size - 4 * block(place)
        if want > 0:
            os.posix_fallocate(file.fileno(), 0, want)
        with contextlib.suppress(OSError):
            while free(place) > size:
                file.seek(0, os.SEEK_END)
                file.write(bytes(block(place)))
    assert free(place) <= size


def empty(place: Path) -> None:
    """Take away what fills it."""
    (place / _FILLER).unlink(missing_ok=True)
    os.sync()
