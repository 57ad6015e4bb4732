# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing one VM to what a plan says: recover, plan, hold against facts, apply, look again.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from .._host.apply import apply
from .._host.connection import NO_DOMAIN, code_of, reconnected
from .._host.freeze import Guard
from .._host.journal import Journal, check_room, new_content
from .._host.lock import guard_lock, locked
from .._host.observe import Host, observe
from .._host.stamp_record import as_words
from .._host.state_dir import check_state_directory
from .._host.work import Work
from .._model.fault import as_problem
from .._model.problem import Problem, Unreachable
from .._model.state import Facts, VmState
from .._model.step import BackUp, CommitDisk, Plan, PullDisk, Step, TakeSnapshot
from .._plan.freeze import without_expired
from .._plan.left import files_of
from .._plan.predict import predict
from .._plan.vet import settle
from .._plan.vet_backups import put_back
from .facts import gather, prove_way_back, settled
from .outcome import Outcome, PlanFor
from .recovery import brought_in_order, ended, froze, observe_left, recovered, recovery_plan
from .stamping import note_others, sound_before

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain


def foresee(host: Host, dom: Domain, plan_for: PlanFor) -> Outcome:
    """What a run would do, without touching anything; check mode returns this.

    Nobody is kept from the VM meanwhile. Where libvirt forgot it between two questions, it is
    looked at once more: it may have been saved.
    """
    outcome = _foreseen(host, dom, plan_for)
    if outcome.problem and code_of(outcome.problem.__cause__) == NO_DOMAIN:
        return _foreseen(host, dom, plan_for)
    return outcome


def _foreseen(host: Host, dom: Domain, plan_for: PlanFor) -> Outcome:
    try:
        vm = observe_left(host, dom)
    except Exception as error:
        return Outcome(problem=as_problem(error, f"VM {dom.name()}"))
    try:
        recovery = recovery_plan(host, vm)
        clean = predict(without_expired(vm), recovery)
        clean = replace(clean, journal=None, reverted=recovery.reverted)
        plan = plan_for(clean)
        ours = files_of(vm.journal) if vm.journal else ()
        facts = _after_recovery(host, dom, vm, recovery, gather(host, dom, vm, plan))
        prove_way_back(host, dom, clean, plan)
        plan = settle(plan, clean, facts, ours)
        steps = (*recovery.steps, *plan.steps)
        notes = (*recovery.notes, *plan.notes)
        if steps:
            check_state_directory(host.state_dir)
            check_room(host.state_dir, new_content(host.run, vm.status, steps, ()))
        return Outcome(vm, predict(clean, plan), steps, notes)
    except Exception as error:
        return Outcome(vm, problem=as_problem(error, f"VM {vm.name}"))


def _after_recovery(host: Host, dom: Domain, vm: VmState, recovery: Plan, facts: Facts) -> Facts:
    """The facts without the jobs that the recovery takes up: they will have ended by then.

    And without a freeze that should have ended, or that the dead run left; with the backup
    checkpoints that it had taken out.
    """
    if facts.agent == "frozen" and (froze(vm.journal) or (vm.freeze and vm.freeze.expired)):
        facts = replace(facts, agent="thawed")
    again = [name for step in put_back(vm.journal) for name in step.names]
    facts = replace(facts, backups=tuple(dict.fromkeys((*again, *facts.backups))))
    if not (facts.jobs and recovery.steps):
        return facts
    try:
        settled(host, dom, vm, recovery)
    except Problem:
        return facts  # somebody else's jobs
    jobs = (CommitDisk, PullDisk)
    taken_up = {step.target for step in recovery.steps if isinstance(step, jobs)}
    return replace(facts, jobs=tuple(job for job in facts.jobs if job.target not in taken_up))


def change_one(host: Host, dom: Domain, plan_for: PlanFor, proof: PlanFor | None = None) -> Outcome:
    """Bring one VM to what its plan says, alone on it.

    ``proof`` says what is left to do afterwards, by default the plan itself.
    """
    outcome = Outcome()
    uuid, name = dom.UUIDString(), dom.name()
    try:
        with locked(host.state_dir, uuid, name, host.run, host.lock_timeout):
            outcome.before = observe(host, dom)
            try:
                _recover_then_apply(host, dom, plan_for, outcome)
            except Unreachable as lost:
                conn, dom = reconnected(host.uri, uuid, lost)
                host = host.reached_by(conn)
                outcome.notes += (f"{name}: libvirt was lost and found again: {lost.found}",)
                _recover_then_apply(host, dom, plan_for, outcome)
            outcome.after = converged(host, dom, proof or plan_for)
    except Exception as error:
        outcome.problem = as_problem(error, f"VM {name}")
    return outcome


def _recover_then_apply(host: Host, dom: Domain, plan_for: PlanFor, outcome: Outcome) -> None:
    apply_held(host, dom, recovered(host, dom, outcome), plan_for, outcome)


def apply_held(host: Host, dom: Domain, vm: VmState, plan_for: PlanFor, outcome: Outcome) -> None:
    """Bring a VM whose lock is held, and that was found in order, to what a plan says."""
    plan = settled(host, dom, vm, plan_for(vm))
    outcome.notes += plan.notes
    if not plan.steps:
        return
    with guarding(host, [(vm, plan)]) as guard:
        work = begun(host, dom, vm, plan.steps)
        try:
            apply(work, guard)
            ended(work)
        except Unreachable:
            raise
        except Exception as error:
            raise brought_in_order(work, as_problem(error, f"VM {vm.name}")) from error
        finally:
            outcome.add(work)


@contextlib.contextmanager
def guarding(host: Host, plans: Iterable[tuple[VmState, Plan]]) -> Iterator[Guard | None]:
    """The one guard of a run that is going to freeze or pause; None where nothing is."""
    held = [vm for vm, plan in plans if any(_holds(step) for step in plan.steps)]
    if not held:
        yield None
        return
    with contextlib.ExitStack() as stack:
        in_order = sorted(held, key=lambda vm: vm.uuid)
        locks = [guard_lock(host.state_dir, vm.uuid, vm.name) for vm in in_order]
        guard = Guard(host.uri, [stack.enter_context(lock) for lock in locks])
    try:
        yield guard
    finally:
        guard.close()


def _holds(step: Step) -> bool:
    if isinstance(step, BackUp):
        return step.quiesce != "never"
    return isinstance(step, TakeSnapshot) and (step.quiesce != "never" or step.pause)


def begun(
    host: Host, dom: Domain, vm: VmState, steps: tuple[Step, ...], group: tuple[str, ...] = ()
) -> Work:
    """The work, its journal on disk. ``group`` are the UUIDs of a consistent group."""
    notes = note_others(host, dom, vm)
    content = new_content(host.run, vm.status, steps, group)
    content["sound"] = as_words(sound_before(vm, steps))
    journal = Journal(host.state_dir, vm.uuid, content)
    journal.write()
    return Work(host, dom, vm, steps, journal, notes=list(notes))


def converged(host: Host, dom: Domain, plan_for: PlanFor) -> VmState:
    """The VM as it is now; a plan that still has steps means that the run did not do its work."""
    after = observe(host, dom)
    left = plan_for(after).steps
    if left:
        raise Problem(
            f"VM {after.name} is not as wanted after the run; still to do: "
            + ", ".join(step.step for step in left),
            wanted="nothing left to do",
            todo="run the task again; if it stays, look at vm_snapshot_info",
        )
    return after
