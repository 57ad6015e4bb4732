# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a repository holds of one VM.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from .backup import FULL, RestorePoint, StoredDisk, is_id, moment
from .problem import NotFound, Problem

LATEST = "latest"
LONGEST_NAME = 4095
"""Bytes of the longest name that the kernel opens a file by."""


@dataclass(frozen=True)
class Verified:
    """The outcome of reading every byte of a restore point; ``trouble`` is '' for a good one.

    ``digest`` is that of the manifest that was verified, ``at`` when (ISO 8601, UTC).
    """

    at: str
    digest: str
    trouble: str = ""


@dataclass(frozen=True)
class Stock:
    """The restore points of one VM in one repository.

    ``directory`` is that of the VM. ``points`` have a manifest that can be read, oldest first.
    ``broken`` are folders whose manifest cannot be read, and why. ``troubles`` says of points why
    they would not restore, as far as names, sizes and parents tell; what stands on such a point has
    an entry of its own. ``debris`` are folders without a manifest and files that no manifest names,
    which dead runs have left. ``staged`` are the points of which a merge was complete but for the
    last renaming, and ``verified`` is what the last verification of each point found. ``uses`` says
    what stands on points from outside, as far as that was looked at. ``unclear`` are those that
    another version has written, that this user may not read, or at which something unforeseen
    happened, among the broken ones or the points: they may be as good as any.
    """

    repository: str
    directory: str
    points: tuple[RestorePoint, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    troubles: Mapping[str, str] = field(default_factory=dict)
    debris: tuple[str, ...] = ()
    staged: tuple[str, ...] = ()
    verified: Mapping[str, Verified] = field(default_factory=dict)
    uses: Mapping[str, str] = field(default_factory=dict)
    unclear: Mapping[str, Problem] = field(default_factory=dict)

    # Each of these is worked out once for all points, since there may be hundreds in one chain.

    @cached_property
    def _by_id(self) -> Mapping[str, RestorePoint]:
        return {point.id: point for point in self.points}

    @cached_property
    def _children(self) -> Mapping[str, tuple[RestorePoint, ...]]:
        found: dict[str, list[RestorePoint]] = {}
        for point in self.points:
            if point.parent is not None:
                found.setdefault(point.parent.id, []).append(point)
        return {id: tuple(children) for id, children in found.items()}

    @cached_property
    def _spoilt_by(self) -> Mapping[str, tuple[str, str]]:
        """id -> (id of the point that it would not restore for, why)."""
        found: dict[str, tuple[str, str]] = {}
        for point in self.points:
            own = self.troubles.get(point.id, "") or self._found_bad(point)
            if own:
                found[point.id] = (point.id, own)
            elif point.parent is not None and point.parent.id in found:
                found[point.id] = found[point.parent.id]
        return found

    @cached_property
    def _verified_ids(self) -> frozenset[str]:
        found: set[str] = set()
        for point in self.points:
            on_verified = point.parent is None or point.parent.id in found
            good = point.id not in self._spoilt_by and self._verified_good(point)
            if on_verified and good:
                found.add(point.id)
        return frozenset(found)

    @property
    def uuid(self) -> str:
        """The UUID of the VM, which the name of its directory ends in."""
        return self.directory.rpartition(".")[2]

    def point(self, id: str) -> RestorePoint | None:
        return self._by_id.get(id)

    @cached_property
    def good(self) -> tuple[RestorePoint, ...]:
        """The points that nothing is known against, oldest first."""
        return tuple(point for point in self.points if point.id not in self._spoilt_by)

    def check_clear(self, but_older_than: str = "") -> None:
        """Raise what is unclear about any point, or any that is not older than one."""
        for id, problem in self.unclear.items():
            if id >= but_older_than:
                raise problem

    @property
    def next_sequence(self) -> int:
        """What the next restore point counts."""
        return self.points[-1].sequence + 1 if self.points else 1

    def trouble_of(self, point: RestorePoint) -> str:
        """Why a point would not restore, '' if nothing is known against it or its ancestors."""
        id, trouble = self._spoilt_by.get(point.id, (point.id, ""))
        return trouble if id == point.id else f"it stands on {id}: {trouble}"

    def _found_bad(self, point: RestorePoint) -> str:
        last = self.verified.get(point.id)
        return last.trouble if last and last.digest == point.digest else ""

    def is_verified(self, point: RestorePoint) -> bool:
        """Whether it and all that it stands on were verified as they are now, and good."""
        return point.id in self._verified_ids

    def _verified_good(self, point: RestorePoint) -> bool:
        last = self.verified.get(point.id)
        return bool(last and last.digest == point.digest and not last.trouble)

    def lineage(self, point: RestorePoint) -> tuple[RestorePoint, ...]:
        """The point and what it stands on, as far as that is there, newest first."""
        found = {point.id: point}
        last = point
        while last.parent is not None and last.parent.id not in found:
            above = self.point(last.parent.id)
            if above is None:
                break
            found[above.id] = last = above
        return tuple(found.values())

    def children(self, id: str) -> tuple[RestorePoint, ...]:
        """The points that stand directly on it, oldest first."""
        return self._children.get(id, ())

    def images(self, point: RestorePoint, target: str) -> Iterator[tuple[RestorePoint, StoredDisk]]:
        """The images that a disk is read from, newest first: as many as are incremental, and one.

        Ends early where one is missing.
        """
        for each in self.lineage(point):
            disk = each.disk(target)
            if disk is None:
                return
            yield each, disk
            if disk.type == FULL:
                return

    def chosen(self, wanted: str, targets: Sequence[str] = ()) -> RestorePoint:
        """The point that ``latest``, an id or a time names. NotFound with what there is.

        A time names the newest point that is not later; ``latest`` the newest that nothing is
        known against. Both mean points with these disks, or with all, as long as there is one.
        """
        point = self._chosen(wanted, targets)
        if point is None:
            known = ", ".join(each.id for each in self.points[-20:]) or "(none)"
            raise NotFound(
                f"{self.directory} has no restore point for {wanted!r}",
                wanted=f"'latest', a time that is not before the first point, or one of: {known}",
                todo="correct the option 'point' (vm_backup_info lists the points)",
            )
        return point

    def _chosen(self, wanted: str, targets: Sequence[str]) -> RestorePoint | None:
        time = None if wanted == LATEST or is_id(wanted) else moment(wanted)
        if wanted == LATEST:
            found = self.good[::-1]
        elif time is None:
            return self.point(wanted)
        else:
            found = tuple(point for point in self.points[::-1] if _not_after(point, time))
        return next((point for point in found if point.covers(targets)), next(iter(found), None))

    def passed_over(self, chosen: RestorePoint, targets: Sequence[str]) -> Iterator[str]:
        """Why each newer point is not the latest one."""
        for id, why in self.broken.items():
            if id > chosen.id:
                yield f"{id} is newer, but would not restore: {why}"
        for point in self.points[self.points.index(chosen) + 1 :]:
            trouble = self.trouble_of(point)
            if trouble:
                yield f"{point.id} is newer, but would not restore: {trouble}"
            elif not point.covers(targets):
                held = ", ".join(disk.target for disk in point.disks)
                yield f"{point.id} is newer, but holds only {held}"


def longest_names(directory: str, points: Iterable[RestorePoint]) -> dict[str, int]:
    """id -> bytes of the longest name by which QEMU opens an image of the chains of a point.

    It puts the relative names of a chain one behind the other: ``/srv/db01.UUID/C/../B/../A/vda``.
    ``points`` are given oldest first.
    """
    place = len(directory.encode("utf-8", "surrogateescape"))
    below: dict[tuple[str, str], int] = {}
    found: dict[str, int] = {}
    for point in points:
        for disk in point.disks:
            length = len(disk.file)
            if disk.type != FULL and point.parent is not None:
                on = point.parent.id
                length = len(f"../{on}/") + below.get((on, disk.target), length)
            below[point.id, disk.target] = length
            found[point.id] = max(found.get(point.id, 0), place + len(f"/{point.id}/") + length)
    return found


def _not_after(point: RestorePoint, time: datetime) -> bool:
    taken = moment(point.time)
    return taken is not None and taken <= time
