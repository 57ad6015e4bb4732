# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a VM in order after a run that died or failed in the middle.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._host.apply import apply
from .._host.connection import call, wait_idle
from .._host.dropped import remember
from .._host.facts import await_end_of_jobs
from .._host.freeze import freeze_status, thaw
from .._host.hold import end_expired
from .._host.image_file import holds_data
from .._host.journal import Journal, journal_path, read_journal
from .._host.observe import Host, observe
from .._host.save_file import is_saved
from .._host.stamp import boot_id
from .._host.work import Work, do
from .._model.fault import as_problem
from .._model.problem import Conflict, Problem, Unreachable
from .._model.state import VmState
from .._model.step import (
    CreateOverlay,
    Plan,
    RestoreMemory,
    ResumeVm,
    StartVm,
    TakeSnapshot,
)
from .._model.storage_steps import StorageStep
from .._plan.dropped import plan_dropped
from .._plan.left import files_of, left_by, over, overlays_of, point_of, save_of
from .._plan.predict import predict
from .._plan.recover import plan_recovery
from .._plan.vet_backups import put_back
from .facts import settled
from .outcome import Outcome
from .stamping import keep_stamps

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain


def recovery_plan(host: Host, vm: VmState, *, finish: bool = True) -> Plan:
    """The plan that cleans up after a dead run, and after libvirt where it forgot something."""
    again = plan_dropped(vm)
    left = _after_dead_run(host, predict(vm, again), finish=finish)
    steps = (*again.steps, *left.steps, *put_back(vm.journal))
    return replace(left, steps=steps, notes=(*again.notes, *left.notes))


def _after_dead_run(host: Host, vm: VmState, *, finish: bool) -> Plan:
    if not vm.journal:
        return Plan(vm.name)
    existing = frozenset(path for path in files_of(vm.journal) if os.path.lexists(path))
    overlays = existing.intersection(overlays_of(vm.journal))
    left = left_by(
        vm.journal,
        existing,
        group_complete=_group_complete(host, vm.journal),
        proven=_proven(host, vm.uuid, vm.journal),
        saved=is_saved(host, vm, save_of(vm.journal)),
        boot=boot_id(),
        written=frozenset(path for path in overlays if holds_data(path)),
    )
    try:
        return plan_recovery(left, vm, finish=finish)
    except Problem as problem:
        path = journal_path(host.state_dir, vm.uuid)
        raise Conflict(
            f"{problem.found} (journal {path})", wanted=problem.wanted, todo=problem.todo
        ) from problem


def _group_complete(host: Host, journal: Mapping[str, Any]) -> bool:
    """Whether all VMs of the dead run's group have the snapshot."""
    point = point_of(journal)
    if not point or not journal["group"]:
        return True
    name = point[0].spec.name
    doing = "looking at the other VMs of the group"
    found = {dom.UUIDString(): dom for dom in call(doing, host.conn.listAllDomains, 0)}
    return all(
        uuid in found and name in call(doing, found[uuid].snapshotListNames, 0)
        for uuid in journal["group"]
    )


def _proven(host: Host, uuid: str, journal: Mapping[str, Any]) -> bool:
    """Whether the dead run knew that the guests were frozen until the snapshot was taken.

    A group marks all its members after that; a member without a journal was already finished.
    """
    point = point_of(journal)
    if not point or point[1] or not froze(journal):
        return True
    for member in journal["group"]:
        if member == uuid:
            continue
        try:
            other = read_journal(host.state_dir, member)
        except Conflict:
            continue  # what cannot be understood proves nothing
        twin = point_of(other) if other else None
        if other is None or (twin and twin[1]):
            return True
    return False


def froze(journal: Mapping[str, Any] | None) -> bool:
    """Whether the run that wrote this journal may have frozen the guest."""
    point = point_of(journal) if journal else None
    return bool(point and point[0].quiesce != "never")


def observe_left(host: Host, dom: Domain) -> VmState:
    """The VM with what a dead run left, once libvirt knows of all that QEMU has finished for it."""
    vm = observe(host, dom)
    ended = over(vm.journal, vm)
    if not ended or vm.off:
        return vm
    await_end_of_jobs(dom, sorted(ended))
    return observe(host, dom)


def recovered(host: Host, dom: Domain, outcome: Outcome) -> VmState:
    """The VM in a clean state: what a dead run left is finished or undone, and reported."""
    ended = end_expired(host, dom)
    outcome.notes += (ended,) if ended else ()
    if read_journal(host.state_dir, dom.UUIDString()) is None:
        return _with_dropped(host, dom, outcome)
    # The daemon may still be at what the dead run had asked for.
    wait_idle(dom, time.monotonic() + host.timeout)
    vm = observe_left(host, dom)
    _thaw_if_frozen(dom, vm, outcome)
    plan = recovery_plan(host, vm)
    try:
        _bring_in_order(host, dom, vm, plan, outcome)
    except Unreachable:
        raise
    except Exception as error:
        outcome.notes += (f"{vm.name}: {as_problem(error, 'recovering').found}",)
        _close_up(host, dom, outcome)
        return observe(host, dom)
    return replace(observe(host, dom), reverted=plan.reverted)


def _with_dropped(host: Host, dom: Domain, outcome: Outcome) -> VmState:
    """The VM, with the snapshots that libvirt dropped while it was off."""
    vm = observe(host, dom)
    if vm.dropped:
        _bring_in_order(host, dom, vm, recovery_plan(host, vm), outcome)
        vm = replace(observe(host, dom), dropped=())
    return vm


def _close_up(
    host: Host,
    dom: Domain,
    outcome: Outcome,
    journal: dict[str, Any] | None = None,
    *,
    finish: bool = False,
) -> None:
    """Where a merge cannot be finished, leave it, so that it stands in nobody's way.

    ``journal`` is for the case that the one on disk was taken away; with ``finish`` merges are
    tried once more.
    """
    vm = observe(host, dom)
    vm = replace(vm, journal=vm.journal or journal)
    _bring_in_order(host, dom, vm, recovery_plan(host, vm, finish=finish), outcome)


def _thaw_if_frozen(dom: Domain, vm: VmState, outcome: Outcome) -> None:
    """The dead run may have been killed together with its guard."""
    if vm.off or vm.live.agent != "connected" or not froze(vm.journal):
        return
    if freeze_status(dom) == "frozen":
        thaw(dom)
        outcome.notes += (f"{vm.name}: thawed the guest",)


def _bring_in_order(host: Host, dom: Domain, vm: VmState, plan: Plan, outcome: Outcome) -> None:
    """Apply what the journal calls for, and close it.

    The journal stays as the dead run left it until then, so this can die as well.
    """
    journal = Journal(host.state_dir, vm.uuid, dict(vm.journal or {}))
    work = Work(host, dom, vm, settled(host, dom, vm, plan).steps, journal, resumed=True)
    try:
        apply(work)
    finally:
        outcome.add(work)
    outcome.notes += plan.notes
    ended(work)


def ended(work: Work) -> None:
    """All is done: keep what has to be known later or libvirt would forget, and close the journal.

    A transient VM that was off has just begun a new run, and nobody has looked yet what that lacks.
    """
    keep_stamps(work)
    if work.vm.persistent or not work.vm.off:
        remember(work.host.state_dir, work.dom)
    work.journal.close()


def brought_in_order(work: Work, problem: Problem) -> Problem:
    """After a failure in the middle undo or close up at once; the error to raise then."""
    try:
        _close_up_or_finish(work)
        work.undone = _left_nothing(work)
    except Exception as error:
        second = as_problem(error, f"VM {work.vm.name}")
        why = f"what was begun could not be brought in order ({second.found})"
        problem = _also(problem, f"{why}, the next run will try again")
    else:
        _go_on(work)
    return _also(problem, f"VM {work.vm.name} is off now") if _went_off(work) else problem


def _close_up_or_finish(work: Work) -> None:
    """QEMU may have died: what was only to last while copies are made is merged without it then."""
    if _went_off(work) and any(isinstance(step, StorageStep) for step in work.steps):
        with contextlib.suppress(Problem):
            _close_up(work.host, work.dom, Outcome(), work.journal.content, finish=True)
            return
    _close_up(work.host, work.dom, Outcome(), work.journal.content)


def _also(problem: Problem, what: str) -> Problem:
    """The problem with more to say of what is to be done."""
    todo = f"{problem.todo}; {what}".lstrip("; ")
    return type(problem)(problem.found, wanted=problem.wanted, todo=todo)


def _go_on(work: Work) -> None:
    """Let a VM that was stopped, and is back already, go on from there as it was to in the end."""
    with contextlib.suppress(Exception):
        for step in work.steps[work.next :] if _went_off(work) else ():
            if isinstance(step, (StartVm, RestoreMemory, ResumeVm)):
                do(step, work)


def _went_off(work: Work) -> bool:
    """Whether a VM that ran does not any more, as far as that can be told."""
    with contextlib.suppress(Exception):
        name = work.vm.name
        return not work.vm.off and not call(f"reading VM {name}", work.dom.isActive)
    return False


def _left_nothing(work: Work) -> bool:
    """Whether a snapshot that could not be taken is undone, as a second look shows."""
    done = work.steps[: work.next]
    if not all(isinstance(step, (CreateOverlay, TakeSnapshot)) for step in done):
        return False
    after = observe(work.host, work.dom)
    overlays = [step.file for step in done if isinstance(step, CreateOverlay)]
    return _shape(after) == _shape(work.vm) and not any(map(os.path.lexists, overlays))


def _shape(vm: VmState) -> object:
    """What a snapshot changes of a VM."""
    names = sorted(snapshot.name for snapshot in vm.snapshots)
    return vm.status, names, {disk.target: disk.files for disk in vm.disks}
