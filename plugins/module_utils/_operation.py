# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module does to VMs: observe, plan, show or apply, observe again.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable

from ._answer import Answer
from ._flow.look import each, nothing_to_do
from ._flow.outcome import ChangeAll, Outcome, PlanFor
from ._host.observe import Host, call_roll, look_up
from ._model.problem import Problem
from ._model.state import VmState
from ._model.step import shown
from ._plan.picture import picture
from ._task_vms import host_for, parted

if TYPE_CHECKING:
    from ._host.libvirt_dep import Domain


@dataclass(frozen=True)
class Operation:
    """What a module does: a pure plan for one VM, and what to return of it.

    ``result`` gets the VM before and after and the report of the run (empty in check mode).
    ``group`` makes all VMs change at one point in time, or none of them. ``proof`` is what is left
    to do after a run, where that is not the plan itself: going back to a snapshot can be asked for
    again and again. ``storage`` wants to know what is below the images. ``find`` looks up the VMs,
    ``also`` adds to what is observed of one, and ``change`` brings all of them to what is wanted
    where that is not done one by one with a journal.
    """

    plan: PlanFor
    result: Callable[[VmState, VmState, dict[str, Any]], dict[str, Any]]
    group: bool = False
    proof: PlanFor | None = None
    storage: bool = False
    find: Callable[[Host, Sequence[str]], dict[str, Any]] = look_up
    also: Callable[[Host, Domain, VmState], VmState] | None = None
    change: ChangeAll | None = None

    def carry_out(self, params: Mapping[str, Any], module: str, *, check: bool) -> Answer:
        """Do it to the VMs of the option ``vm``; with ``check`` only say what would be done.

        A problem of one VM stands in the answer; Problem is raised for those that concern all.
        """
        host = replace(host_for(params, module), storage=self.storage, also=self.also)
        return _answer(self, _outcomes(host, self, params["vm"], check))


def _outcomes(
    host: Host, operation: Operation, names: Iterable[str], check_mode: bool
) -> dict[str, Outcome]:
    """name -> outcome, in the order of the option, each VM once."""
    doms, problems = parted(operation.find(host, list(dict.fromkeys(names))))
    outcomes = {given: Outcome(problem=problem) for given, problem in problems.items()}
    settled = _settled(host, doms, operation)
    if len(settled) == len(outcomes) + len(doms):
        return settled
    # What changes VMs is loaded by the first that is not as wanted: most runs change nothing.
    from ._flow.all_vms import act

    known = {**outcomes, **settled}
    return act(
        host,
        doms,
        known,
        operation.plan,
        proof=operation.proof,
        group=operation.group,
        check_mode=check_mode,
        change=operation.change,
    )


def _settled(host: Host, doms: Mapping[str, Domain], operation: Operation) -> dict[str, Outcome]:
    """The VMs that are as wanted."""
    states = _roll(host)

    def look(dom: Domain) -> Outcome | None:
        return nothing_to_do(host, dom, states.get(dom.UUIDString(), ""), operation.plan)

    # One thread thinks while libvirt answers the others; more would wait for each other.
    looked = each(doms, look, _in_full, workers=3)
    return {name: outcome for name, outcome in looked.items() if outcome}


def _roll(host: Host) -> dict[str, str]:
    """The states of all VMs; none where they cannot be told at once: each is then asked."""
    try:
        return call_roll(host)
    except Exception:
        return {}


def _in_full(_problem: Problem) -> None:
    """A VM at which a glance fails is looked at in full, which tells what is wrong with it."""


def _answer(operation: Operation, outcomes: dict[str, Outcome]) -> Answer:
    answer = Answer()
    for name, outcome in outcomes.items():
        with answer.entry(name):
            _add(operation, answer, name, outcome)
    return answer


def _add(operation: Operation, answer: Answer, name: str, outcome: Outcome) -> None:
    answer.plan.extend(shown(name, step) for step in outcome.steps)
    answer.notes.extend(outcome.notes)
    if outcome.steps and outcome.before and outcome.after:
        answer.before.append(picture(outcome.before))
        answer.after.append(picture(outcome.after))
    if outcome.problem:
        answer.fail(name, outcome.problem)
    elif outcome.before and outcome.after:
        answer.vms[name] = operation.result(outcome.before, outcome.after, outcome.report)
