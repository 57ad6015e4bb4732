# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which restore points go, and in which order.

A point that others stand on stays, unless all of these go before or are made full. So at no time
there is a point whose parent is gone.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._model.backup import INCREMENTAL, RestorePoint
from .._model.stock import Stock
from .._model.stock_step import (
    FinishMerge,
    MergePoint,
    PrunePlan,
    RemoveDebris,
    RemovePoint,
    StockStep,
)
from .retention import Retention, kept_by_rules

# What an image takes besides the data: tables, and a little to be sure.
_TABLES, _SPARE = 1 / 512, 1 << 20


def plan_prune(stock: Stock, rules: Retention, free: int) -> PrunePlan:
    """How to keep what the rules keep; ``free`` are the bytes that merging may take."""
    kept = wanted_points(stock, rules)
    course = _Course(stock, kept, rules.merge, free)
    course.run()
    tidying: list[StockStep] = [FinishMerge(id) for id in stock.staged]
    tidying += [RemoveDebris(path) for path in stock.debris]
    needed = course.needed()
    reasons = {
        point.id: (*kept.get(point.id, ()), *needed.get(point.id, ()))
        for point in stock.points
        if point.id in kept or point.id in needed
    }
    removed = {step.point: step.why for step in course.steps if isinstance(step, RemovePoint)}
    left_alone = [f"{id} is left alone: {why}" for id, why in stock.broken.items()]
    notes = (*left_alone, *course.notes)
    return PrunePlan((*tidying, *course.steps), reasons, removed, notes)


def wanted_points(stock: Stock, rules: Retention) -> dict[str, tuple[str, ...]]:
    """id -> why it is kept for its own sake.

    The rules count good points only. A bad one is kept as long as it would be if it were good: what
    is wrong with it may be mended, and it takes nobody's place. Nor does one of some disks take the
    place of a whole one, or of one of others: each selection of disks is counted by itself.
    """
    found: dict[str, list[str]] = {}
    for selection in {point.selection: None for point in stock.points}:
        points = [point for point in stock.points if point.selection == selection]
        for id, reasons in _by_rules(stock, points, rules).items():
            found[id] = [f"{why}{_of(selection)}" for why in reasons]
    for point in stock.points:
        if point.protected or point.id in rules.protect:
            found.setdefault(point.id, []).append("protected")
        if point.id in stock.uses:
            found.setdefault(point.id, []).append(f"in use by {stock.uses[point.id]}")
    return {id: tuple(reasons) for id, reasons in found.items()}


def _by_rules(stock: Stock, points: list[RestorePoint], rules: Retention) -> dict[str, list[str]]:
    ids = {point.id for point in stock.good}
    good = [point for point in points if point.id in ids]
    found = {
        id: [f"{reason}, although it is bad" for reason in reasons]
        for id, reasons in kept_by_rules(points, rules).items()
        if id not in ids
    }
    found.update(kept_by_rules(good, rules))
    # libvirt's next increment stands on the newest one.
    for point in good[-1:]:
        found.setdefault(point.id, []).append("newest")
    for point in [point for point in good if stock.is_verified(point)][-1:]:
        found.setdefault(point.id, []).append("newest verified")
    return found


def _of(selection: frozenset[str]) -> str:
    return f" with only {', '.join(sorted(selection))}" if selection else ""


@dataclass
class _Course:
    """The way from what is there to what is kept, one step after the other.

    ``standing`` says which points stand on one at that stage, ``doomed`` which are still to go.
    """

    stock: Stock
    kept: Mapping[str, tuple[str, ...]]
    merge: bool
    free: int
    steps: list[StockStep] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        points = self.stock.points
        self.standing = {p.id: {child.id for child in self.stock.children(p.id)} for p in points}
        self.doomed = {point.id: point for point in points if point.id not in self.kept}
        self.full: set[str] = set()
        self.pinned: set[str] = set()

    def run(self) -> None:
        for point in self.stock.points:
            if point.id in self.kept and not self._can_merge(point):
                self._pin(point)
        self._sweep()
        for point in self.stock.points:
            if self._gains(point):
                self._merge(point)

    def _can_merge(self, point: RestorePoint) -> bool:
        # Who stands on it from outside may open its images at any time.
        used = point.id in self.stock.uses
        return self.merge and not used and not self.stock.trouble_of(point)

    def _pin(self, point: RestorePoint) -> None:
        """What this point stands on cannot go, up to one that is kept itself."""
        for above in self.stock.lineage(point)[1:]:
            if above.id in self.kept:
                return
            self.pinned.add(above.id)

    def _gains(self, point: RestorePoint) -> bool:
        """Whether something can go once this point is full."""
        parent = point.parent.id if point.parent else ""
        return point.id in self.kept and parent in self.doomed and parent not in self.pinned

    def _merge(self, point: RestorePoint) -> None:
        room = room_to_merge(self.stock, point)
        if room > self.free:
            self._pin(point)
            self.notes.append(
                f"{point.id} cannot be made full, since that may take {room} bytes"
                f" and {max(0, self.free)} are free"
            )
            return
        self.steps.append(MergePoint(point.id, self._read_for(point), room))
        self.full.add(point.id)
        self.free -= room
        if point.parent:
            self.standing[point.parent.id].discard(point.id)
        self._sweep()

    def _read_for(self, point: RestorePoint) -> tuple[str, ...]:
        """What an incremental point is read from, as far as earlier steps left it so."""
        found = []
        for above in self.stock.lineage(point)[1:]:
            found.append(above.id)
            if above.id in self.full:
                break
        return tuple(found)

    def _sweep(self) -> None:
        """Let go what nothing stands on any more, the youngest first."""
        for point in reversed(self.stock.points):
            if point.id not in self.doomed or self.standing[point.id] - {point.id}:
                continue
            del self.doomed[point.id]
            trouble = self.stock.trouble_of(point)
            why = f"no rule keeps it, and it is bad: {trouble}" if trouble else "no rule keeps it"
            self.steps.append(RemovePoint(point.id, why, point.bytes))
            self.free += point.bytes
            if point.parent and point.parent.id in self.standing:
                self.standing[point.parent.id].discard(point.id)

    def needed(self) -> dict[str, tuple[str, ...]]:
        """id -> for which kept points it has to stay."""
        found: dict[str, tuple[str, ...]] = {}
        for point in reversed(self.stock.points):
            if point.id not in self.doomed:
                continue
            users: dict[str, None] = {}
            for child in sorted(self.standing[point.id]):
                users.update(dict.fromkeys(found.get(child, (f"needed by {child}",))))
            found[point.id] = tuple(users)
        return found


def room_to_merge(stock: Stock, point: RestorePoint) -> int:
    """How many bytes the full images of a point may take at most."""
    total = 0
    for disk in point.disks:
        if disk.type != INCREMENTAL:
            continue
        files = [each.file(image.file) for each, image in stock.images(point, disk.target)]
        held = sum(file.size for file in files if file)
        total += min(held, int(disk.virtual_size * (1 + _TABLES))) + _SPARE
    return total


def picture(name: str, stock: Stock, plan: PrunePlan) -> tuple[str, str]:
    """The restore points before and after, each with the reason why it stays or goes."""
    before, after = [f"{name}:"], [f"{name}:"]
    merged = set(plan.merged)
    for point in stock.points:
        on = f" on {point.parent.id}" if point.parent else ""
        if point.id in plan.removed:
            before.append(f"  {point.id} {point.type}{on}; goes: {plan.removed[point.id]}")
            continue
        why = ", ".join(plan.kept.get(point.id, ()))
        now = f"  {point.id} {point.type}{on}; stays: {why}"
        before += [now] if point.made else []
        after.append(f"  {point.id} full; stays: {why}" if point.id in merged else now)
    before += [f"  {path}; left by a dead run" for path in stock.debris]
    return "\n".join(before), "\n".join(after)
