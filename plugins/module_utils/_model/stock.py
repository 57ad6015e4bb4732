# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a repository holds of one VM.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from .backup import FULL, RestorePoint, StoredDisk, is_id, moment
from .problem import NotFound

LATEST = "latest"


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
    last renaming, and ``verified`` is what the last verification of each point found.
    """

    repository: str
    directory: str
    points: tuple[RestorePoint, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    troubles: Mapping[str, str] = field(default_factory=dict)
    debris: tuple[str, ...] = ()
    staged: tuple[str, ...] = ()
    verified: Mapping[str, Verified] = field(default_factory=dict)

    def point(self, id: str) -> RestorePoint | None:
        return next((point for point in self.points if point.id == id), None)

    @property
    def good(self) -> tuple[RestorePoint, ...]:
        """The points that nothing is known against, oldest first."""
        return tuple(point for point in self.points if not self.trouble_of(point))

    def trouble_of(self, point: RestorePoint) -> str:
        """Why a point would not restore, '' if nothing is known against it or its ancestors."""
        for each in self.lineage(point):
            trouble = self.troubles.get(each.id, "") or self._found_bad(each)
            if trouble:
                return trouble if each is point else f"it stands on {each.id}: {trouble}"
        return ""

    def _found_bad(self, point: RestorePoint) -> str:
        last = self.verified.get(point.id)
        return last.trouble if last and last.digest == point.digest else ""

    def is_verified(self, point: RestorePoint) -> bool:
        """Whether it and all that it stands on were verified as they are now, and good."""
        return all(self._verified_good(each) for each in self.lineage(point))

    def _verified_good(self, point: RestorePoint) -> bool:
        last = self.verified.get(point.id)
        return bool(last and last.digest == point.digest and not last.trouble)

    def lineage(self, point: RestorePoint) -> tuple[RestorePoint, ...]:
        """The point and what it stands on, as far as that is there, newest first."""
        found = [point]
        while found[-1].parent is not None:
            above = self.point(found[-1].parent.id)
            if above is None or above in found:
                break
            found.append(above)
        return tuple(found)

    def children(self, id: str) -> tuple[RestorePoint, ...]:
        """The points that stand directly on it."""
        return tuple(p for p in self.points if p.parent is not None and p.parent.id == id)

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

    def chosen(self, wanted: str) -> RestorePoint:
        """The point that ``latest``, an id or a time names. NotFound with what there is.

        A time names the newest point that is not later; ``latest`` the newest that nothing is
        known against.
        """
        point = self._chosen(wanted)
        if point is None:
            known = ", ".join(each.id for each in self.points[-20:]) or "(none)"
            raise NotFound(
                f"{self.directory} has no restore point for {wanted!r}",
                wanted=f"'latest', a time that is not before the first point, or one of: {known}",
                todo="correct the option 'point' (vm_backup_info lists the points)",
            )
        return point

    def _chosen(self, wanted: str) -> RestorePoint | None:
        if wanted == LATEST:
            return self.good[-1] if self.good else None
        time = None if is_id(wanted) else moment(wanted)
        if time is None:
            return self.point(wanted)
        return next((p for p in reversed(self.points) if _not_after(p, time)), None)


def _not_after(point: RestorePoint, time: datetime) -> bool:
    taken = moment(point.time)
    return taken is not None and taken <= time
