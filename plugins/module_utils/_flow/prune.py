# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pruning the restore points of one VM: plan, show or apply, look again.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .._host.files import directory_fact
from .._host.repository import read_stock
from .._host.repository_write import check_writable, replacing, writing
from .._host.stock_apply import Pruning, prune_step
from .._host.under_way import users_of, writer_of
from .._host.uses import drop_uses, read_uses
from .._model.fault import as_problem
from .._model.problem import Busy, Problem
from .._model.stock import Stock
from .._model.stock_step import MergePoint, PrunePlan, RemovePoint, StockStep, shown
from .._plan.foreseen import Foreseen, with_foreseen
from .._plan.prune import picture, plan_prune
from .._plan.retention import Retention
from .stock import StockOutcome, Store
from .stock_look import settled

_TIME = len("20261124T030000Z")


def prune(
    rules: Retention,
    at: str,
    foreseen: Mapping[str, Foreseen],
    store: Store,
    name: str,
    stock: Stock,
) -> StockOutcome:
    """Keep of one VM what the rules keep. ``at`` is the time that counts as now.

    ``foreseen`` tells by name or UUID of a VM what check mode has to count with.
    """
    stock, writer = settled(store, name, stock), writer_of(stock.directory)
    if writer:
        # What looks like debris may be what that run is about to complete.
        stock = replace(stock, debris=())
    stock, notes = _tidy(_used(stock))
    expected = foreseen.get(stock.uuid) or foreseen.get(name)
    if store.check and expected:
        stock = with_foreseen(stock, expected)
    plan = _plan(rules, stock)
    if store.check or not plan.steps:
        outcome = _outcome(name, stock, plan, plan.steps)
        also = (f"another run works on its restore points now: {writer}",) if writer else ()
        outcome.notes += (*notes, *also)
        outcome.fail_for(stock.unclear.values())
        return outcome
    with writing(stock.directory, name, store.run, store.lock_timeout):
        # Whoever restores now may have recorded what is only about to stand there.
        with contextlib.suppress(Busy), replacing(stock.directory, name, store.run, 0):
            drop_uses(stock.directory)
        stock, notes = _tidy(_used(read_stock(stock.repository, stock.directory)))
        plan = _plan(rules, stock)
        work = Pruning(stock, name, store.run, store.lock_timeout, store.timeout, at)
        done, problem = _apply(work, plan.steps)
        outcome = _outcome(name, stock, plan, done)
        outcome.notes += notes
        problem = problem or _left(rules, name, stock)
        outcome.fail_for([*([problem] if problem else []), *stock.unclear.values()])
    return outcome


def _plan(rules: Retention, stock: Stock) -> PrunePlan:
    plan = plan_prune(stock, rules, directory_fact(stock.directory).free)
    if plan.steps:
        check_writable(stock.directory)
    return plan


def _used(stock: Stock) -> Stock:
    """With who uses its restore points: VMs that stand on them though they are off, and any QEMU.

    A point of which that is not clear may stand on any that is not younger.
    """
    uses = dict(read_uses(stock.directory))
    for point in stock.points:
        who = users_of(os.path.join(stock.directory, point.id))
        if who:
            uses.setdefault(point.id, who)
    for id in stock.unclear:
        for point in stock.points:
            if point.id[:_TIME] <= id[:_TIME]:
                uses.setdefault(point.id, f"{id}, as it may be: that one cannot be read")
    return replace(stock, uses=uses)


def _tidy(stock: Stock) -> tuple[Stock, tuple[str, ...]]:
    """Without the debris that QEMU still writes to: a dead run does not end the job it began."""
    used = {path: who for path in stock.debris if (who := users_of(path))}
    notes = tuple(f"{path} is left alone: it is in use by {who}" for path, who in used.items())
    return replace(stock, debris=tuple(path for path in stock.debris if path not in used)), notes


def _apply(work: Pruning, steps: Sequence[StockStep]) -> tuple[Sequence[StockStep], Problem | None]:
    """The steps that were done, and why no more were."""
    done: list[StockStep] = []
    try:
        for step in steps:
            prune_step(work, step)
            done.append(step)
    except Exception as error:
        return done, as_problem(error, f"VM {work.vm} in {work.stock.directory}")
    return done, None


def _left(rules: Retention, name: str, stock: Stock) -> Problem | None:
    """What is still to do after a run, None if nothing. What had no room may have some by now."""
    after = _tidy(_used(read_stock(stock.repository, stock.directory)))[0]
    left = plan_prune(after, rules, 0).steps
    if not left:
        return None
    steps = ", ".join(str(shown(step)) for step in left)
    return Problem(f"VM {name}: there is still to do: {steps}")


def _outcome(name: str, stock: Stock, plan: PrunePlan, done: Sequence[StockStep]) -> StockOutcome:
    """What is returned where these steps of the plan were done."""
    removed = {step.point: step.why for step in done if isinstance(step, RemovePoint)}
    merged = [step.point for step in done if isinstance(step, MergePoint)]
    late = {id: ("still to be removed",) for id in plan.removed if id not in removed}
    kept = {**plan.kept, **late}
    reached = replace(plan, steps=tuple(done), kept=kept, removed=removed)
    before, after = picture(name, stock, reached)
    return StockOutcome(
        result={
            "kept": [
                {"id": point.id, "reasons": list(kept[point.id])}
                for point in stock.points
                if point.id in kept
            ],
            "removed": [{"id": id, "why": why} for id, why in removed.items()],
            "merged": merged,
            "broken": dict(stock.broken),
        },
        steps=tuple(shown(step) for step in done),
        notes=plan.notes,
        before=before,
        after=after,
    )
