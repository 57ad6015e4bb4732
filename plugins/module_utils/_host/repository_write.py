# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing to a repository of restore points, and keeping others from it meanwhile.

Whoever adds, merges or removes restore points of a VM holds its writer's lock. Whoever reads images
shares the reader's lock, which nobody has who replaces or removes some. Both lie in the folder of
the VM and go with their owner.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict

from .._model.backup import MANIFEST, VERIFIED, RestorePoint, manifest_text, sealed
from .._model.problem import Unsupported
from .._model.stock import Verified
from .durable import (
    NO_ROOM,
    fsync_directory,
    new_file,
    no_room_for,
    write_all,
    write_json,
    write_whole,
)
from .files import directory_fact
from .lock import lock_file
from .repository import FORMAT, IDENTITY
from .repository_read import listed
from .under_way import READERS, WRITER

# QEMU, which writes the images, often runs as another user: it may pass through, not list.
_FOLDER_MODE = 0o711


@contextlib.contextmanager
def writing(directory: str, vm: str, holder: str, timeout: float) -> Iterator[None]:
    """Be the only one who changes the restore points of a VM. Busy naming the holder."""
    what = f"the repository of VM {vm} ({directory})"
    try:
        make_folder(directory)
    except OSError as error:
        raise _unwritable(what, error) from error
    with lock_file(os.path.join(directory, WRITER), what, holder, timeout):
        yield


@contextlib.contextmanager
def reading(directory: str, vm: str, holder: str, timeout: float) -> Iterator[None]:
    """Keep the images from being replaced or removed. Where nobody can write, nobody does that."""
    path = os.path.join(directory, READERS)
    if not os.access(directory, os.W_OK) and not os.path.exists(path):
        yield
        return
    what = f"the restore points of VM {vm} ({directory})"
    with lock_file(path, what, holder, timeout, shared=True):
        yield


@contextlib.contextmanager
def replacing(directory: str, vm: str, holder: str, timeout: float) -> Iterator[None]:
    """Keep everybody from reading the images: some are replaced or removed."""
    what = f"the restore points of VM {vm} ({directory})"
    with lock_file(os.path.join(directory, READERS), what, holder, timeout):
        yield


def create(repository: str, id: str) -> None:
    """Make a directory a repository with this id; one that has become one meanwhile stays so."""
    path = os.path.join(repository, IDENTITY)
    draft = f"{path}.{secrets.token_hex(4)}"
    try:
        descriptor = new_file(draft)
        try:
            write_all(descriptor, json.dumps({"format": FORMAT, "id": id}).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _take_place(draft, path)
    except OSError as error:
        raise _unwritable(f"the repository {repository}", error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
    fsync_directory(repository)


def check_writable(directory: str) -> None:
    """Raise Unsupported where nothing can be changed, before anything is. Check mode asks, too."""
    trouble = directory_fact(directory).trouble
    if trouble:
        known = os.strerror(errno.EROFS)
        why = known if known.lower() in trouble else f"it {trouble}"
        raise Unsupported(
            f"the folder {directory} of the repository cannot be written to: {why}",
            wanted="to remove or replace files there",
            todo="look at its owner, mode and mount",
        )


def _unwritable(what: str, error: OSError) -> Unsupported:
    return Unsupported(
        f"{what} cannot be written to: {error.strerror}",
        wanted="a directory for restore points that this user can write to",
        todo="make it writable (owner, mode, mount), or choose another repository",
    )


def _take_place(draft: str, path: str) -> None:
    """Give a file its name, unless there is one of that name."""
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not os.path.lexists(path):
            os.replace(draft, path)


def finish_staged(directory: str, point: RestorePoint) -> None:
    """Let staged files take the place of what they are to replace."""
    folder = os.path.join(directory, point.id)
    for file in point.files:
        with contextlib.suppress(FileNotFoundError):
            if file.staged:
                os.rename(os.path.join(folder, file.staged), os.path.join(folder, file.name))
    fsync_directory(folder)


def record_verified(directory: str, point: RestorePoint, outcome: Verified) -> None:
    """Keep the outcome of a verification beside the manifest. Raises Unwritten.

    Others may verify the same point at the same time, so each has a draft of its own; one that is
    left goes with what else dead runs have left.
    """
    path = os.path.join(directory, point.id, VERIFIED)
    write_json(path, asdict(outcome), f"{path}.{secrets.token_hex(4)}.new")


def new_folder(directory: str, id: str) -> str:
    """An empty folder for a restore point that is to be made, debris until it has a manifest."""
    folder = os.path.join(directory, id)
    make_folder(directory)
    make_folder(folder)
    return folder


def make_folder(path: str) -> None:
    """Make a folder that only we can list, unless it is there."""
    if os.path.isdir(path):
        return
    try:
        os.mkdir(path, _FOLDER_MODE)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room_for(path, error, "directory") from error
        raise
    os.chmod(path, _FOLDER_MODE)  # whatever the umask
    fsync_directory(os.path.dirname(path))


def commit(directory: str, point: RestorePoint) -> RestorePoint:
    """Write the manifest; from then on the point exists, or is as this one says.

    Its files have to be on disk. Returns the point with its digest.
    """
    folder = os.path.join(directory, point.id)
    path = os.path.join(folder, MANIFEST)
    write_whole(path, manifest_text(point).encode())
    fsync_directory(directory)
    return sealed(point)


def remove_point(directory: str, id: str) -> None:
    """Remove a restore point or the debris of one: first its manifest, so that it is none."""
    folder = os.path.join(directory, id)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, MANIFEST))
        fsync_directory(folder)
    for name in listed(folder):
        os.unlink(os.path.join(folder, name))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(folder)
    fsync_directory(directory)


def remove_debris(path: str) -> None:
    """Remove what a dead run left: a folder without a manifest, or a file that none names."""
    if os.path.isdir(path) and not os.path.islink(path):
        if not os.path.lexists(os.path.join(path, MANIFEST)):
            remove_point(*os.path.split(path))
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
