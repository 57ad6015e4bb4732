# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring one VM: look, plan, make files beside, verify, define by one call, start, look again.

There is no journal: until the one definition nothing of the VM changes, and what a dead run left is
known by its name. Only what is pulled in at the end, while the VM runs, has one, as any pull.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .._host.connection import call
from .._host.do_restore import Restoring, begin, define, do_restore, give_up
from .._host.journal import Journal
from .._host.lock import locked
from .._host.observe import Host, observe
from .._host.repository import read_stock
from .._host.repository_write import finish_staged, reading, replacing, writing
from .._host.restore_observe import find_target, look_at, look_at_places, read_stored
from .._host.work import Work, do
from .._model.problem import Damaged, Problem, Unreachable
from .._model.restore import Places, RestoreWish, Seen, StoredVm
from .._model.state import VmState
from .._model.step import (
    DefineRestored,
    ForgetSnapshot,
    Plan,
    PullDisk,
    RemoveFile,
    RestoreDisk,
    RestoreFile,
    RewriteSnapshot,
    SetSource,
    Step,
)
from .._plan.freeze import without_expired
from .._plan.predict import predict
from .._plan.restore import foreseen, is_done, plan_restore, pull_plan
from .._plan.restore_checks import check_point, check_wish, directories, unusable
from .._plan.restore_places import nvram_place
from .._plan.restore_predict import definition
from .change import apply_held
from .facts import settled
from .outcome import Outcome
from .recovery import recovered, recovery_plan

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain


# A pull, and what follows it for the definition and the snapshots.
_PULLING = (PullDisk, SetSource, RewriteSnapshot, ForgetSnapshot)


@dataclass(frozen=True)
class _Decision:
    """What is to be done to a VM, and all that it was decided from."""

    seen: Seen
    stored: StoredVm | None
    places: Places
    plan: Plan
    after: VmState


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
    except Problem as problem:
        outcome.problem = problem
    return outcome


def _still_there(seen: Seen, plan: Plan) -> list[str]:
    """The files that will be kept of what was replaced."""
    kept = seen.still_there
    for step in plan.steps:
        kept = step.replaced if isinstance(step, DefineRestored) else kept
    removed = {step.file for step in plan.steps if isinstance(step, RemoveFile)}
    return [path for path in kept if path not in removed]


def _decide(host: Host, wish: RestoreWish, seen: Seen, dom: Domain | None) -> _Decision:
    check_wish(wish)
    stored: StoredVm | None = None
    places = Places()
    if not is_done(wish, seen):
        check_point(wish)
        stored = _stored(wish)
        folders = [
            *directories(wish, seen),
            *(p.directory for p, _s in nvram_place(wish, seen, stored)),
        ]
        places = look_at_places(host, wish, folders)
    plan = plan_restore(wish, seen, stored, places)
    plan = _spared(host, dom, seen.vm, plan)
    return _Decision(seen, stored, places, plan, foreseen(wish, seen, stored, places, plan))


def _stored(wish: RestoreWish) -> StoredVm:
    try:
        return read_stored(wish, measured=not wish.instant or wish.start)
    except Damaged as problem:
        raise unusable(wish.stock, wish.point, problem.found) from problem


def _spared(host: Host, dom: Domain | None, vm: VmState, plan: Plan) -> Plan:
    """The plan without the removal of what others use."""
    loose = tuple(s for s in plan.steps if isinstance(s, RemoveFile) and s.spare)
    if dom is None or not loose:
        return plan
    free = replace(vm, disks=(), live=replace(vm.live, disks=()))
    kept = settled(host, dom, free, Plan(plan.vm, loose))
    steps = tuple(s for s in plan.steps if s not in loose or s in kept.steps)
    return replace(plan, steps=steps, notes=(*plan.notes, *kept.notes))


def restore(host: Host, wish: RestoreWish) -> Outcome:
    """Restore a VM, alone on it, while nobody takes the restore points away."""
    outcome = Outcome()
    deadline = time.monotonic() + host.timeout
    try:
        with locked(host.state_dir, wish.uuid, wish.name, host.run, host.lock_timeout):
            wish = _merged(host, wish, outcome)
            with reading(wish.stock.directory, wish.point.vm, host.run, host.lock_timeout):
                _restore(host, wish, outcome, deadline)
    except Problem as problem:
        outcome.problem = problem
    return outcome


def _merged(host: Host, wish: RestoreWish, outcome: Outcome) -> RestoreWish:
    """The wish once no merge of its restore points is left half done."""
    stock = wish.stock
    half = [point for point in stock.lineage(wish.point) if point.id in stock.staged]
    if not half:
        return wish
    vm = wish.point.vm
    with contextlib.ExitStack() as stack:
        stack.enter_context(writing(stock.directory, vm, host.run, host.lock_timeout))
        stack.enter_context(replacing(stock.directory, vm, host.run, host.lock_timeout))
        for point in half:
            finish_staged(stock.directory, point)
    outcome.notes += tuple(f"{vm}: finished the merge of restore point {p.id}" for p in half)
    again = read_stock(stock.repository, stock.directory)
    return replace(wish, stock=again, point=again.point(wish.point.id) or wish.point)


def _restore(host: Host, wish: RestoreWish, outcome: Outcome, deadline: float) -> None:
    began = time.monotonic()
    dom = find_target(host, wish)
    seen = look_at(host, wish, dom)
    outcome.before = seen.vm
    if dom is not None and seen.vm.unsettled:
        recovered(host, dom, outcome)
        seen = look_at(host, wish, dom)
    decision = _decide(host, wish, seen, dom)
    outcome.notes += decision.plan.notes
    _apply(host, wish, decision, outcome, deadline)
    outcome.after = _converged(host, wish, dom, outcome)
    if decision.plan.steps:
        outcome.report["seconds"] = round(time.monotonic() - began, 3)


def _apply(
    host: Host, wish: RestoreWish, decision: _Decision, outcome: Outcome, deadline: float
) -> None:
    restoring, pulled = _restoring(host, wish, decision, deadline), False
    steps = decision.plan.steps
    made = tuple(step for step in steps if isinstance(step, (RestoreDisk, RestoreFile)))
    with _given_up_on_failure(restoring, made):
        for step in steps:
            if isinstance(step, _PULLING):
                if not pulled:
                    _pull(host, wish, outcome, deadline)
                pulled = True
            elif isinstance(step, DefineRestored):
                define(step, made, restoring)
                outcome.steps += (step,)
            else:
                _do(step, restoring)
                outcome.steps += (step,)


@contextlib.contextmanager
def _given_up_on_failure(
    restoring: Restoring, made: tuple[RestoreDisk | RestoreFile, ...]
) -> Iterator[None]:
    """Where it fails before the VM is defined, nothing of it stays.

    If libvirt was lost in the middle of that call, the next run looks what came of it.
    """
    try:
        yield
    except Unreachable:
        raise
    except Exception:
        if not restoring.defined:
            give_up(made, restoring)
        raise
    finally:
        if restoring.verification:
            restoring.verification.close()


def _restoring(host: Host, wish: RestoreWish, decision: _Decision, deadline: float) -> Restoring:
    seen, stored, macs = decision.seen, decision.stored, decision.places.macs

    def xml(step: DefineRestored, stamps: dict[str, str]) -> str:
        if stored is None:
            raise Problem(f"VM {wish.name}: nothing was read to define it from")
        return definition(wish, seen, stored, step, macs, stamps)

    restoring = Restoring(
        host, wish, seen, xml, lambda trouble: unusable(wish.stock, wish.point, trouble), deadline
    )
    begin(restoring, decision.plan.steps)
    return restoring


def _do(step: Step, restoring: Restoring) -> None:
    """A step that is not the definition, nor a pull."""
    if do_restore(step, restoring):
        return
    host, wish = restoring.host, restoring.wish
    dom = None
    if not isinstance(step, RemoveFile):
        dom = call(f"finding VM {wish.name}", host.conn.lookupByUUIDString, wish.uuid)
    journal = Journal(host.state_dir, wish.uuid, {})
    do(step, Work(host, dom, restoring.seen.vm, (step,), journal, resumed=True))


def _pull(host: Host, wish: RestoreWish, outcome: Outcome, deadline: float) -> None:
    """Let the images stand for themselves; a pull has a journal, so it goes on when this dies."""
    dom = call(f"finding VM {wish.name}", host.conn.lookupByUUIDString, wish.uuid)
    bounded = replace(host, timeout=max(1.0, deadline - time.monotonic()))
    apply_held(bounded, dom, observe(host, dom), lambda vm: pull_plan(wish, vm), outcome)


def _converged(host: Host, wish: RestoreWish, dom: Domain | None, outcome: Outcome) -> VmState:
    """The VM as it is now; steps that are left mean that the run did not do its work."""
    if not outcome.steps and outcome.before:
        return outcome.before
    dom = dom or find_target(host, wish)
    seen = look_at(host, wish, dom)
    outcome.report["replaced"] = list(seen.still_there)
    left = _decide(host, wish, seen, dom).plan.steps if is_done(wish, seen) else (None,)
    if left:
        raise Problem(
            f"VM {wish.name} is not as wanted after the run",
            wanted=f"a VM that comes from restore point {wish.point.id}, and nothing left to do",
            todo="run the task again; if it stays, look at vm_snapshot_info",
        )
    return seen.vm
