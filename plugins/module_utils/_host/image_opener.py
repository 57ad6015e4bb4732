# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening image files in allowed places, and nothing else anywhere.

A name can be a symbolic link, and can become one between a check and its use. So the directory
is opened first (only as a place: O_PATH), the kernel says where it really is, and the file is
opened inside it without following a link. Its type is looked at before it is opened, since
opening is enough to wake who waits at a FIFO, to rewind a tape, or to let a watchdog reboot the
host. Who swaps files in between can only make us read another file of the same directory.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from .._model.problem import BadInput, Denied, NotFound, Problem, Unsupported
from .._model.reference import shown
from .durable import permission

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link that leads nowhere",
}


def place_prefixes(roots: Sequence[str]) -> tuple[str, ...]:
    """The directories ``roots``, as written and without symbolic links, each with a final slash.

    Raises BadInput for one that is not an absolute path.
    """
    for root in roots:
        if not root.startswith("/") or "\0" in root:
            raise BadInput(f"the allowed root {shown(root)} is no absolute path")
    places = {place for root in roots for place in (os.path.normpath(root), os.path.realpath(root))}
    return tuple(sorted(place.rstrip("/") + "/" for place in places))


def own_directories(path: str) -> tuple[str, ...]:
    """Where an image lies: as written, and where a symbolic link leads."""
    directory = os.path.dirname(path)
    if os.path.islink(path):
        return (directory, os.path.dirname(os.path.realpath(path)))
    return (directory,)


class _Folder(NamedTuple):
    """An open directory; ``allowed`` if all that lies in it is in an allowed place."""

    descriptor: int
    real: str
    allowed: bool


class Opened(NamedTuple):
    """A file open for reading: where it really is, and what was seen of it before."""

    descriptor: int
    real: str
    facts: os.stat_result


class ImageOpener:
    """Opens files under ``roots``, or anywhere if that is None. Use it as a context manager."""

    def __init__(self, roots: Sequence[str] | None) -> None:
        self._places = ("/",) if roots is None else place_prefixes(roots)
        self._folders: dict[str, _Folder] = {}

    def __enter__(self) -> ImageOpener:
        return self

    def __exit__(self, *_exception: object) -> None:
        for folder in self._folders.values():
            os.close(folder.descriptor)
        self._folders.clear()

    def open(self, path: str) -> Opened:
        """Open the file or block device ``path`` for reading; the caller closes the descriptor.

        Raises BadInput for a path that is not absolute or not in an allowed place, NotFound,
        Unsupported for other kinds of files, and Problem where the kernel refuses.
        """
        if path[:1] != "/" or "\0" in path:
            raise BadInput(f"the image {shown(path)} is no absolute path")
        try:
            return self._open(path, path)
        except FileNotFoundError as error:
            raise NotFound(f"{shown(path)} does not exist") from error
        except NotADirectoryError as error:
            raise NotFound(f"{shown(path)} does not exist: a part of it is a file") from error
        except (OSError, ValueError) as error:
            raise _refused(path, error) from error

    def check_place(self, path: str, what: str = "") -> None:
        """Raise BadInput unless ``path`` is in an allowed place, without opening anything."""
        self._check(path, path, what)
        self._check(path, os.path.realpath(path), what)

    def _open(self, path: str, asked: str) -> Opened:
        """Open ``path``, which is ``asked`` or where that leads as a symbolic link."""
        slash = path.rindex("/")
        parent, name = path[:slash], path[slash + 1 :]
        folder = self._folders.get(parent) or self._enter(parent, path, asked)
        if not folder.allowed:
            self._check(asked, path)
            self._check(asked, f"{folder.real}/{name}")
        if not name:
            raise _wrong_kind(asked, stat.S_IFDIR)
        facts = os.lstat(name, dir_fd=folder.descriptor)
        if stat.S_ISREG(facts.st_mode) or stat.S_ISBLK(facts.st_mode):
            descriptor = _open_at(name, folder.descriptor)
            return Opened(descriptor, f"{folder.real}/{name}", facts)
        if stat.S_ISLNK(facts.st_mode) and path is asked:
            return self._open(os.path.realpath(path), asked)
        raise _wrong_kind(asked, facts.st_mode)

    def _enter(self, parent: str, path: str, asked: str) -> _Folder:
        """Open the directory ``parent`` of ``path``, as a place that cannot be read from."""
        self._check(asked, path)
        descriptor = os.open(parent or "/", _FOLDER)
        self._folders[parent] = _Folder(descriptor, "", False)
        real = os.readlink(f"/proc/self/fd/{descriptor}").rstrip("/")
        allowed = self._inside(real) and self._inside(parent)
        self._folders[parent] = _Folder(descriptor, real, allowed)
        return self._folders[parent]

    def _inside(self, place: str) -> bool:
        if "/." in place or "//" in place:
            place = os.path.normpath(place)
        return f"{place}/".startswith(self._places)

    def _check(self, path: str, place: str, what: str = "") -> None:
        """Raise BadInput unless ``place`` is allowed; ``path`` is what the message names."""
        if not self._inside(place):
            leads = "" if place == path else f" leads to {shown(place)}, which"
            raise BadInput(
                f"{shown(path)}{what}{leads} is outside the allowed roots",
                wanted="a path under " + " or ".join(self._places),
                todo="add its directory to the allowed roots if you trust the image that names it",
            )


def _open_at(name: str, folder: int) -> int:
    """Open without leaving a trace in the file's times, which the kernel grants its owner and root.

    That also saves the time that it takes to note the access.
    """
    try:
        return os.open(name, _FILE | os.O_NOATIME, dir_fd=folder)
    except PermissionError:
        return os.open(name, _FILE, dir_fd=folder)


def _wrong_kind(path: str, mode: int) -> Unsupported:
    return Unsupported(
        f"{shown(path)} is {_KINDS.get(stat.S_IFMT(mode), 'a special file')}",
        wanted="a regular file or a block device",
    )


def _refused(path: str, error: Exception) -> Problem:
    if isinstance(error, PermissionError):
        found = f"{shown(path)} cannot be opened by this user: {error.strerror}"
        return Denied(found, wanted="to read the image", todo=permission())
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return Problem(f"{shown(path)} cannot be opened: {reason}")
