# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezing guests so that they stay frozen when the run ends, and thawing them.

There is no journal: the record of each freeze tells the next run all that it has to know.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .._host.freeze import Guard
from .._host.hold import freeze_and_leave, thaw_and_forget
from .._host.lock import locked
from .._host.observe import Host, observe
from .._model.fault import as_problem
from .._model.state import VmState
from .._model.step import FreezeGuest, Step, ThawGuest
from .change import converged
from .look import each
from .outcome import Outcome, PlanFor
from .recovery import recovered

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain


def freeze_all(host: Host, doms: Mapping[str, Domain], plan_for: PlanFor) -> dict[str, Outcome]:
    """Freeze the guests side by side, in the care of one guard."""
    with _guard(host) as guard:
        return each(doms, lambda dom: _change(host, dom, plan_for, guard), Outcome.failed)


def thaw_all(host: Host, doms: Mapping[str, Domain], plan_for: PlanFor) -> dict[str, Outcome]:
    """Thaw the guests side by side."""
    return each(doms, lambda dom: _change(host, dom, plan_for), Outcome.failed)


@contextlib.contextmanager
def _guard(host: Host) -> Iterator[Guard]:
    guard = Guard(host.uri, state_dir=host.state_dir)
    try:
        guard.ready()
        yield guard
    finally:
        guard.close()


def _change(host: Host, dom: Domain, plan_for: PlanFor, guard: Guard | None = None) -> Outcome:
    outcome = Outcome()
    try:
        with locked(host.state_dir, dom.UUIDString(), dom.name(), host.run, host.lock_timeout):
            outcome.before = observe(host, dom)
            vm = recovered(host, dom, outcome)
            plan = plan_for(vm)
            outcome.notes += plan.notes
            for step in plan.steps:
                outcome.notes += _do(host, dom, guard, vm, step)
                outcome.steps += (step,)
            outcome.after = converged(host, dom, plan_for)
    except Exception as error:
        outcome.problem = as_problem(error, f"VM {dom.name()}")
    return outcome


def _do(host: Host, dom: Domain, guard: Guard | None, vm: VmState, step: Step) -> tuple[str, ...]:
    """Do a step; what there is to tell."""
    if isinstance(step, FreezeGuest) and guard:
        return freeze_and_leave(host, dom, guard, vm, step)
    if isinstance(step, ThawGuest):
        thaw_and_forget(host, dom)
    return ()
