# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing several VMs to one point in time, or none of them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .._host.apply import apply, take
from .._host.freeze import Guard
from .._host.lock import locked
from .._host.observe import Host, observe
from .._host.work import Work
from .._model.fault import as_problem
from .._model.problem import Conflict, Problem, Unreachable
from .._model.state import VmState
from .._model.step import Plan, Step, TakeSnapshot
from .change import begun, converged, guarding
from .facts import settled
from .outcome import Outcome, PlanFor
from .recovery import brought_in_order, ended, recovered

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain


def agreed(outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    """What is foreseen for a group: all its VMs go together, or none does and each says why."""
    taking = [name for name, outcome in outcomes.items() if _takes(outcome.steps)]
    if taking and len(taking) < len(outcomes) and not any(o.problem for o in outcomes.values()):
        problem = _some_have_it([name for name in outcomes if name not in taking], taking)
        return {name: Outcome(problem=problem) for name in outcomes}
    if any(outcome.problem for outcome in outcomes.values()):
        return {name: _refused(outcome) for name, outcome in outcomes.items()}
    return outcomes


def _takes(steps: Iterable[Step]) -> bool:
    return any(isinstance(step, TakeSnapshot) for step in steps)


def _some_have_it(have: list[str], lack: list[str]) -> Conflict:
    return Conflict(
        f"{', '.join(have)} already has the snapshot, {', '.join(lack)} has not",
        wanted="one point in time for all of them",
        todo="choose another name, or remove the snapshot first",
    )


def _refused(outcome: Outcome) -> Outcome:
    """A member's part when the group cannot go: its own problem, or that of another."""
    other = Conflict(
        "nothing was done, since another VM of the consistent group cannot take part",
        wanted="all VMs at one point in time",
        todo="see the other VM's message",
    )
    return Outcome(problem=outcome.problem or other)


def change_group(
    host: Host, doms: Mapping[str, Domain], plan_for: PlanFor, proof: PlanFor | None = None
) -> dict[str, Outcome]:
    """All VMs at one point in time, or none of them.

    ``proof`` says what is left to do afterwards, by default the plan itself.
    """
    outcomes = {name: Outcome() for name in doms}
    try:
        with contextlib.ExitStack() as stack:
            for name in sorted(doms, key=lambda name: doms[name].UUIDString()):
                uuid = doms[name].UUIDString()
                stack.enter_context(locked(host.state_dir, uuid, name, host.run, host.lock_timeout))
            _change_group(host, doms, plan_for, outcomes)
            for name, dom in doms.items():
                outcomes[name].after = converged(host, dom, proof or plan_for)
    except Exception as error:
        problem = as_problem(error, f"VMs {', '.join(doms)}")
        for outcome in outcomes.values():
            outcome.problem = problem
    return outcomes


def _change_group(
    host: Host, doms: Mapping[str, Domain], plan_for: PlanFor, outcomes: dict[str, Outcome]
) -> None:
    plans: dict[str, tuple[VmState, Plan]] = {}
    for name, dom in doms.items():
        with _naming(name):
            outcomes[name].before = observe(host, dom)
            vm = recovered(host, dom, outcomes[name])
            plans[name] = (vm, settled(host, dom, vm, plan_for(vm)))
            outcomes[name].notes += plans[name][1].notes
    lacking = [name for name, (_vm, plan) in plans.items() if plan.steps]
    takes = any(_takes(plan.steps) for _vm, plan in plans.values())
    if takes and len(lacking) < len(plans):
        raise _some_have_it([name for name in plans if name not in lacking], lacking)
    if lacking:
        with guarding(host, plans.values()) as guard:
            works = list(_all_begun(host, doms, plans))
            _together(works, guard, outcomes, takes=takes)


def _all_begun(
    host: Host, doms: Mapping[str, Domain], plans: Mapping[str, tuple[VmState, Plan]]
) -> Iterator[Work]:
    """The works of all that have something to do, or none of them."""
    uuids = tuple(vm.uuid for vm, _plan in plans.values())
    works: list[Work] = []
    try:
        for name, (vm, plan) in plans.items():
            if plan.steps:
                with _naming(name):
                    works.append(begun(host, doms[name], vm, plan.steps, uuids))
    except Exception:
        for work in works:
            with contextlib.suppress(Exception):
                work.journal.close()
        raise
    yield from works


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """What ends the work of the group says which of its VMs has met it."""
    try:
        yield
    except Problem:
        raise
    except Exception as error:
        raise as_problem(error, f"VM {name}") from error


def _together(
    works: list[Work], guard: Guard | None, outcomes: dict[str, Outcome], *, takes: bool
) -> None:
    """Do the steps, and that which they are to do at once when all have come so far."""
    try:
        with ThreadPoolExecutor(max_workers=len(works)) as pool:
            list(pool.map(lambda work: _applied(work, until_point=True), works))
            if takes:
                take(works, guard)
            list(pool.map(_applied, works))
        for work in works:
            ended(work)
    except Unreachable:
        raise
    except Exception as error:
        problem = as_problem(error, f"VMs {', '.join(work.vm.name for work in works)}")
        raise [brought_in_order(work, problem) for work in works][-1] from error
    finally:
        for work in works:
            outcomes[work.vm.name].add(work)


def _applied(work: Work, *, until_point: bool = False) -> None:
    with _naming(work.vm.name):
        apply(work, until_point=until_point)
