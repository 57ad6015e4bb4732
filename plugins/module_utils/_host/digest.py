# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The SHA-256 of files, and making them durable.

hashlib lets other threads run meanwhile, so several files can be read side by side.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import queue
import stat
import threading
from collections.abc import Generator

from .._model.backup import StoredFile
from .._model.problem import Damaged
from .repository_read import unread

_CHUNK = 4 << 20
_LARGEST_TEXT = 16 << 20
# What a disk or file system answers that has lost something: all else can be over the next time.
_BAD = (errno.EIO, errno.EISDIR, errno.EUCLEAN, errno.EBADMSG, errno.EREMOTEIO, errno.ENODATA)


def stored_file(folder: str, name: str, role: str) -> StoredFile:
    """A file as a manifest names it; its content is on disk when this returns."""
    descriptor = _open(os.path.join(folder, name))
    try:
        os.fsync(descriptor)
        size, digest = _digest(descriptor)
    finally:
        os.close(descriptor)
    return StoredFile(name, role, size, digest)


def stored_text(path: str, file: StoredFile) -> str:
    """A small file, as its manifest names it. Raises Damaged."""
    with os.fdopen(_open(path), "rb") as opened:
        content = opened.read(_LARGEST_TEXT)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise Damaged(f"{path} has another content than its manifest says")
    return content.decode("utf-8", "replace")


def trouble_with(path: str, file: StoredFile) -> str:
    """What is wrong with a stored file that should be at ``path``, '' if every byte is right.

    Raises Problem where that cannot be told, such as Denied where this user may not read it.
    """
    try:
        descriptor = _open(path)
    except Damaged as problem:
        return problem.found
    try:
        size, digest = _digest(descriptor)
    except OSError as error:
        if error.errno not in _BAD:
            raise unread(path, error) from error
        return f"{path} cannot be read: {error.strerror}"
    finally:
        os.close(descriptor)
    if size != file.size:
        return f"{path} has {size} bytes, its manifest says {file.size}"
    if digest != file.sha256:
        return f"{path} has another content than its manifest says (SHA-256 {digest})"
    return ""


def _open(path: str) -> int:
    """A regular file, never by a link, and never one that makes us wait.

    Raises Damaged, and Problem where that cannot be told.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise unread(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Damaged(f"{path} is no regular file")
    return descriptor


def _digest(descriptor: int) -> tuple[int, str]:
    """Bytes, and SHA-256 in hex. Raises OSError."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    state, size = hashlib.sha256(), 0
    with contextlib.closing(_chunks(descriptor)) as chunks:
        for chunk in chunks:
            state.update(chunk)
            size += len(chunk)
    return size, state.hexdigest()


def _chunks(descriptor: int) -> Generator[memoryview, None, None]:
    """A file from where it is at, each chunk valid until the next: that one is being read already.

    By a thread that goes with the process, since a read can hang. Raises OSError.
    """
    empty: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
    full: queue.SimpleQueue[memoryview | OSError] = queue.SimpleQueue()
    file = os.fdopen(os.dup(descriptor), "rb", buffering=0)

    def read() -> None:
        with file:
            try:
                while (buffer := empty.get()) is not None:
                    count = file.readinto(buffer) or 0
                    full.put(memoryview(buffer)[:count])
                    if not count:
                        return
            except OSError as error:
                full.put(error)

    buffers = [bytearray(_CHUNK), bytearray(_CHUNK)]
    for buffer in buffers:
        empty.put(buffer)
    threading.Thread(target=read, daemon=True).start()
    try:
        while found := full.get():
            if isinstance(found, OSError):
                raise found
            yield found
            empty.put(buffers[0])
            buffers.reverse()
    finally:
        empty.put(None)
