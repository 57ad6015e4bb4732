# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping QEMU from opening images for writing while they are copied.

QEMU locks bytes of an image that stand for what it does and for what it does not let others do
(block/file-posix.c). Taking part in that is all it needs: a QEMU that is started meanwhile fails
to get its "write" lock, and one that writes is seen.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence

from .._model.problem import Conflict, Problem

_DOES, _LETS_NOT = 100, 200
# BLK_PERM_WRITE and BLK_PERM_RESIZE as numbers of bits.
_WRITE, _RESIZE = 1, 3
_LOCK = "hhqqi4x"


@contextlib.contextmanager
def unwritten(paths: Sequence[str]) -> Iterator[None]:
    """Let nobody who keeps QEMU's locks write to these images; Conflict if somebody does."""
    with contextlib.ExitStack() as stack:
        for path in dict.fromkeys(paths):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise Problem(f"{path} cannot be opened: {error.strerror}") from error
            stack.callback(os.close, descriptor)
            _hold(descriptor, path)
        yield


def _hold(descriptor: int, path: str) -> None:
    for bit in (_WRITE, _RESIZE):
        ours = _record(fcntl.F_RDLCK, _LETS_NOT + bit)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, ours)
        asked = _record(fcntl.F_WRLCK, _DOES + bit)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
        if struct.unpack(_LOCK, answer)[0] != fcntl.F_UNLCK:
            raise Conflict(
                f"another process has {path} open for writing",
                wanted="an image that nothing writes to",
                todo="find it (lslocks, fuser) and let it end",
            )


def _record(kind: int, byte: int) -> bytes:
    """A ``struct flock`` for one byte."""
    return struct.pack(_LOCK, kind, os.SEEK_SET, byte, 1, 0)
