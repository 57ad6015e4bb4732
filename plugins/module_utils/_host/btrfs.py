# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""btrfs subvolumes: where a file lies, and the one adapter for the program btrfs.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .._model.problem import Problem
from .._model.storage import SUBVOLUMES
from .durable import fsync_directory
from .program import Limits, run

_ROOT_INODE = 256
_QUICK = 600.0


def subvolume_of(path: str) -> str:
    """The btrfs subvolume that a file lies in, by its path without symbolic links; '' if none."""
    place = os.path.dirname(os.path.realpath(path))
    if _file_system(place) != "btrfs":
        return ""
    with contextlib.suppress(OSError):
        while os.stat(place).st_ino != _ROOT_INODE:
            place = os.path.dirname(place)
        return place
    return ""


def _file_system(place: str) -> str:
    """The type of the file system at a path (proc(5), /proc/PID/mountinfo)."""
    found = ("", "")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = _unescaped(line.split()[4])
            inside = place == point or place.startswith(f"{point.rstrip('/')}/")
            # Of two that are mounted at the same place the later one covers the other.
            if inside and len(point) >= len(found[0]):
                found = (point, line.partition(" - ")[2].split()[0])
    return found[1]


def _unescaped(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def kept_in(subvolume: str) -> Iterator[str]:
    """What stands where snapshots of a subvolume are kept."""
    with contextlib.suppress(OSError):
        yield from sorted(
            os.path.join(subvolume, SUBVOLUMES, name)
            for name in os.listdir(os.path.join(subvolume, SUBVOLUMES))
        )


def is_subvolume(path: str) -> bool:
    try:
        return os.lstat(path).st_ino == _ROOT_INODE
    except OSError:
        return False


def snapshot(subvolume: str, target: str) -> None:
    """Make ``target`` a read-only snapshot of a subvolume, on disk when this returns."""
    folder = os.path.dirname(target)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    _btrfs("subvolume", "snapshot", "-r", "--", subvolume, target)
    fsync_directory(folder)


def delete(target: str) -> None:
    """Delete a snapshot; its name is durably gone when this returns, its blocks soon after."""
    if not is_subvolume(target):
        raise Problem(
            f"{target} is no subvolume",
            wanted="the snapshot of one, to delete it",
            todo="look who has put it there, and move it away",
        )
    _btrfs("subvolume", "delete", "--commit-after", "--", target)
    tidy(target)


def tidy(target: str) -> None:
    """Remove the folder of snapshots that are gone; one that holds others stays."""
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(target))


def _btrfs(*words: str) -> None:
    answer = run(["btrfs", *words], limits=Limits(), timeout=_QUICK)
    if answer.rc:
        raise answer.problem()
