# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records: written whole or not at all, and read by what they are.

Everything that a run leaves for a later one is written here: journals, the records of the state
directory, and what a repository holds beside its images.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from .._model.problem import Conflict, Denied, Problem, Unsupported, Unwritten
from .._model.version import VERSION

MODE = 0o600
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LARGEST = 64 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM)


def draft_of(path: str) -> str:
    """The name that a record has while it is written: what a dead run left there is replaced."""
    return f"{path}.new"


def write_json(
    path: str, content: Mapping[str, Any], draft: str = "", *, synced: bool = True
) -> None:
    """:func:`write_whole` for plain data."""
    write_whole(path, json.dumps(content).encode(), draft, synced=synced)


def write_whole(path: str, data: bytes, draft: str = "", *, synced: bool = True) -> None:
    """Replace a file by this content, whole or not at all; it is on disk when this returns.

    Only one may write the record at a time, unless each has a ``draft`` of its own in the same
    directory. Not ``synced`` is for what means nothing after the host has gone down. Raises
    Unwritten, and the record is the old one then.
    """
    draft = draft or draft_of(path)
    try:
        descriptor = new_file(draft)
        try:
            write_all(descriptor, data)
            if synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, path)
        if synced:
            fsync_directory(os.path.dirname(path))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise unwritten(path, error, len(data)) from error


def new_file(path: str, mode: int = MODE) -> int:
    """A descriptor of a new file with this mode whatever the umask, in place of one left there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    descriptor = os.open(path, _NEW, mode)
    try:
        os.fchmod(descriptor, mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: one call of the system may take a part only, as where space runs out."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def remove(path: str) -> None:
    """Remove a record and what is left of one that was being written. Raises Unwritten."""
    gone = False
    try:
        # The draft first: nobody looks for one where there is no record.
        for name in (draft_of(path), path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
                gone = True
        if gone:
            fsync_directory(os.path.dirname(path))
    except OSError as error:
        raise unwritten(path, error, 0) from error


def fsync_directory(path: str) -> None:
    """Make names that were created, renamed or removed in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: str, mode: int) -> None:
    """Make a directory with this mode, whatever the umask, unless it is there."""
    if not os.path.isdir(path):
        os.makedirs(path, mode=mode)
        os.chmod(path, mode)


def unwritten(path: str, error: OSError, size: int, what: str = "record") -> Unwritten:
    """The error where a record of ``size`` bytes, 0 for none, cannot take its place."""
    directory = os.path.dirname(path)
    doing = "written" if size else "removed"
    found = f"the {what} {path} cannot be {doing}: {error.strerror or error}"
    if error.errno in NO_ROOM:
        needs = f"{size} bytes in the directory {directory}"
        return Unwritten(
            f"{found}; it needs {needs}{_free(directory)}",
            wanted=f"room for {needs}",
            todo="make room there, then run the task again",
        )
    wanted = f"{size} bytes on disk in the directory {directory}" if size else ""
    if error.errno in _DENIED:
        return Unwritten(found, wanted=wanted, todo=permission())
    todo = f"look at the directory {directory}, its mount and its disk, then run the task again"
    return Unwritten(found, wanted=wanted, todo=todo)


def no_room_for(path: str, error: OSError, what: str) -> Unwritten:
    """The error where a file system has no room for an empty file or directory: a block of it."""
    size = 4096
    with contextlib.suppress(OSError):
        size = os.statvfs(os.path.dirname(path)).f_frsize
    return unwritten(path, error, size, what)


def _free(directory: str) -> str:
    try:
        space = os.statvfs(directory)
    except OSError:
        return ""
    return f", where {space.f_bavail * space.f_frsize} are free"


def permission() -> str:
    """What to do where the system refuses this user something, in the words of a todo."""
    if os.geteuid():
        return f"run the task as root ('become: true'): it ran as {_user()}"
    return (
        "it ran as root, so look which security module (AppArmor, SELinux), file attribute or file"
        " server (root_squash) refuses that"
    )


def _user() -> str:
    number = os.geteuid()
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"


def denied(path: str, error: OSError, wanted: str = "") -> Denied:
    """The error where the system does not let this user read a file, which says nothing of it."""
    return Denied(
        f"{path} cannot be read by this user: {error.strerror}", wanted=wanted, todo=permission()
    )


def read_json(path: str, what: str) -> dict[str, Any] | None:
    """The plain data of a record, None where there is none.

    Raises Conflict for what is no JSON object, and Denied or Problem where it cannot be read.
    """
    text = read_whole(path, what)
    if text is None:
        return None
    try:
        content = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise not_understood(path, what, f"it is no JSON text ({error})") from error
    if not isinstance(content, dict):
        raise not_understood(path, what, "it holds no JSON object")
    if not all(map(_is_text, _texts_in(content))):
        version = content.get("version")
        by = f"version {version}" if isinstance(version, str) and _is_text(version) else ""
        why = "it holds a text that can be no name of anything"
        raise not_understood(path, what, why, by=by)
    return content


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _texts_in(part)


def _is_text(text: str) -> bool:
    """Whether the system can be asked for a file of that name."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def read_whole(path: str, what: str) -> bytes | None:
    """The bytes of a record, None where there is none; links are not followed."""
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unread(path, what, error) from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > _LARGEST:
        os.close(descriptor)
        raise not_understood(path, what, f"it is no regular file of up to {_LARGEST} bytes")
    with os.fdopen(descriptor, "rb") as file:
        try:
            return file.read()
        except OSError as error:
            raise _unread(path, what, error) from error


def _unread(path: str, what: str, error: OSError) -> Problem:
    if error.errno in _DENIED:
        return denied(path, error, f"to read {what}")
    if error.errno in (errno.ELOOP, errno.ENOTDIR) and not os.path.isdir(os.path.dirname(path)):
        place = os.path.dirname(path)
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        return Unsupported(
            f"{what} {path} cannot be read: {place} is no directory",
            wanted="a private directory that outlives the run",
            todo="move it away, or set another 'state_dir'",
        )
    if error.errno in (errno.ELOOP, errno.ENXIO):
        return not_understood(path, what, "it is no regular file")
    todo = "look at the directory, its mount and its disk, then run the task again"
    return Problem(f"{what} {path} cannot be read: {error.strerror}", todo=todo)


def not_understood(
    path: str, what: str, why: str, *, by: str = "", lost: str = "move the file away"
) -> Conflict:
    """The error for a record of another version. ``by`` names what wrote it, as far as it says so.

    ``lost`` says what to do where no version understands it.
    """
    return Conflict(
        f"{what} {path} cannot be read by version {VERSION} of the collection: {why}"
        + (f" (written by {by})" if by else ""),
        wanted="a record that this version understands",
        todo=f"use the version of the collection that wrote it, or {lost}",
    )
