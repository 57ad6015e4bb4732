# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One mutating run per VM at a time: a flock, so that it dies with its owner.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence

from .._model.problem import Busy, Unsupported
from .durable import MODE, NO_ROOM, no_room_for, permission
from .state_dir import state_directory

_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_RETRY_SECONDS = 0.05
# A guard that can speak to the agent ends within a few seconds.
_GUARD_SECONDS = 15.0


@contextlib.contextmanager
def locked(
    state_dir: str, uuid: str, vm: str, holder: str, timeout: float, *, kind: str = "VM"
) -> Iterator[None]:
    """Hold the VM's lock; Busy after ``timeout`` seconds, naming the holder.

    Another ``kind`` of thing has a lock of its own in the same way, by a key and a name.
    """
    path = os.path.join(state_directory(state_dir, "lock"), f"{uuid}.lock")
    with lock_file(path, f"{kind} {vm}", holder, timeout):
        yield


@contextlib.contextmanager
def lock_file(
    path: str, what: str, holder: str, timeout: float, *, shared: bool = False
) -> Iterator[None]:
    """Hold a lock on a file that says who does; Busy after ``timeout`` seconds naming ``what``.

    A ``shared`` lock is held by many, none of which is named in the file, and nobody else.
    """
    access = os.O_RDWR | os.O_CREAT
    if shared and os.path.exists(path):
        access = os.O_RDONLY
    descriptor = opened(path, access, what)
    try:
        _acquire(descriptor, what, time.monotonic() + timeout, shared=shared)
        if shared:
            yield
            return
        _note(descriptor, holder)
        yield
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def opened(path: str, access: int, what: str) -> int:
    """A lock file, made private if it is not there; Unsupported if it cannot be opened."""
    try:
        descriptor = os.open(path, access | _OPEN, MODE)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room_for(path, error, "lock file") from error
        how = "look at its owner, its mode and its file system"
        raise Unsupported(
            f"{what} cannot be locked: the lock file {path} cannot be opened: {error.strerror}",
            wanted="a regular file that this user can write to, or a directory to make it in",
            todo=permission() if isinstance(error, PermissionError) else how,
        ) from error
    if os.fstat(descriptor).st_mode & MODE != MODE and access & os.O_CREAT:
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, MODE)  # the umask took it
    return descriptor


def _note(descriptor: int, holder: str) -> None:
    """Say in the lock file who holds it, which only helps people: the kernel knows, too."""
    note = {"pid": os.getpid(), "run": holder, "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)


@contextlib.contextmanager
def guard_lock(state_dir: str, uuid: str, vm: str) -> Iterator[int]:
    """Hold the lock of those who guard a VM's freeze; Busy if a guard does not end.

    A guard that inherits the descriptor keeps the lock to its own end, beyond this block. So
    nobody freezes a guest that the guard of a dead run still watches and would thaw.
    """
    path = os.path.join(state_directory(state_dir, "lock"), f"{uuid}.guard")
    descriptor = opened(path, os.O_RDWR | os.O_CREAT, f"the freeze of VM {vm}")
    try:
        if not _flock(descriptor, time.monotonic() + _GUARD_SECONDS):
            raise Busy(
                f"the guard of an earlier run still tries to thaw VM {vm}"
                f" ({named(_lockers(descriptor))})",
                wanted="to freeze it",
                todo="look at its guest agent, or use 'quiesce: never'",
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, what: str, deadline: float, *, shared: bool) -> None:
    if not _flock(descriptor, deadline, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        raise Busy(
            f"{what} is held by another run: {_holder(descriptor)}",
            wanted="to work on it alone",
            todo="let that run end, or raise 'lock_timeout'",
        )


def _flock(descriptor: int, deadline: float, kind: int = fcntl.LOCK_EX) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(_RETRY_SECONDS)


def _holder(descriptor: int) -> str:
    """Who holds the lock: the run that noted itself, or any other process by its name."""
    pids = _lockers(descriptor)
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        if not pids or note["pid"] in pids:
            return f"{note['run']}, process {note['pid']}, since {note['since']}"
    except (ValueError, KeyError, TypeError):
        pass  # nothing is noted yet, or what a dead run left is being written over
    return named(pids) if pids else "a process that has just begun"


def _lockers(descriptor: int) -> tuple[int, ...]:
    """The processes that took the lock, as far as the kernel tells (proc(5), /proc/locks).

    Only the inode is compared, since some file systems show another device there.
    """
    inode = str(os.fstat(descriptor).st_ino)
    try:
        with open("/proc/locks", encoding="ascii") as file:
            entries = [line.split() for line in file]
    except OSError:
        return ()
    held = [entry for entry in entries if entry[1] == "FLOCK" and entry[5].split(":")[2] == inode]
    return tuple(int(entry[4]) for entry in held if int(entry[4]) > 0)


def named(pids: Sequence[int]) -> str:
    """``process 42 (python3)`` for each."""
    names = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                names.append(f"process {pid} ({file.read().strip()})")
        except OSError:
            names.append(f"process {pid}")
    return ", ".join(names)


def holder_of(path: str) -> str:
    """Who holds a lock of :func:`lock_file` now, '' for nobody or where it cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return _holder(descriptor) if _lockers(descriptor) else ""
    finally:
        os.close(descriptor)
