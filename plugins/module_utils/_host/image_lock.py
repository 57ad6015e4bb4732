# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The locks that QEMU holds on its images, seen and held without QEMU.

Every QEMU program locks single bytes of an image file (fcntl(2), open file description locks):
byte 100 + n while it has the permission n, byte 200 + n while it lets nobody else have it. All of
these are shared locks; whether somebody holds one is asked with an exclusive one that is never
taken. So asking takes no lock, keeps nobody waiting, and works on images in use (see
block/file-posix.c in QEMU's source, and "image locking" in its documentation).

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator

from .._model.image import Identity, identity_of
from .._model.problem import Busy, Problem
from .._model.reference import shown
from .durable import denied
from .lock import named

_HAS, _SHARES_NOT = 100, 200
_WRITE, _RESIZE = 1, 3
# What bars a writer, and what a writer has.
_WRITING = (_HAS + _WRITE, _HAS + _RESIZE)
_BARRING = (*_WRITING, _SHARES_NOT + _WRITE, _SHARES_NOT + _RESIZE)
# struct flock with its padding; the last field has to be 0.
_FLOCK = struct.Struct("hhqqi4x")
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def users(path: str) -> str:
    """Who keeps QEMU from writing to the image at ``path``, '' for nobody. Raises Problem."""
    return _holders(path, _BARRING)


def writers(path: str) -> str:
    """Who may write to the image at ``path``, '' for nobody. Raises Problem."""
    return _holders(path, _WRITING)


@contextlib.contextmanager
def unwritten(path: str) -> Iterator[int]:
    """Keep every QEMU from opening an image for writing; Busy if one has it open already.

    Gives the descriptor of the file. Reading it is still possible.
    """
    descriptor = os.open(path, _OPEN | os.O_NOFOLLOW)
    try:
        for byte in (_SHARES_NOT + _WRITE, _SHARES_NOT + _RESIZE):
            lock = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        if any(_held(descriptor, byte) for byte in _WRITING):
            raise Busy(
                f"{shown(path)} has been opened for writing by {_described(descriptor)}",
                wanted="an image that nobody writes to",
                todo="run the task again when nothing uses it",
            )
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def all_unwritten(paths: Iterable[str]) -> Iterator[None]:
    """Do so with several images, under whatever names."""
    with contextlib.ExitStack() as stack:
        for path in dict.fromkeys(os.path.realpath(path) for path in paths):
            stack.enter_context(unwritten(path))
        yield


def _holders(path: str, bytes_: tuple[int, ...]) -> str:
    try:
        descriptor = os.open(path, _OPEN)
    except FileNotFoundError:
        return ""
    except PermissionError as error:
        raise denied(shown(path), error, "to know whether it is in use") from error
    except OSError as error:
        raise Problem(f"{shown(path)} cannot be opened: {error.strerror}") from error
    try:
        return _described(descriptor) if any(_held(descriptor, at) for at in bytes_) else ""
    except OSError as error:
        raise Problem(
            f"whether {shown(path)} is in use cannot be told: {error.strerror}",
            wanted="a file system with locks, such as QEMU uses",
            todo="work on that image where its locks can be seen",
        ) from error
    finally:
        os.close(descriptor)


def _held(descriptor: int, byte: int) -> bool:
    """Whether anybody but this descriptor has a lock on a byte."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def _described(descriptor: int) -> str:
    """The processes that have the image locked, with the names of their VMs."""
    identity = identity_of(os.fstat(descriptor))
    found = [_text(pid) for pid in _processes(identity)]
    return ", ".join(found) or "a process that this user may not see"


def _processes(identity: Identity) -> Iterator[int]:
    """Who has a file open and a lock on it (proc(5), fdinfo)."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(pid) != os.getpid() and any(
                _locks(f"/proc/{pid}", number, identity) for number in os.listdir(f"/proc/{pid}/fd")
            ):
                yield int(pid)


def _locks(process: str, number: str, identity: Identity) -> bool:
    with contextlib.suppress(OSError):
        if identity_of(os.stat(f"{process}/fd/{number}")) == identity:
            with open(f"{process}/fdinfo/{number}", encoding="ascii") as file:
                return any(line.startswith("lock:") for line in file)
    return False


def _text(pid: int) -> str:
    """``process 42 (qemu-system-x86), VM db01``; libvirt gives QEMU the name of its VM."""
    words: list[str] = []
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().decode("utf-8", "replace").split("\0")
    name = words[words.index("-name") + 1] if "-name" in words[:-1] else ""
    name = name.partition(",")[0].partition("guest=")[2]
    return named((pid,)) + (f", VM {name}" if name else "")
