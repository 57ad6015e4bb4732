# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points that are still to be made, for those who plan what comes after them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .._model.backup import INCREMENTAL, Parent, RestorePoint, StoredDisk, type_of
from .._model.stock import Stock, Verified


@dataclass(frozen=True)
class Foreseen:
    """A restore point that somebody is about to make, of all disks; ``parent`` is '' for none.

    ``verified``: it is then read in full, with all that it stands on.
    """

    id: str
    time: str
    parent: str = ""
    verified: bool = False


def with_foreseen(stock: Stock, expected: Foreseen) -> Stock:
    """The stock once the point is made, if it is not there already."""
    if stock.point(expected.id) is None:
        stock = replace(stock, points=(*stock.points, _point(stock, expected)))
    point = stock.point(expected.id)
    if point is None or not expected.verified:
        return stock
    read = {each.id: Verified(expected.time, each.digest) for each in stock.lineage(point)}
    bad = {each.id for each in stock.points if stock.trouble_of(each)}
    known = {id: verified for id, verified in read.items() if id not in bad}
    return replace(stock, verified={**stock.verified, **known})


def _point(stock: Stock, expected: Foreseen) -> RestorePoint:
    parent = stock.point(expected.parent)
    disks = [replace(disk, type=INCREMENTAL) for disk in parent.disks] if parent else []
    return point_to_be(stock, expected.id, expected.time, disks, parent)


def point_to_be(
    stock: Stock, id: str, time: str, disks: Iterable[StoredDisk], parent: RestorePoint | None
) -> RestorePoint:
    """The next restore point of a stock as far as it can be foreseen: not ``made``."""
    disks = tuple(disks)
    return RestorePoint(
        id=id,
        vm=stock.points[-1].vm if stock.points else "",
        uuid=stock.uuid,
        sequence=stock.next_sequence,
        time=time,
        type=type_of(disks),
        reason="",
        consistency="",
        files=(),
        disks=disks,
        started="",
        finished="",
        seconds=0.0,
        parent=Parent(parent.id, parent.digest) if parent else None,
    )
