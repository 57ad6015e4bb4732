# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing image files, of which large ones keep a file system busy for seconds.

A file loses its blocks when the last process that has it open closes it after its name is gone
(unlink(2)). For a large file another process is the last one, so that neither the run nor who
waits for its lock has to wait for that. Whoever is killed meanwhile, the blocks come free.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import subprocess

from .durable import fsync_directory

LARGE = 128 << 20
"""Bytes from which on freeing takes longer than starting a program."""


def remove(path: str) -> None:
    """Remove a regular file; its name is durably gone when this returns, its blocks soon after.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.unlink(path)
        fsync_directory(os.path.dirname(path))
        keeper = _keep_open(descriptor) if _allocated(descriptor) >= LARGE else None
    finally:
        os.close(descriptor)
    if keeper and keeper.stdin:
        keeper.stdin.close()


def _allocated(descriptor: int) -> int:
    return os.fstat(descriptor).st_blocks * 512


def _keep_open(descriptor: int) -> subprocess.Popen[bytes]:
    """A process that has the file open until its standard input is closed, or we end."""
    return subprocess.Popen(
        ["cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
    )
