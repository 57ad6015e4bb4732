# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making an incremental restore point full, so that what it stood on can go.

What is read is verified first, and what was written is compared with it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace

from .._model.backup import FULL, IMAGE, INCREMENTAL, RestorePoint, StoredDisk, StoredFile
from .._model.problem import Damaged
from .._model.stock import Stock, Verified
from . import qemu_img
from .digest import stored_file
from .durable import fsync_directory
from .repository_write import record_verified
from .verify import verify_for_merge

SUFFIX = ".merged"


def merged(stock: Stock, point: RestorePoint, at: str, timeout: float) -> RestorePoint:
    """The point as a full one, with its new images beside the old ones; nothing names them yet.

    Raises Damaged where what it is read from is not as its manifests say, which is then on record.
    Where it fails, no new image is left.
    """
    found = verify_for_merge(stock, point, parallel=1, timeout=timeout)
    _refuse_bad(stock, point, found, at)
    folder = os.path.join(stock.directory, point.id)
    disks = [disk for disk in point.disks if disk.type == INCREMENTAL]
    try:
        files = {disk.file: _full_image(stock, point, disk, timeout) for disk in disks}
    except BaseException:
        for disk in disks:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, disk.file + SUFFIX))
        raise
    fsync_directory(folder)
    return replace(
        point,
        type=FULL,
        parent=None,
        reason=f"{point.reason}; it was made full when what it stood on was pruned",
        files=tuple(files.get(file.name, replace(file, staged="")) for file in point.files),
        disks=tuple(replace(disk, type=FULL) for disk in point.disks),
        formerly=(*point.formerly, point.digest),
    )


def _refuse_bad(stock: Stock, point: RestorePoint, found: Mapping[str, str], at: str) -> None:
    for id, trouble in found.items():
        bad = stock.point(id)
        if not trouble or bad is None:
            continue
        record_verified(stock.directory, bad, Verified(at, bad.digest, trouble))
        raise Damaged(
            f"{point.id} cannot be made full, since {id} is bad: {trouble}",
            wanted="restore points that are as their manifests say",
            todo="find out what has changed it; the next run counts it as bad",
        )


def _full_image(stock: Stock, point: RestorePoint, disk: StoredDisk, timeout: float) -> StoredFile:
    folder = os.path.join(stock.directory, point.id)
    old, draft = os.path.join(folder, disk.file), disk.file + SUFFIX
    new = os.path.join(folder, draft)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    depth = sum(1 for dummy in stock.images(point, disk.target))
    qemu_img.convert(new, "qcow2", old, "qcow2", depth=depth, timeout=timeout)
    file = stored_file(folder, draft, IMAGE)
    if not qemu_img.same_content(old, "qcow2", new, "qcow2", timeout=timeout, depth=depth):
        raise Damaged(
            f"{new} has another content than {old} after qemu-img has copied it",
            wanted="the same content",
            todo="look at the disk that the repository is on; nothing was replaced",
        )
    return replace(file, name=disk.file, staged=draft)
