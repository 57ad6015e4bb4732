# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a VM in order after a run that died or failed in the middle.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._host.apply import Work, apply
from .._host.connection import call, wait_idle
from .._host.freeze import freeze_status, thaw
from .._host.journal import Journal, journal_path
from .._host.observe import Host, observe
from .._model.problem import Conflict, Problem, Unreachable
from .._model.state import VmState
from .._model.step import Plan
from .._plan.recover import files_of, left_by, plan_recovery
from .outcome import Outcome, settled

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain


def recovery_plan(host: Host, vm: VmState, *, finish: bool = True) -> Plan:
    """The plan that cleans up after a dead run, empty if there was none."""
    if not vm.journal:
        return Plan(vm.name)
    existing = frozenset(path for path in files_of(vm.journal) if os.path.lexists(path))
    left = left_by(vm.journal, existing, group_complete=_group_complete(host, vm.journal))
    try:
        return plan_recovery(left, vm, finish=finish)
    except Problem as problem:
        path = journal_path(host.state_dir, vm.uuid)
        raise Conflict(
            f"{problem.found} (journal {path})", wanted=problem.wanted, todo=problem.todo
        ) from problem


def _group_complete(host: Host, journal: Mapping[str, Any]) -> bool:
    """Whether all VMs of the dead run's group have the snapshot."""
    names = [entry["step"]["spec"]["name"] for entry in journal["steps"] if "spec" in entry["step"]]
    for uuid in journal["group"] if names else ():
        found = call("listing the VMs", host.conn.listAllDomains, 0)
        members = [dom for dom in found if dom.UUIDString() == uuid]
        if not members or names[0] not in members[0].snapshotListNames(0):
            return False
    return True


def recovered(host: Host, dom: Domain, outcome: Outcome) -> VmState:
    """The VM in a clean state: what a dead run left is finished or undone, and reported."""
    wait_idle(dom, time.monotonic() + host.timeout)
    vm = observe(host, dom)
    if not vm.journal:
        return vm
    _thaw_if_frozen(dom, vm, outcome)
    try:
        _bring_in_order(host, dom, vm, outcome, finish=True)
    except Unreachable:
        raise
    except Problem as problem:
        outcome.notes += (f"{vm.name}: {problem.found}",)
        _bring_in_order(host, dom, observe(host, dom), outcome, finish=False)
    return observe(host, dom)


def _thaw_if_frozen(dom: Domain, vm: VmState, outcome: Outcome) -> None:
    """The dead run may have been killed together with its guard."""
    if not vm.off and vm.live.agent == "connected" and freeze_status(dom) == "frozen":
        thaw(dom)
        outcome.notes += (f"{vm.name}: thawed the guest",)


def _bring_in_order(
    host: Host, dom: Domain, vm: VmState, outcome: Outcome, *, finish: bool
) -> None:
    """Apply what the dead run's journal calls for, and close it. The journal itself is kept
    as the dead run left it until then, so this can die as well."""
    plan = recovery_plan(host, vm, finish=finish)
    journal = Journal(host.state_dir, vm.uuid, dict(vm.journal or {}))
    work = Work(host, dom, vm, settled(host, dom, vm, plan).steps, journal, resumed=True)
    try:
        apply(work)
    finally:
        outcome.steps += work.steps[: work.next]
    outcome.notes += (*plan.notes, *work.notes)
    journal.close()


def brought_in_order(work: Work, problem: Problem) -> Problem:
    """After a failure in the middle undo or close up at once; the error to raise then."""
    try:
        vm = observe(work.host, work.dom)
        _bring_in_order(work.host, work.dom, vm, Outcome(), finish=False)
    except Problem as second:
        why = f"what was begun could not be brought in order ({second.found})"
        todo = f"{problem.todo}; {why}, the next run will try again".lstrip("; ")
        return type(problem)(problem.found, wanted=problem.wanted, todo=todo)
    return problem
