# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving VMs their restore points: several side by side, each alone on its VM and its folder.

There is no journal: what a dead run left is what has no manifest in the repository, so the next
run sees it there.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .._host import repository as repositories
from .._host import repository_write
from .._host.backups import new_id, with_bitmaps_proved
from .._host.connection import reconnected
from .._host.do_backup import Making, make, tidy
from .._host.lock import locked
from .._host.observe import Host, observe
from .._model.fault import as_problem
from .._model.problem import Unreachable
from .._model.state import VmState
from .._model.step import BackUp, CreateRepository, Step
from .._plan.backup import backups_of, left_to_do
from .change import converged, guarding
from .facts import settled
from .look import each
from .outcome import ChangeAll, Outcome, PlanFor
from .recovery import recovered
from .stamping import note_others

if TYPE_CHECKING:
    from datetime import datetime

    from .._host.libvirt_dep import Domain


def backing_up(repository: str, now: datetime, parallel: int) -> ChangeAll:
    """How the VMs of a task get their restore points, ``parallel`` at a time."""

    def change(host: Host, doms: Mapping[str, Domain], plan_for: PlanFor) -> dict[str, Outcome]:
        new = not repositories.identity(repository)
        made = (CreateRepository(repository, new_id(repository, now)),) if new else ()
        return each(
            doms, lambda dom: _change(host, dom, plan_for, made), Outcome.failed, workers=parallel
        )

    return change


def _change(
    host: Host, dom: Domain, plan_for: PlanFor, made: tuple[CreateRepository, ...]
) -> Outcome:
    outcome = Outcome()
    uuid, name = dom.UUIDString(), dom.name()
    try:
        with locked(host.state_dir, uuid, name, host.run, host.lock_timeout):
            outcome.before = observe(host, dom)
            vm = recovered(host, dom, outcome)
            settled(host, dom, vm, plan_for(vm))  # what cannot go leaves no folder
            for step in made:
                repository_write.create(step.repository, step.id)
                outcome.steps += (step,)
            folder = backups_of(vm).stock.directory
            with repository_write.writing(folder, name, host.run, host.lock_timeout):
                host, dom = _carry_out(host, dom, plan_for, outcome)
                outcome.after = converged(host, dom, left_to_do)
    except Exception as error:
        outcome.problem = as_problem(error, f"VM {name}")
    return outcome


def _carry_out(host: Host, dom: Domain, plan_for: PlanFor, outcome: Outcome) -> tuple[Host, Domain]:
    """Do what is to be done; by which connection the VM is reached after it."""
    vm = with_bitmaps_proved(dom, observe(host, dom))
    plan = settled(host, dom, vm, plan_for(vm))
    outcome.notes += plan.notes
    outcome.notes += note_others(host, dom, vm) if plan.steps else ()
    with guarding(host, [(vm, plan)]) as guard:
        for step in plan.steps:
            if isinstance(step, BackUp):
                making = Making(host, dom, vm, backups_of(vm), step, guard)
                try:
                    outcome.report["point"] = make(making)
                finally:
                    outcome.notes += tuple(f"{vm.name}: {note}" for note in making.notes)
                host, dom = making.host, making.dom
            else:
                told, host, dom = _tidied(host, dom, vm, step)
                outcome.notes += (told,) if told else ()
            outcome.steps += (step,)
    return host, dom


def _tidied(host: Host, dom: Domain, vm: VmState, step: Step) -> tuple[str, Host, Domain]:
    """Do such a step, once more where the daemon was restarted; what there is to tell."""
    uuid = dom.UUIDString()
    try:
        return tidy(dom, vm, step), host, dom
    except Unreachable as lost:
        conn, dom = reconnected(host.uri, uuid, lost)
        return tidy(dom, vm, step), host.reached_by(conn), dom
