# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which restore points are kept by counting hours, days, weeks, months and years.

As in restic and in Proxmox: from the newest to the oldest, each rule keeps the newest restore point
of each hour, day and so on, as many as it says. Hours and days without any do not count. Time is
UTC.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Callable

from .._model.backup import RestorePoint, moment


@dataclass(frozen=True)
class Retention:
    """How many are kept by each rule; ``protect`` are ids that stay in any case.

    With ``merge``, what a kept one stands on can be merged into it.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    protect: frozenset[str] = frozenset()
    merge: bool = True


def _week(time: datetime) -> str:
    year, week = time.isocalendar()[:2]
    return f"{year}-W{week:02}"


_BUCKETS: dict[str, Callable[[datetime], str]] = {
    "hourly": lambda time: time.strftime("%Y-%m-%dT%H"),
    "daily": lambda time: time.strftime("%Y-%m-%d"),
    "weekly": _week,
    "monthly": lambda time: time.strftime("%Y-%m"),
    "yearly": lambda time: time.strftime("%Y"),
}
RULES = ("last", *_BUCKETS)


def kept_by_rules(points: Iterable[RestorePoint], rules: Retention) -> dict[str, list[str]]:
    """id -> by which rules it is kept; ``points`` are given oldest first."""
    newest_first = list(points)[::-1]
    kept: dict[str, list[str]] = {}
    for number, point in enumerate(newest_first[: rules.last], 1):
        kept.setdefault(point.id, []).append(f"last {number}")
    for rule, bucket_of in _BUCKETS.items():
        seen: set[str] = set()
        for point in newest_first:
            if len(seen) == getattr(rules, rule):
                break
            time = moment(point.time)
            bucket = bucket_of(time) if time else ""
            if bucket not in seen:
                seen.add(bucket)
                kept.setdefault(point.id, []).append(f"{rule} {bucket}")
    return kept
