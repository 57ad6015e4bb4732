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
from .durable import denied, permission

_MOST_FILES = 10_000


def file_fact(path: str) -> FileFact:
    """What stands at a path, symbolic links not followed. Raises Denied."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return FileFact(path, "")
    except PermissionError as error:
        raise denied(path, error, "to know what stands there") from error
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "other")
    return FileFact(path, kind, status.st_size, identity_of(status))


def is_gone(path: str) -> bool:
    """Whether nothing stands there; what this user may not look at may be there."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def directory_fact(path: str) -> DirectoryFact:
    """Whether new files can be made in a directory, and how many bytes are free there."""
    if not os.path.isdir(path):
        missing = "does not exist" if is_gone(path) else "is not a directory"
        if _hidden(path):
            missing = f"cannot be looked at ({permission()})"
        return DirectoryFact(path, trouble=missing)
    space = os.statvfs(path)
    trouble = "" if os.access(path, os.W_OK | os.X_OK) else f"is not writable ({permission()})"
    if space.f_flag & os.ST_RDONLY:
        trouble = "is on a read-only file system"
    elif space.f_files and not space.f_favail:
        trouble = "is on a file system that has no inode left for another file"
    size, free = (blocks * space.f_frsize for blocks in (space.f_blocks, space.f_bavail))
    return DirectoryFact(path, free, trouble, size, os.path.realpath(path))


def on_read_only(path: str) -> bool:
    """Whether a file is on a read-only file system, wherever links to it are; False for none."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _hidden(path: str) -> bool:
    """Whether this user may not even look whether it is there."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def regular_files(directory: str, *, strict: bool = False) -> Iterator[str]:
    """The first 10,000 regular files of a directory, none where it cannot be read.

    With ``strict`` raises Denied where this user may not read it.
    """
    try:
        with os.scandir(directory) as entries:
            for count, entry in enumerate(entries):
                if count >= _MOST_FILES:
                    return
                if entry.is_file(follow_symlinks=False):
                    yield entry.path
    except OSError as error:
        if strict and isinstance(error, PermissionError):
            raise denied(directory, error, "to know which images stand on others there") from error
