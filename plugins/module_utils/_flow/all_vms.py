# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing all VMs of a task to what its plan says.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .._host.observe import Host
from .._model.fault import as_problem
from .change import change_one, foresee
from .group import agreed, change_group
from .look import each
from .outcome import ChangeAll, Outcome, PlanFor

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain


def act(
    host: Host,
    doms: Mapping[str, Domain],
    known: Mapping[str, Outcome],
    plan_for: PlanFor,
    *,
    proof: PlanFor | None = None,
    group: bool,
    check_mode: bool,
    change: ChangeAll | None = None,
) -> dict[str, Outcome]:
    """name -> outcome: what was done, or with ``check_mode`` would be.

    ``known`` are the outcomes of VMs that are as wanted, and of names that are no VM; they come
    out as they are, but for a ``group``, which goes as a whole or not at all. ``proof`` is for
    what can be asked for again and again: what is left to do after it was done. ``change`` does
    it, by default one VM after the plan of another, each with a journal.
    """
    rest = {name: dom for name, dom in doms.items() if name not in known}
    foreseen = each(rest, lambda dom: foresee(host, dom, plan_for), Outcome.failed)
    outcomes = {name: outcome for name, outcome in known.items() if name not in doms}
    outcomes.update({name: known.get(name) or foreseen[name] for name in doms})
    if group:
        all_found = len(doms) == len(outcomes)
        under_way = all_found and any(outcome.journaled for outcome in outcomes.values())
        outcomes = agreed(outcomes)
        goes = under_way or any(outcome.steps for outcome in outcomes.values())
        return outcomes if check_mode or not goes else change_group(host, doms, plan_for, proof)
    todo = {name: doms[name] for name in doms if outcomes[name].to_do}
    if check_mode or not todo:
        return outcomes
    if change:
        outcomes.update(_changed(change, host, todo, plan_for))
        return outcomes
    changed = each(todo, lambda dom: change_one(host, dom, plan_for, proof), Outcome.failed)
    outcomes.update(changed)
    return outcomes


def _changed(
    change: ChangeAll, host: Host, todo: Mapping[str, Domain], plan_for: PlanFor
) -> dict[str, Outcome]:
    """What became of these VMs; what keeps all of them from being changed is told of each."""
    try:
        return change(host, todo, plan_for)
    except Exception as error:
        return {name: Outcome.failed(as_problem(error, f"VM {name}")) for name in todo}
