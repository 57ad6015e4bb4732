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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

REGIONS = 6
# The first has a file system with a file for the regions, the others are written to directly.
DISKS = {"vda": "qcow2", "vdb": "qcow2", "vdc": "raw"}
MORE = "vdd"  # one that is attached; nothing is ever written to it
# Only where all are qcow2 there are internal snapshots. Clones stand on images to which nobody may
# write.
# `storage`: the file system below the images, which takes snapshots itself.
MACHINES: tuple[dict[str, Any], ...] = (
    {"disks": ["vda", "vdb", "vdc"]},
    {"disks": ["vda", "vdb"]},
    {"disks": ["vda", "vdb"], "clone": True},
    {"disks": ["vda", "vdb"], "storage": "xfs"},
    {"disks": ["vda", "vdb"], "storage": "btrfs"},
)
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
    """A point in time that one can go back to, of all disks or of some.

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
    agent: bool = True
    plugged: bool = False
    liar: str = ""
    edits: dict[str, str] = field(default_factory=dict)
    id: str = ""  # of a restore point


@dataclass(frozen=True)
class Stored:
    """A snapshot by the storage: copies of the images that the disks, or some, were on then.

    `points` and `moves` are those of the machine at that time: as long as it has the same, its
    disks are on these `images`. `certain`: nobody has written by hand below it.
    """

    disks: Content
    points: frozenset[str]
    moves: int
    plugged: bool
    certain: bool = True
    images: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """What a file holds that the memory was saved to, and that nobody waits for."""

    number: int
    power: str
    agent: bool
    plugged: bool
    liar: str


@dataclass
class Model:
    """One machine and its points: snapshots and checkpoints by name, restore points in order."""

    disks: Content = field(default_factory=lambda: blank(MACHINES[0]["disks"]))
    storage: str = ""  # the file system, where that takes snapshots
    power: str = RUNNING
    memory: int = 0
    points: dict[str, Point] = field(default_factory=dict)
    current: str | None = None
    stored: dict[str, Stored] = field(default_factory=dict)
    moves: int = 0  # how often the disks may have come to be on other images
    backups: list[Point] = field(default_factory=list)
    bitmaps: set[str] = field(default_factory=set)  # backup checkpoints of others
    frozen: bool = False
    agent: bool = True  # whether the guest agent answers
    liar: str = ""  # how it does otherwise than it says
    plugged: bool = False  # whether a disk was attached
    edits: dict[str, str] = field(default_factory=dict)  # what of the definition is not as at first
    saved_in: str = ""  # the file that its memory is saved in, "" where libvirt keeps it
    was: str = RUNNING  # what it did when its memory was saved
    kept: dict[str, Memory] = field(default_factory=dict)
    stale: bool = False  # paused, and not run since its memory was written or loaded
    by_hand: bool = False  # somebody else has merged something, and may have left images
    swapped: bool = False  # the disks are others than some points have; theirs stay until those go
    ahead: bool = False  # whether an image may have a time that is still to come
    verified: bool = False  # whether some restore points may have been
    restored: str = ""  # the restore point that its images were made from
    count: int = 0  # of names and numbers that were given

    @classmethod
    def of(cls, *, disks: Iterable[str], storage: str = "", **_more: Any) -> Model:
        """A machine as the first line of a history tells it."""
        return cls(blank(disks), storage)

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

    @property
    def honest(self) -> bool:
        """Whether the guest agent answers, and the truth."""
        return self.agent and not self.liar

    def point(
        self,
        name: str,
        *,
        memory: bool,
        of: Sequence[str] = (),
        internal: bool = False,
        ours: bool = True,
    ) -> None:
        """Take one of the present state of these disks, or of all, below the present point."""
        demand(name not in self.points)
        held = self.memory if memory and self.active else None
        disks = {target: self.disks[target] for target in of or self.disks}
        self.stale = self.power == PAUSED and (self.stale or held is not None)
        self.points[name] = Point(
            name, disks, self.power, held, self.current, internal, ours, **self._beside
        )
        self.current = name

    def store(self, name: str, of: Sequence[str] = ()) -> None:
        """Take a snapshot of these disks, or of all, by the storage."""
        demand(name not in self.stored)
        disks = {target: self.disks[target] for target in of or self.disks}
        self.stored[name] = Stored(disks, frozenset(self.points), self.moves, self.plugged)

    @property
    def _beside(self) -> dict[str, Any]:
        more = {"liar": self.liar, "edits": dict(self.edits)}
        return {"agent": self.agent, "plugged": self.plugged, **more}

    def back_up(self, now: str) -> None:
        """A restore point of the present state."""
        name = f"b{self.number()}"
        stem = now.replace("-", "").replace(":", "")
        taken = sum(point.id.startswith(stem) for point in self.backups)
        point = Point(name, dict(self.disks), self.power, id=f"{stem}-{taken}" if taken else stem)
        self.backups.append(replace(point, plugged=self.plugged))

    def off(self) -> None:
        """Without power, or just booted: nothing is left of what was in memory."""
        self.memory, self.agent, self.liar, self.stale = 0, True, "", False

    def save(self, file: str = "") -> None:
        """Off, and its memory where it can go on from."""
        demand(self.active and not self.frozen)
        self.was, self.power, self.saved_in = self.power, SAVED, file

    def go_on(self, power: str) -> None:
        """From where it was saved."""
        self.power, self.saved_in, self.stale = power, "", power == PAUSED

    def keep(self, file: str) -> None:
        """Nobody waits for its memory any more, which stays in that file."""
        self.kept[file] = Memory(self.memory, self.was, self.agent, self.plugged, self.liar)
        self.lose()

    def lose(self) -> None:
        """Its memory is not saved any more."""
        self.power, self.saved_in = OFF, ""
        self.off()

    def back_to(self, point: Point, run_after: str = "unchanged") -> None:
        """Be as at that point, and do what is asked for after it."""
        was = self.power
        self.moves += 1
        self.disks = {**self.disks, **point.disks}
        self.frozen = False
        self.agent = point.memory is None or point.agent
        self.liar = "" if point.memory is None else point.liar
        self.plugged, self.edits = point.plugged, dict(point.edits)
        if run_after == "shutoff":
            self.power = OFF
        elif run_after != "unchanged":
            self.power = run_after
        elif point.memory is not None:
            self.power = point.power
        else:
            self.power = was if was in (RUNNING, PAUSED) else OFF
        self.memory = point.memory or 0
        self.stale = self.power == PAUSED and point.memory is not None

    def drop(self, name: str) -> None:
        """Forget a point; what stood on it stands on its parent."""
        gone = self.points.pop(name)
        for other in self.points.values():
            if other.parent == name:
                self.points[other.name] = replace(other, parent=gone.parent)
        if self.current == name:
            self.current = gone.parent

    def shake(self, *, internal: bool = False) -> None:
        """Somebody wrote into images by hand: no point, or no internal one, is certain any more."""
        self.by_hand = self.by_hand or not internal
        if not internal:
            self.moves += 1
            self.stored = {n: replace(each, certain=False) for n, each in self.stored.items()}
        for name, point in self.points.items():
            if point.internal or not internal:
                self.points[name] = replace(point, certain=False)

    def below(self, name: str) -> list[str]:
        """The points that descend from one, itself included."""
        found = [name]
        for other in found:
            found += [each.name for each in self.points.values() if each.parent == other]
        return found


def blank(targets: Iterable[str]) -> Content:
    """Disks to which nothing was ever written."""
    return dict.fromkeys(targets, (0,) * REGIONS)


def is_checkpoint(name: str) -> bool:
    """Whether vm_checkpoint has made a point; vm_snapshot does not touch it."""
    return name.startswith("c")
