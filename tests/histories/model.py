# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a history must have come to: far simpler than the collection, and without a line of it.

A disk is a row of regions, and what a region holds is a number (0: never written). A point in
time is a copy of these numbers. The model knows nothing of images: whether points share them is
the business of the code under test.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

REGIONS = 6
# The first has a file system with a file for the regions, the others are written to directly.
DISKS = {"vda": "qcow2", "vdb": "qcow2", "vdc": "raw"}
OFF, RUNNING, PAUSED, SAVED = "off", "running", "paused", "saved"

Content = dict[str, tuple[int, ...]]


class Unfit(Exception):
    """This cannot happen to the machine as it is; a shrunk history leaves it out."""


def demand(condition: object) -> None:
    """Raise `Unfit` where it does not hold."""
    if not condition:
        raise Unfit


@dataclass(frozen=True)
class Point:
    """A point in time that one can go back to.

    `memory`: what the guest had in its memory, None where the point has none. `certain`: whether
    going back must work; where somebody has written below the point by hand it may be refused,
    but never end with other content.
    """

    name: str
    disks: Content
    power: str
    memory: int | None = None
    parent: str | None = None
    internal: bool = False
    ours: bool = True
    certain: bool = True


@dataclass
class Model:
    """One machine and its points: snapshots and checkpoints by name, restore points in order."""

    disks: Content = field(default_factory=lambda: dict.fromkeys(DISKS, (0,) * REGIONS))
    power: str = RUNNING
    memory: int = 0
    points: dict[str, Point] = field(default_factory=dict)
    current: str | None = None
    backups: list[Point] = field(default_factory=list)
    bitmaps: set[str] = field(default_factory=set)  # backup checkpoints of others
    frozen: bool = False
    by_hand: bool = False  # somebody else has merged something, and may have left images
    swapped: bool = False  # the disks are others than some points have; theirs stay until those go
    restored: str = ""  # the restore point that its images were made from
    count: int = 0  # of names and numbers that were given

    def copy(self) -> Model:
        return copy.deepcopy(self)

    def number(self) -> int:
        """One that was not used before."""
        self.count += 1
        return self.count

    def clock(self) -> str:
        """A time for something that is made now, a minute later than anything before it."""
        return f"2026-01-01T{self.count // 60:02}:{self.count % 60:02}:00Z"

    @property
    def disturbed(self) -> bool:
        """Whether images may be left that nothing refers to, as documented."""
        return self.by_hand or self.swapped

    @property
    def awake(self) -> bool:
        """Whether the guest runs and takes writes."""
        return self.power == RUNNING and not self.frozen

    @property
    def active(self) -> bool:
        """Whether there is a QEMU."""
        return self.power in (RUNNING, PAUSED)

    def point(self, name: str, *, memory: bool, internal: bool = False, ours: bool = True) -> None:
        """Take one of the present state, below the present point."""
        demand(name not in self.points)
        held = self.memory if memory and self.active else None
        self.points[name] = Point(
            name, dict(self.disks), self.power, held, self.current, internal, ours
        )
        self.current = name

    def back_to(self, point: Point, run_after: str = "unchanged") -> None:
        """Be as at that point, and do what is asked for after it."""
        was = self.power
        self.disks = dict(point.disks)
        self.frozen = False
        if run_after == "shutoff":
            self.power = OFF
        elif run_after != "unchanged":
            self.power = run_after
        elif point.memory is not None:
            self.power = point.power
        else:
            self.power = was if was in (RUNNING, PAUSED) else OFF
        self.memory = point.memory or 0

    def drop(self, name: str) -> None:
        """Forget a point; what stood on it stands on its parent."""
        gone = self.points.pop(name)
        for other in self.points.values():
            if other.parent == name:
                self.points[other.name] = replace(other, parent=gone.parent)
        if self.current == name:
            self.current = gone.parent

    def shake(self) -> None:
        """Somebody wrote into images by hand: no point is certain any more."""
        self.by_hand = True
        for name, point in self.points.items():
            self.points[name] = replace(point, certain=False)

    def below(self, name: str) -> list[str]:
        """The points that descend from one, itself included."""
        found = [name]
        for other in found:
            found += [each.name for each in self.points.values() if each.parent == other]
        return found


def is_checkpoint(name: str) -> bool:
    """Whether vm_checkpoint has made a point; vm_snapshot does not touch it."""
    return name.startswith("c")
