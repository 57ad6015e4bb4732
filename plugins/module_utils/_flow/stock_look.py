# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at the restore points of one VM, and verifying them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from .._host.repository import read_stock
from .._host.repository_write import reading, record_verified
from .._host.under_way import progress_of, writer_of
from .._host.verify import verify
from .._model.backup import in_utc
from .._model.fault import as_problem
from .._model.problem import Busy, NotFound, Problem
from .._model.stock import Stock, Verified
from .._plan.stock_report import bad_points, stock_report
from .stock import StockOutcome, Store

# Seconds for which a run that replaces or removes some files is waited for, just to look.
_MOMENT = 5.0


@dataclass(frozen=True)
class Look:
    """How to look: at which time, and which points to verify, None for all.

    ``parallel`` files are read side by side.
    """

    now: datetime
    verify: bool = False
    points: tuple[str, ...] | None = None
    parallel: int = 2


def look(look: Look, store: Store, name: str, stock: Stock) -> StockOutcome:
    """The restore points as they are; those to be verified are read in full."""
    outcome = StockOutcome()
    read: Sequence[str] = ()
    if look.verify:
        with reading(stock.directory, name, store.run, store.lock_timeout):
            stock, read = _verified(look, store, stock, outcome)
        told = [id for id in _chosen(look, stock) if id not in stock.unclear]
        bad = bad_points(stock, told)
        outcome.fail_for(Problem(f"{name}: {text}") for text in bad)
    else:
        stock = settled(store, name, stock)
    outcome.fail_for(stock.unclear.values())
    stock, under_way = _without_work(stock)
    outcome.result = {**stock_report(stock, look.now, read), "under_way": under_way}
    return outcome


def settled(store: Store, name: str, stock: Stock) -> Stock:
    """The stock, read again if what is wrong with it may be what a run is just replacing."""
    if (stock.troubles or stock.broken) and writer_of(stock.directory):
        with contextlib.suppress(Busy), reading(stock.directory, name, store.run, _MOMENT):
            return read_stock(stock.repository, stock.directory)
    return stock


def _chosen(look: Look, stock: Stock) -> tuple[str, ...]:
    everything = (*(point.id for point in stock.points), *stock.broken)
    if look.points is None:
        return everything
    return tuple(id for id in look.points if id in everything)


def _verified(
    look: Look, store: Store, stock: Stock, outcome: StockOutcome
) -> tuple[Stock, Sequence[str]]:
    """Read the points in full; what is known after that, and which they were."""
    stock = read_stock(stock.repository, stock.directory)
    ids = _chosen(look, stock)
    if look.points is not None and not ids:
        raise NotFound(
            f"{stock.directory} has none of the restore points {', '.join(look.points)}",
            wanted="ids of restore points",
            todo="correct the option 'verify_points'",
        )
    chosen = [point for point in stock.points if point.id in set(ids)]
    found, untold = verify(stock, chosen, parallel=look.parallel, timeout=store.timeout)
    outcome.fail_for(untold.values())
    at = in_utc(look.now)
    outcomes = {
        point.id: Verified(at, point.digest, found[point.id])
        for point in stock.points
        if point.id in found
    }
    if not store.check:
        outcome.notes += _record(stock, outcomes)
    return replace(stock, verified={**stock.verified, **outcomes}), tuple(outcomes)


def _record(stock: Stock, outcomes: dict[str, Verified]) -> tuple[str, ...]:
    """Keep what was found, unless nothing can be written there."""
    try:
        for id, outcome in outcomes.items():
            point = stock.point(id)
            if point:
                record_verified(stock.directory, point, outcome)
    except Exception as error:
        found = as_problem(error, stock.directory).found
        return (f"what was verified could not be recorded: {found}",)
    return ()


def _without_work(stock: Stock) -> tuple[Stock, dict[str, object] | None]:
    """The stock without what a run has under way, and how far a backup is."""
    holder = writer_of(stock.directory)
    if not holder:
        return stock, None
    found = next(filter(None, (progress_of(path) for path in stock.debris)), None)
    under_way = {"run": holder, **found} if found else None
    return replace(stock, debris=()), under_way
