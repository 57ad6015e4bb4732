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
    descriptor = os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _acquire(descriptor, what, time.monotonic() + timeout, shared=shared)
        if shared:
            yield
            return
        note = {"pid": os.getpid(), "run": holder, "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def guard_lock(state_dir: str, uuid: str, vm: str) -> Iterator[int]:
    """Hold the lock of those who guard a VM's freeze; Busy if a guard does not end.

    A guard that inherits the descriptor keeps the lock to its own end, beyond this block. So
    nobody freezes a guest that the guard of a dead run still watches and would thaw.
    """
    path = os.path.join(state_directory(state_dir, "lock"), f"{uuid}.guard")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
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


def state_directory(state_dir: str, part: str) -> str:
    """``state_dir/part``, made private if it is not there; Unsupported if it cannot be."""
    path = os.path.join(state_dir, part)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise _unusable(path, "is not writable for this user")
    return path


def _unusable(path: str, why: str) -> Unsupported:
    return Unsupported(
        f"the state directory {path} cannot be used: {why}",
        wanted="a private directory that outlives the run",
        todo="set the option 'state_dir', or run as the user who owns it",
    )


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
