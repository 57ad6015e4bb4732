# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring one VM: look, plan, make files beside, verify, define by one call, start, look again.

Until the one definition nothing of the VM changes, and what a dead run left is known by its name. A
journal is there only while a VM is off that was stopped, and for what is pulled in at the end.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from .._host.connection import call, once_back, wait_idle
from .._host.lock import locked
from .._host.observe import Host
from .._host.repository import enclosing, read_stock
from .._host.repository_write import finish_staged, reading, replacing, writing
from .._host.restore_observe import find_target, look_at, look_at_places, read_stored
from .._host.state_dir import check_state_directory
from .._model.fault import as_problem
from .._model.problem import Busy, Damaged, Problem, Unreachable, Unsupported
from .._model.restore import Places, RestoreWish, Seen, StoredVm
from .._model.state import VmState
from .._model.step import DefineRestored, Plan, RemoveFile
from .._model.stock import LATEST
from .._plan.freeze import without_expired
from .._plan.predict import predict
from .._plan.restore import foreseen, is_done, plan_restore
from .._plan.restore_checks import check_point, check_wish, directories, unusable
from .._plan.restore_places import nvram_place, tpm_files
from .facts import settled
from .outcome import Outcome
from .recovery import recovered, recovery_plan
from .restore_apply import Decision, carry_out
from .stamping import note_others

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain

# A VM is paused for a moment while it starts, and while what was pulled is written.
_PAUSED_SECONDS = 10.0


def foresee(host: Host, wish: RestoreWish) -> Outcome:
    """What a run would do, without touching anything."""
    outcome = Outcome()
    try:
        dom = find_target(host, wish)
        seen = look_at(host, wish, dom)
        outcome.before = seen.vm
        recovery = recovery_plan(host, seen.vm) if dom is not None else Plan(wish.name)
        clean = replace(predict(without_expired(seen.vm), recovery), journal=None)
        decision = _decide(host, wish, replace(seen, vm=clean), dom)
        outcome.steps = (*recovery.steps, *decision.plan.steps)
        outcome.notes = (*recovery.notes, *decision.plan.notes)
        outcome.after = decision.after
        outcome.report["replaced"] = _still_there(seen, decision.plan)
        if outcome.steps:
            check_state_directory(host.state_dir)
    except Exception as error:
        outcome.problem = as_problem(error, f"VM {wish.name}")
    return outcome


def _still_there(seen: Seen, plan: Plan) -> list[str]:
    """The files that will be kept of what was replaced."""
    kept = seen.still_there
    for step in plan.steps:
        kept = step.replaced if isinstance(step, DefineRestored) else kept
    removed = {step.file for step in plan.steps if isinstance(step, RemoveFile)}
    return [path for path in kept if path not in removed]


def _decide(host: Host, wish: RestoreWish, seen: Seen, dom: Domain | None) -> Decision:
    check_wish(wish)
    stored: StoredVm | None = None
    places = Places()
    if not is_done(wish, seen):
        check_point(wish)
        stored = _stored(wish)
        places = _places(host, wish, seen, stored)
    plan = plan_restore(wish, seen, stored, places)
    plan = _spared(host, dom, seen.vm, plan)
    return Decision(seen, stored, places, plan, foreseen(wish, seen, stored, places, plan))


def _stored(wish: RestoreWish) -> StoredVm:
    try:
        return read_stored(wish, measured=not wish.instant or wish.start)
    except Damaged as problem:
        raise unusable(wish.stock, wish.point, problem.found) from problem


def _places(host: Host, wish: RestoreWish, seen: Seen, stored: StoredVm) -> Places:
    folders = [*directories(wish, seen)]
    folders += [place.directory for place, _source in nvram_place(wish, seen, stored)]
    for folder in folders:
        # The path may not be there yet; a file in it is what counts.
        above = enclosing(os.path.join(folder, "disk"))
        if above:
            raise Unsupported(
                f"{folder} lies in the repository {above}",
                wanted="a directory for the images of a VM, which no run tidies up",
                todo="choose another 'directory'",
            )
    below = [name for name, _source in tpm_files(wish, seen, stored)]
    return look_at_places(host, wish, folders, below)


def _spared(host: Host, dom: Domain | None, vm: VmState, plan: Plan) -> Plan:
    """The plan without the removal of what others use."""
    loose = tuple(step for step in plan.steps if isinstance(step, RemoveFile) and step.spare)
    if dom is None or not loose:
        return plan
    chains = tuple(disk.chain for disk in vm.disks if disk.chain)
    free = replace(vm, disks=(), live=replace(vm.live, disks=()), branches=chains)
    kept = settled(host, dom, free, Plan(plan.vm, loose))
    steps = tuple(step for step in plan.steps if step not in loose or step in kept.steps)
    return replace(plan, steps=steps, notes=(*plan.notes, *kept.notes))


def restore(host: Host, wish: RestoreWish) -> Outcome:
    """Restore a VM, alone on it, while nobody takes the restore points away."""
    outcome = Outcome()
    deadline = time.monotonic() + host.timeout
    vm, directory = wish.point.vm, wish.stock.directory
    try:
        with locked(host.state_dir, wish.uuid, wish.name, host.run, host.lock_timeout):
            _finish_merges(host, _fresh(wish), outcome)
            with reading(directory, vm, host.run, host.lock_timeout):
                wish = _fresh(wish)
                try:
                    _restore(host, wish, outcome, deadline)
                except Unreachable as lost:
                    host = once_back(host.uri, lost, host.reached_by)
                    outcome.notes += (f"{vm}: libvirt was lost and found again: {lost.found}",)
                    _restore(host, wish, outcome, deadline)
    except Exception as error:
        outcome.problem = as_problem(error, f"VM {wish.name}")
    return outcome


def _fresh(wish: RestoreWish) -> RestoreWish:
    """The wish by what the repository holds now."""
    stock = read_stock(wish.stock.repository, wish.stock.directory)
    point = stock.chosen(wish.asked, wish.disks)
    if wish.asked == LATEST:
        stock.check_clear(but_older_than=point.id)
    return replace(wish, stock=stock, point=point)


def _finish_merges(host: Host, wish: RestoreWish, outcome: Outcome) -> None:
    """Let no merge of the restore points that are read be left half done."""
    stock, vm = wish.stock, wish.point.vm
    half = [point for point in stock.lineage(wish.point) if point.id in stock.staged]
    if not half:
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(writing(stock.directory, vm, host.run, host.lock_timeout))
        stack.enter_context(replacing(stock.directory, vm, host.run, host.lock_timeout))
        for point in half:
            finish_staged(stock.directory, point)
    outcome.notes += tuple(f"{vm}: finished the merge of restore point {p.id}" for p in half)


def _restore(host: Host, wish: RestoreWish, outcome: Outcome, deadline: float) -> None:
    began = time.monotonic()
    dom = find_target(host, wish)
    if dom is not None and call(f"reading VM {wish.name}", dom.isActive):
        wait_idle(dom, deadline)
    seen = look_at(host, wish, dom)
    outcome.before = outcome.before or seen.vm
    if dom is not None and seen.vm.unsettled:
        recovered(host, dom, outcome)
        seen = look_at(host, wish, dom)
    decision = _decided(host, wish, seen, dom)
    outcome.notes += decision.plan.notes
    if dom is not None and decision.plan.steps:
        outcome.notes += note_others(host, dom, decision.seen.vm)
    carry_out(host, wish, decision, outcome, deadline)
    outcome.after = _converged(host, wish, outcome)
    if decision.plan.steps:
        outcome.report["seconds"] = round(time.monotonic() - began, 3)


def _decided(host: Host, wish: RestoreWish, seen: Seen, dom: Domain | None) -> Decision:
    """The decision, once a VM that is only paused for a moment runs."""
    patience = time.monotonic() + _PAUSED_SECONDS
    while True:
        try:
            return _decide(host, wish, seen, dom)
        except Busy:
            if time.monotonic() > patience:
                raise
        time.sleep(0.2)
        seen = look_at(host, wish, dom)


def _converged(host: Host, wish: RestoreWish, outcome: Outcome) -> VmState:
    """The VM as it is now; steps that are left mean that the run did not do its work."""
    dom = find_target(host, wish)
    seen = look_at(host, wish, dom)
    outcome.report["replaced"] = list(seen.still_there)
    if is_done(wish, seen):
        left = ", ".join(step.step for step in _decide(host, wish, seen, dom).plan.steps)
    else:
        left = "to restore it"
    if left:
        raise Problem(
            f"VM {wish.name} is not as wanted after the run; still to do: {left}",
            wanted=f"a VM that comes from restore point {wish.point.id}, and nothing left to do",
            todo="run the task again; if it stays, look at vm_snapshot_info",
        )
    return seen.vm
