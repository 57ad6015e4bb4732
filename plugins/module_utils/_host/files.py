# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the file system. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from .._model.image import identity_of
from .._model.state import DirectoryFact, FileFact

_MOST_FILES = 10_000


def file_fact(path: str) -> FileFact:
    """What stands at a path, symbolic links not followed."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return FileFact(path, "")
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "other")
    return FileFact(path, kind, status.st_size, identity_of(status))


def directory_fact(path: str) -> DirectoryFact:
    """Whether new files can be made in a directory, and how many bytes are free there."""
    if not os.path.isdir(path):
        missing = "does not exist" if not os.path.lexists(path) else "is not a directory"
        return DirectoryFact(path, trouble=missing)
    space = os.statvfs(path)
    trouble = "" if os.access(path, os.W_OK | os.X_OK) else "is not writable"
    if space.f_flag & os.ST_RDONLY:
        trouble = "is on a read-only file system"
    size, free = (blocks * space.f_frsize for blocks in (space.f_blocks, space.f_bavail))
    return DirectoryFact(path, free, trouble, size)


def regular_files(directory: str) -> Iterator[str]:
    """The first 10,000 regular files of a directory, none where it cannot be read."""
    try:
        with os.scandir(directory) as entries:
            for count, entry in enumerate(entries):
                if count >= _MOST_FILES:
                    return
                if entry.is_file(follow_symlinks=False):
                    yield entry.path
    except OSError:
        return
