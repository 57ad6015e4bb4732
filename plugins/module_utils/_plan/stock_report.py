# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is to say about the restore points of one VM.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from .._model.backup import FULL, RestorePoint, StoredDisk, moment
from .._model.stock import Stock

Report = dict[str, Any]


def stock_report(stock: Stock, now: datetime, read: Iterable[str] = ()) -> Report:
    """The result of vm_backup_info for one VM; ``read`` are the points verified in this run."""
    depths, fresh = depths_of(stock), set(read)
    points = [_point(stock, point, depths[point.id], point.id in fresh) for point in stock.points]
    newest = stock.good[-1] if stock.good else None
    verified = [point for point in stock.points if stock.is_verified(point)]
    return {
        "restore_points": points,
        "broken": dict(stock.broken),
        "debris": list(stock.debris),
        "newest": newest.id if newest else None,
        "age": seconds_since(newest, now) if newest else None,
        "depth": depths[newest.id] if newest else 0,
        "newest_verified": verified[-1].id if verified else None,
        "last_verified": max((stock.verified[point.id].at for point in verified), default=None),
        "bytes": sum(point.bytes for point in stock.points),
        "under_way": None,
    }


def _point(stock: Stock, point: RestorePoint, depth: int, fresh: bool) -> Report:
    trouble = stock.trouble_of(point)
    return {
        "id": point.id,
        "type": point.type,
        "parent": point.parent.id if point.parent else None,
        "time": point.time,
        "consistency": point.consistency,
        "bytes": point.bytes,
        "seconds": point.seconds,
        "depth": depth,
        "path": f"{stock.directory}/{point.id}",
        "disks": [_disk(point, disk) for disk in point.disks],
        "left_out": [{"target": target, "reason": why} for target, why in point.left_out],
        "protected": point.protected,
        "reason": point.reason,
        "verified": _verified(stock, point),
        "verified_now": fresh,
        "good": not trouble,
        "trouble": trouble,
        "dependents": [child.id for child in stock.children(point.id)],
    }


def _disk(point: RestorePoint, disk: StoredDisk) -> Report:
    file = point.file(disk.file)
    return {
        "target": disk.target,
        "type": disk.type,
        "file": disk.file,
        "bytes": file.size if file else 0,
        "virtual_size": disk.virtual_size,
        "format": disk.format,
        "source": disk.source,
    }


def _verified(stock: Stock, point: RestorePoint) -> Report | None:
    last = stock.verified.get(point.id)
    # What was verified is another one where the manifest has changed since.
    if last is None or last.digest != point.digest:
        return None
    return {"at": last.at, "ok": not last.trouble, "trouble": last.trouble}


def depths_of(stock: Stock) -> Mapping[str, int]:
    """id -> of how many images its deepest disk is read."""
    found: dict[tuple[str, str], int] = {}
    for point in stock.points:
        for disk in point.disks:
            below = 0
            if disk.type != FULL and point.parent is not None:
                below = found.get((point.parent.id, disk.target), 0)
            found[point.id, disk.target] = below + 1
    deepest = dict.fromkeys((point.id for point in stock.points), 0)
    for image, depth in found.items():
        deepest[image[0]] = max(deepest[image[0]], depth)
    return deepest


def seconds_since(point: RestorePoint, now: datetime) -> int | None:
    """The age of a point, 0 for one of the future."""
    time = moment(point.time)
    return max(0, int((now - time).total_seconds())) if time else None


def bad_points(stock: Stock, ids: Iterable[str]) -> list[str]:
    """Of these points in words those that would not restore, and what is broken among them."""
    wanted = set(ids)
    found = {id: why for id, why in stock.broken.items() if id in wanted}
    for point in stock.points:
        trouble = stock.trouble_of(point)
        if trouble and point.id in wanted:
            found[point.id] = trouble
    return [f"{id} would not restore: {why}" for id, why in sorted(found.items())]
