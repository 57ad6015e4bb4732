# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of files that share all their blocks with the original (ioctl_ficlone(2)).

A copy has no name until it is complete: it is made without one (O_TMPFILE) and then linked to its
place, which fails if something is there. So a run that dies leaves a whole copy or none. Nothing is
ever copied byte by byte instead.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import struct
from collections.abc import Mapping
from typing import Any

from .._model.problem import Conflict, NotFound, Problem, Unsupported
from .durable import fsync_directory

FICLONE = 0x40049409
MARK = "user.vmkeep"
# linux/fs.h; an inode without copy-on-write of btrfs shares blocks only with its like.
_GETFLAGS, _SETFLAGS, _NOCOW = 0x80086601, 0x40086602, 0x00800000
_KEPT = ("security.selinux", "system.posix_acl_access")
_PROBE = 4096


def clone(
    source: str, target: str, *, like: str = "", mark: Mapping[str, str] | None = None
) -> None:
    """Make ``target`` a copy of the file ``source``, durable when this returns.

    Owner and security label are those of the source, and the mode lets only the owner in; or all
    of these are those of the file ``like``. ``mark`` is kept in the copy. Conflict if something is
    in the way, Unsupported where the file system cannot do it, NotFound if there is no source.
    """
    try:
        with contextlib.ExitStack() as stack:
            old = _opened(stack, source, os.O_RDONLY | os.O_NOFOLLOW)
            new = _opened(stack, os.path.dirname(target), os.O_TMPFILE | os.O_RDWR)
            _keep_cow(old, new)
            fcntl.ioctl(new, FICLONE, old)
            _dress(_opened(stack, like, os.O_RDONLY) if like else old, new, same_mode=bool(like))
            if mark:
                os.setxattr(new, MARK, json.dumps(mark).encode())
            os.fsync(new)
            # Only with a descriptor (which is not used) Python asks the kernel to follow the link.
            os.link(f"/proc/self/fd/{new}", target, src_dir_fd=new, follow_symlinks=True)
    except OSError as error:
        raise _refused(error, source, target) from error
    fsync_directory(os.path.dirname(target))


def _opened(stack: contextlib.ExitStack, path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor


def _keep_cow(old: int, new: int) -> None:
    """An image that is written in place (chattr +C) can be cloned only into its like."""
    flags = _flags(old)
    if flags & _NOCOW:
        fcntl.ioctl(new, _SETFLAGS, struct.pack("l", _flags(new) | _NOCOW))


def _flags(descriptor: int) -> int:
    try:
        answer = fcntl.ioctl(descriptor, _GETFLAGS, bytes(struct.calcsize("l")))
    except OSError:
        return 0
    return int(struct.unpack("l", answer)[0])


def _dress(model: int, new: int, *, same_mode: bool) -> None:
    facts = os.fstat(model)
    if os.geteuid() == 0:
        os.fchown(new, facts.st_uid, facts.st_gid)
    os.fchmod(new, facts.st_mode & 0o7777 if same_mode else 0o600)
    for name in os.listxattr(model):
        # Not what libvirt notes of an image in use (trusted.libvirt.*): nobody uses the copy.
        wanted = name in _KEPT if same_mode else name == _KEPT[0]
        if wanted or (name.startswith("user.") and name != MARK):
            os.setxattr(new, name, os.getxattr(model, name))


def _refused(error: OSError, source: str, target: str) -> Problem:
    if error.errno == errno.EEXIST:
        return Conflict(
            f"{target} has appeared in the meantime",
            wanted=f"to create it as a clone of {source}",
            todo="run the task again to see what it is",
        )
    if error.errno == errno.ENOENT:
        return NotFound(f"{source} or the directory of {target} does not exist")
    reasons = {
        errno.EOPNOTSUPP: "its file system cannot share blocks between files",
        errno.EXDEV: "they are on different file systems",
        errno.EINVAL: "its file system cannot share the blocks of these files",
        errno.ENOSPC: "no space is left",
    }
    return Unsupported(
        f"{source} cannot be cloned to {target}:"
        f" {reasons.get(error.errno or 0, error.strerror or str(error))}",
        wanted="a clone that shares all blocks, which is never replaced by a slow copy",
        todo="keep the images on XFS (made with reflink=1) or btrfs, or take a snapshot by"
        " libvirt (vm_snapshot)",
    )


def clone_trouble(directory: str) -> str:
    """Why files cannot be cloned in a directory, '' if they can: tried with nameless files."""
    try:
        with contextlib.ExitStack() as stack:
            old = _opened(stack, directory, os.O_TMPFILE | os.O_RDWR)
            new = _opened(stack, directory, os.O_TMPFILE | os.O_RDWR)
            os.write(old, bytes(_PROBE))
            fcntl.ioctl(new, FICLONE, old)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def mark_in(path: str) -> dict[str, str]:
    """The mark that a file carries, {} if it is none of ours."""
    try:
        content: Any = json.loads(os.getxattr(path, MARK, follow_symlinks=False))
    except (OSError, ValueError):
        return {}
    plain = isinstance(content, dict) and all(isinstance(v, str) for v in content.values())
    return content if plain else {}
