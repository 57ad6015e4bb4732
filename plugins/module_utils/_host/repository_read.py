# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading small things of a repository, whose content is not trusted.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from .._model.problem import Damaged, Problem
from .durable import denied

_LARGEST_TEXT = 16 << 20
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


def unread(path: str, error: OSError) -> Problem:
    """The error where the system does not let something be read.

    Damaged where no file stands there; all else says nothing of what does.
    """
    if isinstance(error, PermissionError):
        return denied(path, error, "to read the repository")
    if error.errno in _NO_FILE:
        return Damaged(f"{path} cannot be read: {error.strerror}")
    return Problem(
        f"{path} cannot be read: {error.strerror}",
        todo="look at the mount and the disk of the repository, then run the task again",
    )


def is_folder(path: str, *, linked: bool = False) -> bool:
    """Whether a directory stands there, with ``linked`` also by a link. Raises Problem."""
    try:
        facts = os.stat(path) if linked else os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unread(path, error) from error
    return stat.S_ISDIR(facts.st_mode)


def listed(directory: str) -> Sequence[str]:
    """The names in a directory, none where there is no such. Raises Problem."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise unread(directory, error) from error


def small_text(path: str) -> str:
    """A small file of the repository, never by a link. Raises FileNotFoundError or Problem."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unread(path, error) from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > _LARGEST_TEXT:
        os.close(descriptor)
        raise Damaged(f"{path} is no regular file, or larger than {_LARGEST_TEXT} bytes")
    with os.fdopen(descriptor, "rb") as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError as error:
            raise Damaged(f"{path} cannot be read: {error}") from error
        except OSError as error:
            raise unread(path, error) from error
