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
from collections.abc import Iterator

from .._model.problem import Busy, Unsupported

_RETRY_SECONDS = 0.05


@contextlib.contextmanager
def locked(state_dir: str, uuid: str, vm: str, holder: str, timeout: float) -> Iterator[None]:
    """Hold the VM's lock; Busy after ``timeout`` seconds, naming the holder."""
    path = os.path.join(state_directory(state_dir, "lock"), f"{uuid}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _acquire(descriptor, vm, time.monotonic() + timeout)
        note = {"pid": os.getpid(), "run": holder, "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, vm: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy(
                    f"VM {vm} is held by another run: {_holder(descriptor)}",
                    wanted="to work on it alone",
                    todo="let that run end, or raise 'lock_timeout'",
                ) from None
        time.sleep(_RETRY_SECONDS)


def _holder(descriptor: int) -> str:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        return f"{note['run']}, process {note['pid']}, since {note['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has just begun"


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
