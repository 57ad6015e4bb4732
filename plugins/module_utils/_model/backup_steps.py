# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that make restore points, and tidy up after runs that died while they did.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

RUNNING, OFF = "running", "off"


@dataclass(frozen=True)
class DiskBackup:
    """One disk of a restore point that is to be made.

    ``source`` is its active image, ``format`` and ``size`` (bytes) are those of the disk. ``file``
    is the image to be made; an incremental one stands on ``backing``, a name relative to it. A disk
    with a bitmap is ``tracked``: the next restore point can be incremental.
    """

    target: str
    source: str
    format: str
    size: int
    file: str
    type: str
    backing: str = ""
    tracked: bool = False


@dataclass(frozen=True)
class BackUp:
    """Make a restore point.

    ``how`` is running (by libvirt's backup job) or off (the images are copied). ``parent`` is the
    id of the restore point that incremental disks stand on, and ``since`` libvirt's checkpoint of
    that. ``checkpoint`` is the one to be made, '' for none. ``quiesce``, ``freeze_timeout``,
    ``flush_timeout`` and ``mountpoints`` are as with TakeSnapshot. ``bytes`` is what the images to
    be copied in full have allocated.
    """

    step: ClassVar[str] = "back_up"
    id: str
    repository: str
    directory: str
    type: str
    reason: str
    how: str
    copies: tuple[DiskBackup, ...]
    parent: str = ""
    since: str = ""
    checkpoint: str = ""
    left_out: tuple[tuple[str, str], ...] = ()
    protected: bool = False
    time: str = ""
    quiesce: str = "never"
    freeze_timeout: int = 10
    flush_timeout: int = 0
    bytes: int = 0
    mountpoints: tuple[str, ...] = ()

    @property
    def taken(self) -> tuple[str, ...]:
        """The targets of the disks that are part of it."""
        return tuple(copy.target for copy in self.copies)


@dataclass(frozen=True)
class CreateRepository:
    """Make a directory a repository: give it an id."""

    step: ClassVar[str] = "create_repository"
    repository: str
    id: str


@dataclass(frozen=True)
class EndBackup:
    """End the backup job of libvirt that a dead run left; it writes to ``folder``."""

    step: ClassVar[str] = "end_backup"
    folder: str


@dataclass(frozen=True)
class DropCheckpoint:
    """Let libvirt drop one of our backup checkpoints, with its bitmaps; ``why`` it can go."""

    step: ClassVar[str] = "drop_checkpoint"
    name: str
    why: str


@dataclass(frozen=True)
class RemoveBitmap:
    """Remove a bitmap of ours from active images, as ``disks``: (target, image).

    libvirt has lost the checkpoint that it belonged to.
    """

    step: ClassVar[str] = "remove_bitmap"
    name: str
    disks: tuple[tuple[str, str], ...]
