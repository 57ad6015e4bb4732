# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that make a VM, or some of its disks, what they were at a restore point.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

COPY, OVERLAY = "copy", "overlay"


@dataclass(frozen=True)
class RestoreDisk:
    """Make the image ``file``, with what the disk held at a restore point; nothing uses it yet.

    ``source`` is the image in the repository. ``how`` is copy (each cluster is written once) or
    overlay (the image stands on ``source``). ``size`` is that of the disk, ``bytes`` about what the
    image will take.
    """

    step: ClassVar[str] = "restore_disk"
    target: str
    file: str
    format: str
    point: str
    source: str
    how: str
    size: int
    bytes: int = 0


@dataclass(frozen=True)
class RestoreFile:
    """Make the file ``file`` with what a file of the restore point holds; nothing uses it yet."""

    step: ClassVar[str] = "restore_file"
    role: str
    file: str
    point: str
    source: str


@dataclass(frozen=True)
class VerifyPoint:
    """Have every byte of what is restored held against the manifests, beside the copying.

    ``recorded``: not read now, the record of its last verification (at that time) is trusted.
    """

    step: ClassVar[str] = "verify_point"
    point: str
    bytes: int
    recorded: str = ""


@dataclass(frozen=True)
class DefineRestored:
    """Define the VM, by one call, on what was restored.

    ``disks`` are (target, image, format). ``new``: libvirt has no such VM yet. ``replaced`` are the
    files that it stood on, and ``checkpoints`` those of libvirt that say nothing of the new images.
    """

    step: ClassVar[str] = "define_restored"
    point: str
    disks: tuple[tuple[str, str, str], ...]
    new: bool = False
    nvram: str = ""
    replaced: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForgetCheckpoint:
    """Let libvirt forget a checkpoint of ours, whose bitmaps are in images that were replaced."""

    step: ClassVar[str] = "forget_checkpoint"
    name: str
