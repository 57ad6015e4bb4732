# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module does to the restore points of VMs: it needs a repository, and no libvirt.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Callable

from ._answer import Answer
from ._argspec import check_seconds, run_name
from ._flow.stock import StockOutcome, Store
from ._host.repository import identity
from ._host.stocks import find_stocks
from ._model.fault import as_problem
from ._model.problem import BadInput, NotFound, Problem
from ._model.stock import Stock
from ._repository import repository_of, without_identity


@dataclass(frozen=True)
class RepositoryOperation:
    """What a module does with the restore points of each VM, given its name and what there is.

    What is found there may be out of date once a lock is held. In check mode the VMs ``foreseen``
    need not have any restore point yet.
    """

    do: Callable[[Store, str, Stock], StockOutcome]
    foreseen: Collection[str] = ()

    def carry_out(self, params: Mapping[str, Any], module: str, *, check: bool) -> Answer:
        """Do it for the VMs of the option ``vm``; with ``check`` only say what would be done.

        A problem of one VM stands in the answer; Problem is raised for those that concern all.
        """
        store = _store(params, module, check)
        answer = Answer()
        if not identity(store.repository):
            answer.notes.append(without_identity(store.repository))
        for name, stock in _by_name(find_stocks(store.repository, params["vm"])).items():
            with answer.entry(name):
                _add(answer, name, self._outcome(store, name, stock))
            if isinstance(stock, Stock):
                answer.vms[name]["uuid"] = stock.uuid
        return answer

    def _outcome(self, store: Store, name: str, stock: Stock | Problem) -> StockOutcome:
        if isinstance(stock, NotFound) and store.check and name in self.foreseen:
            stock = Stock(store.repository, os.path.join(store.repository, name))
        outcome = StockOutcome()
        if isinstance(stock, Problem):
            outcome.fail(stock)
            return outcome
        try:
            return self.do(store, name, stock)
        except Exception as error:
            outcome.fail(as_problem(error, f"VM {name} in {store.repository}"))
            return outcome


def _by_name(found: Mapping[str, Stock | Problem]) -> dict[str, Stock | Problem]:
    """Each VM once and by its name, or as it was asked for where several have that name."""
    stocks = {each.directory: each for each in found.values() if isinstance(each, Stock)}
    names = Counter(_name_of(stock) for stock in stocks.values())
    answer: dict[str, Stock | Problem] = {}
    for given, each in found.items():
        if isinstance(each, Problem):
            answer[given] = each
        elif stocks.pop(each.directory, None):
            name = _name_of(each)
            answer[name if names[name] == 1 else given] = each
    return answer


def _name_of(stock: Stock) -> str:
    folder = os.path.basename(stock.directory)
    return stock.points[-1].vm if stock.points else folder.rpartition(".")[0]


def _store(params: Mapping[str, Any], module: str, check: bool) -> Store:
    check_seconds(params)
    if params["vm"] is not None and not params["vm"]:
        raise BadInput(
            "the option 'vm' is an empty list",
            wanted="at least one VM",
            todo="name one, or leave the option out for all",
        )
    return Store(
        repository=repository_of(params),
        timeout=float(params["timeout"]),
        lock_timeout=float(params["lock_timeout"]),
        run=run_name(module),
        check=check,
    )


def _add(answer: Answer, name: str, outcome: StockOutcome) -> None:
    answer.plan.extend({"vm": name, **step} for step in outcome.steps)
    answer.notes.extend(f"{name}: {note}" for note in outcome.notes)
    if outcome.steps:
        answer.before.append(outcome.before)
        answer.after.append(outcome.after)
    answer.vms[name] = dict(outcome.result)
    if outcome.problem:
        answer.problems[name] = outcome.problem
        answer.vms[name].update(failed=True, msg=outcome.problem)
        if outcome.exception:
            answer.vms[name]["exception"] = outcome.exception
