# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that take snapshots, and change what libvirt records of them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from .snapshot import Snapshot, SnapshotSpec

# What a snapshot goes back to: its name, a disk, the image and its format.
Point = tuple[str, str, str, str]


@dataclass(frozen=True)
class TakeSnapshot:
    """Ask libvirt for the snapshot. ``quiesce`` is required, preferred or never.

    ``pause``: the vCPUs stand still until it is taken, so that a group has one point in time
    also where the memory is part of it. ``flush_timeout`` is how many seconds the guest may write
    out before it is frozen, 0 where it is not asked to. Only what is mounted on ``mountpoints`` is
    frozen, all where there are none.
    """

    step: ClassVar[str] = "take_snapshot"
    spec: SnapshotSpec
    flags: tuple[str, ...]
    quiesce: str
    freeze_timeout: int
    pause: bool = False
    flush_timeout: int = 0
    mountpoints: tuple[str, ...] = ()

    @property
    def taken(self) -> tuple[str, ...]:
        """The targets of the disks that are part of it."""
        return tuple(disk.target for disk in self.spec.disks if disk.mode != "no")


@dataclass(frozen=True)
class ForgetSnapshot:
    """Remove libvirt's metadata of a snapshot, never an image."""

    step: ClassVar[str] = "forget_snapshot"
    name: str

    @property
    def _heading(self) -> str:
        return f"forgetting {self.name}\n"

    def mark(self, points: Iterable[Point]) -> str:
        """The note in the journal of what other snapshots go back to."""
        return self._heading + json.dumps(list(points))

    def noted(self, marks: Iterable[str]) -> list[Point]:
        """What such notes say."""
        mine = [mark for mark in marks if mark.startswith(self._heading)]
        found = (json.loads(mark[len(self._heading) :]) for mark in mine)
        return [(name, disk, image, form) for points in found for name, disk, image, form in points]


def displaced(snapshot: Snapshot, points: Iterable[Point]) -> tuple[tuple[str, str, str], ...]:
    """(image named now, image named then, its format) of each point that is another one now."""
    now = snapshot.points
    return tuple(
        (now[target], image, form)
        for name, target, image, form in points
        if name == snapshot.name and now.get(target) not in (None, "", image)
    )


@dataclass(frozen=True)
class DefineSnapshot:
    """Let libvirt know a snapshot again that it dropped when a transient VM stopped."""

    step: ClassVar[str] = "define_snapshot"
    name: str
    current: bool = False


@dataclass(frozen=True)
class RewriteSnapshot:
    """Let a snapshot's metadata name the images that now hold its content.

    ``sources`` are (old, new, new format); disks ``without`` are no longer part of it; ``files``
    are (target, overlay that stands on its point now). ``current`` makes it the current one.
    ``former`` are overlays of snapshots that go, which it needs: they go with it.
    """

    step: ClassVar[str] = "rewrite_snapshot"
    name: str
    sources: tuple[tuple[str, str, str], ...] = ()
    without: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    current: bool = False
    former: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeleteInternal:
    """Let libvirt delete an internal snapshot from the images it lives in.

    libvirt looks into the active images only. Where some are ``below`` them, qemu-img deletes it
    from all, while the VM is off. From images ``beside`` the present ones it does so in any case,
    before all else; where it cannot, the snapshot stays in there, and a note says so.
    """

    step: ClassVar[str] = "delete_internal"
    name: str
    images: tuple[str, ...]
    below: bool = False
    beside: tuple[str, ...] = ()
