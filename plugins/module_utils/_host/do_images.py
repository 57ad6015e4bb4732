# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps that change image files.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import stat

from .._model.problem import Conflict
from .._model.step import CommitDisk, CreateOverlay, PullDisk, RemoveFile
from . import qemu_img
from .connection import check_off
from .durable import fsync_directory
from .image_bitmaps import bitmap_add, carry_bitmap, carry_bitmaps
from .removal import remove
from .work import Work, do


@do.register
def _create_overlay(step: CreateOverlay, work: Work) -> None:
    owner = os.stat(step.backing)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(step.file, flags, 0o600)
    except FileExistsError as error:
        raise Conflict(
            f"{step.file} has appeared in the meantime",
            wanted=f"to create it as the overlay of disk {step.target} of VM {work.vm.name}",
            todo="run the task again to see what it is",
        ) from error
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        qemu_img.create_overlay(step.file, step.backing, step.backing_format, step.size)
        for name, granularity in step.bitmaps:
            bitmap_add(step.file, name, granularity)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fsync_directory(os.path.dirname(step.file))


@do.register
def _commit_offline(step: CommitDisk, work: Work) -> None:
    check_off(work.dom, "to commit its images while it is off")
    carry_bitmaps(step.base, step.top, [(*bitmap, True) for bitmap in step.bitmaps])
    qemu_img.commit(
        step.top, step.base, rate_limit=step.bandwidth * 1024 * 1024, timeout=work.host.timeout
    )
    if step.overlay:
        qemu_img.rebase_unsafe(step.overlay, step.relative or step.base, step.base_format)


@do.register
def _pull_offline(step: PullDisk, work: Work) -> None:
    """Offline, as with a commit. A bitmap that says too much only makes a backup larger."""
    check_off(work.dom, "to pull into its images while it is off")
    if step.doubtful:
        _put_back(step, work)
    for image, bitmap in step.bitmaps:
        carry_bitmap(step.into, bitmap, image)
    qemu_img.pull(
        step.into,
        step.base,
        step.base_format,
        rate_limit=step.bandwidth * 1024 * 1024,
        timeout=work.host.timeout,
    )
    if step.relative:
        qemu_img.rebase_unsafe(step.into, step.relative, step.base_format)


def _put_back(step: PullDisk, work: Work) -> None:
    """Let an image stand on what it was pulled from; what it holds itself still counts first."""
    former = step.pulled[0]
    if not os.path.exists(former):
        raise Conflict(
            f"QEMU went off before all that it had pulled into {step.into} of VM {work.vm.name} was"
            f" on the disk for sure, and {former}, which has it too, is gone",
            wanted="to pull it once more",
            todo=f"bring {former} back, or check the file systems of the guest and remove the"
            " journal",
        )
    qemu_img.rebase_unsafe(step.into, former, step.pulled_format)


@do.register
def _remove_file(step: RemoveFile, work: Work) -> None:
    try:
        status = os.lstat(step.file)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        work.notes.append(f"{work.vm.name}: {step.file} is not a regular file and was left alone")
        return
    remove(step.file)
