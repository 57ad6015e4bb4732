# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pruning the restore points of one VM, step by step. The caller holds the writer's lock.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from .._model.backup import RestorePoint
from .._model.problem import Busy, Damaged
from .._model.stock import Stock, Verified
from .._model.stock_step import FinishMerge, MergePoint, RemoveDebris, RemovePoint, StockStep
from .image_lock import users
from .merge import merged
from .repository import path_of, read_stock
from .repository_write import (
    commit,
    finish_staged,
    record_verified,
    remove_debris,
    remove_point,
    replacing,
)


@dataclass
class Pruning:
    """What a run prunes: ``at`` is the time that counts as now, ``run`` what others are told."""

    stock: Stock
    vm: str
    run: str
    lock_timeout: float
    timeout: float
    at: str
    gone: set[str] = field(default_factory=set)


def prune_step(work: Pruning, step: StockStep) -> None:
    """Do one step. Busy where somebody reads what is to be replaced or removed."""
    if isinstance(step, MergePoint):
        _merge(work, step)
        return
    directory = work.stock.directory
    with replacing(directory, work.vm, work.run, work.lock_timeout):
        if isinstance(step, RemoveDebris):
            remove_debris(step.path)
            return
        point = _known(work.stock, step)
        _refuse_used(work.stock, point)
        if isinstance(step, FinishMerge):
            finish_staged(directory, point)
        elif isinstance(step, RemovePoint):
            _refuse_needed(work, point)
            remove_point(directory, point.id)
            work.gone.add(point.id)


def _merge(work: Pruning, step: MergePoint) -> None:
    directory = work.stock.directory
    # Earlier steps may have changed what it stands on.
    work.stock = read_stock(work.stock.repository, directory)
    old = _known(work.stock, step)
    _refuse_used(work.stock, old)  # before much is written in vain
    verified = work.stock.is_verified(old)
    new = merged(work.stock, old, work.at, work.timeout)
    with replacing(directory, work.vm, work.run, work.lock_timeout):
        _refuse_used(work.stock, old)
        new = commit(directory, new)
        finish_staged(directory, new)
        # Else it would be the newest verified one from now on, and the next run remove another.
        if verified:
            record_verified(directory, new, Verified(work.at, new.digest))
    work.stock = read_stock(work.stock.repository, directory)
    now = _known(work.stock, step)
    trouble = work.stock.trouble_of(now)
    if now.digest != new.digest or now.id in work.stock.staged or trouble:
        raise Damaged(
            f"{now.id} is not as it was written{trouble and f': {trouble}'}",
            wanted="the full restore point that was just made",
            todo="look at the disk that the repository is on; nothing was removed",
        )


def _known(stock: Stock, step: FinishMerge | MergePoint | RemovePoint) -> RestorePoint:
    point = stock.point(step.point)
    if point is None:
        raise Damaged(f"{stock.directory}/{step.point} has gone while it was worked on")
    return point


def _refuse_needed(work: Pruning, point: RestorePoint) -> None:
    """No plan removes what something stands on; this holds it against what is there now."""
    for child in work.stock.children(point.id):
        if child.id not in work.gone:
            raise Damaged(f"{point.id} cannot go: {child.id} stands on it")


def _refuse_used(stock: Stock, point: RestorePoint) -> None:
    """An image that QEMU has open, such as the base of a VM that was restored at once."""
    for disk in point.disks:
        path = path_of(stock.directory, point, disk.file)
        who = users(path) if os.path.lexists(path) else ""
        if who:
            raise Busy(
                f"{path} is in use by {who}",
                wanted="to replace or remove it",
                todo="run the task again when nothing uses it",
            )
