# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing VMs to what a plan says: recover, plan, hold against facts, apply, look again.

The half of the runner that knows nothing of Ansible.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Callable

from ._host.apply import Work, apply, take
from ._host.connection import call, connect, wait_idle
from ._host.facts import block_jobs, directory_fact, file_fact, image_uses
from ._host.freeze import Guard, freeze_status, thaw
from ._host.journal import Journal, journal_path, new_content
from ._host.lock import locked
from ._host.observe import Host, observe
from ._model.problem import Conflict, Problem, Unreachable
from ._model.state import Facts, VmState
from ._model.step import Plan, Step, TakeSnapshot
from ._plan.predict import predict
from ._plan.recover import files_of, left_by, plan_recovery
from ._plan.vet import needs, settle

if TYPE_CHECKING:
    from ._host.libvirt_dep import Domain

PlanFor = Callable[[VmState], Plan]
_RECONNECT_SECONDS = 60.0


@dataclass
class Outcome:
    """What became of one VM: steps done (or foreseen), states before and after, or a problem."""

    before: VmState | None = None
    after: VmState | None = None
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None

    @property
    def to_do(self) -> bool:
        """Whether a foreseen outcome needs hands: steps, or a journal to close."""
        return self.problem is None and bool(
            self.steps or (self.before is not None and self.before.journal)
        )


def foresee(host: Host, dom: Domain, plan_for: PlanFor) -> Outcome:
    """What a run would do, without touching anything; check mode returns this."""
    try:
        vm = observe(host, dom)
        recovery = _recovery(host, vm)
        clean = replace(predict(vm, recovery), journal=None)
        plan = plan_for(clean)
        ours = files_of(vm.journal) if vm.journal else ()
        plan = settle(plan, clean, gather(host, dom, vm, plan), ours)
        steps = (*recovery.steps, *plan.steps)
        notes = (*recovery.notes, *plan.notes)
        return Outcome(vm, predict(clean, plan), steps, notes)
    except Problem as problem:
        return Outcome(problem=problem)


def observe_only(host: Host, dom: Domain, _plan_for: PlanFor) -> Outcome:
    """The VM as it is, with a note if a dead run left something to bring in order."""
    try:
        vm = observe(host, dom)
    except Problem as problem:
        return Outcome(problem=problem)
    note = f"{vm.name}: an interrupted run left a journal; the next change finishes or undoes it"
    return Outcome(vm, vm, (), (note,) if vm.journal else ())


def gather(host: Host, dom: Domain, vm: VmState, plan: Plan) -> Facts:
    """The facts for a plan; nothing is looked up for an empty one."""
    if not plan.steps:
        return Facts({}, {})
    wanted = needs(plan)
    return Facts(
        files={path: file_fact(path) for path in wanted.files},
        directories={path: directory_fact(path) for path in wanted.directories},
        uses=image_uses(host, vm, wanted.images),
        jobs=block_jobs(dom, vm, wanted.targets),
        managed_save=vm.off and bool(call(f"VM {vm.name}", dom.hasManagedSaveImage, 0)),
        agent=freeze_status(dom) if wanted.agent else "",
    )


def change_one(host: Host, dom: Domain, plan_for: PlanFor) -> Outcome:
    """Bring one VM to what its plan says, alone on it."""
    outcome = Outcome()
    uuid, name = dom.UUIDString(), dom.name()
    try:
        with locked(host.state_dir, uuid, name, host.run, host.lock_timeout):
            outcome.before = observe(host, dom)
            try:
                _recover_then_apply(host, dom, plan_for, outcome)
            except Unreachable as lost:
                host, dom = _reconnected(host, uuid, lost)
                outcome.notes += (f"{name}: libvirt was lost and found again: {lost.found}",)
                _recover_then_apply(host, dom, plan_for, outcome)
            outcome.after = _converged(host, dom, plan_for)
    except Problem as problem:
        outcome.problem = problem
    return outcome


def _recover_then_apply(host: Host, dom: Domain, plan_for: PlanFor, outcome: Outcome) -> None:
    vm = _recovered(host, dom, outcome)
    plan = _settled(host, dom, vm, plan_for)
    outcome.notes += plan.notes
    if not plan.steps:
        return
    with _begun(host, dom, vm, plan.steps, ()) as work:
        try:
            apply(work)
            work.journal.close()
        except Unreachable:
            raise
        except Problem as problem:
            raise _brought_in_order(work, problem) from problem
        finally:
            outcome.steps += work.steps[: work.next]
            outcome.report.update(work.report)
            outcome.notes += tuple(work.notes)


def _settled(host: Host, dom: Domain, vm: VmState, plan_for: PlanFor) -> Plan:
    plan = plan_for(vm)
    return settle(plan, vm, gather(host, dom, vm, plan))


@contextlib.contextmanager
def _begun(
    host: Host, dom: Domain, vm: VmState, steps: tuple[Step, ...], group: tuple[str, ...]
) -> Any:
    """The work with its journal on disk, and a guard if it is going to freeze."""
    freezes = any(isinstance(step, TakeSnapshot) and step.quiesce != "never" for step in steps)
    guard = Guard(host.uri) if freezes else None
    journal = Journal(host.state_dir, vm.uuid, new_content(host.run, vm.status, steps, group))
    journal.write()
    try:
        yield Work(host, dom, vm, steps, journal, guard)
    finally:
        if guard:
            guard.close()


def _recovery(host: Host, vm: VmState, *, finish: bool = True) -> Plan:
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


def _recovered(host: Host, dom: Domain, outcome: Outcome) -> VmState:
    """The VM in a clean state: what a dead run left is finished or undone, and reported."""
    wait_idle(dom, time.monotonic() + host.timeout)
    vm = observe(host, dom)
    if not vm.journal:
        return vm
    if not vm.off and vm.live.agent == "connected" and freeze_status(dom) == "frozen":
        thaw(dom)
        outcome.notes += (f"{vm.name}: thawed the guest",)
    for finish in (True, False):
        plan = _recovery(host, vm, finish=finish)
        work = _resumed_work(host, dom, vm, plan)
        try:
            settle(plan, vm, gather(host, dom, vm, plan))
            apply(work)
            break
        except Unreachable:
            raise
        except Problem as problem:
            if not finish:
                raise
            outcome.notes += (f"{vm.name}: {problem.found}",)
        finally:
            outcome.steps += plan.steps[: work.next]
            vm = observe(host, dom)
    outcome.notes += plan.notes
    work.journal.close()
    return observe(host, dom)


def _resumed_work(host: Host, dom: Domain, vm: VmState, plan: Plan) -> Work:
    """Recovery goes by the dead run's journal, which stays as it is until all is in order."""
    return Work(host, dom, vm, plan.steps, _Unmarked(host.state_dir, vm.uuid, {}))


class _Unmarked(Journal):
    """A journal whose steps are not marked: recovery plans from what it sees, not from marks."""

    def done(self, index: int) -> None:
        """Nothing: the dead run's journal stays as it is."""

    def mark(self, note: str) -> None:
        """Nothing."""


def _brought_in_order(work: Work, problem: Problem) -> Problem:
    """After a failure in the middle undo or close up at once; the error to raise then."""
    try:
        vm = observe(work.host, work.dom)
        apply(_resumed_work(work.host, work.dom, vm, _recovery(work.host, vm, finish=False)))
        work.journal.close()
    except Problem as second:
        why = f"what was begun could not be brought in order ({second.found})"
        todo = f"{problem.todo}; {why}, the next run will try again".lstrip("; ")
        return type(problem)(problem.found, wanted=problem.wanted, todo=todo)
    return problem


def _converged(host: Host, dom: Domain, plan_for: PlanFor) -> VmState:
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


def _reconnected(host: Host, uuid: str, lost: Problem) -> tuple[Host, Any]:
    """A new connection once the daemon is back; the old problem if it does not come."""
    deadline = time.monotonic() + _RECONNECT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(Unreachable):
            again = replace(host, conn=connect(host.uri))
            return again, call("finding the VM again", again.conn.lookupByUUIDString, uuid)
        time.sleep(0.5)
    raise lost


def change_group(
    host: Host, doms: Mapping[str, Domain], foreseen: dict[str, Outcome], plan_for: PlanFor
) -> dict[str, Outcome]:
    """All VMs at one point in time, or none of them."""
    if any(outcome.problem for outcome in foreseen.values()):
        return {name: _refused(outcome) for name, outcome in foreseen.items()}
    outcomes = {name: Outcome() for name in doms}
    try:
        with contextlib.ExitStack() as stack:
            for name in sorted(doms, key=lambda name: doms[name].UUIDString()):
                uuid = doms[name].UUIDString()
                stack.enter_context(locked(host.state_dir, uuid, name, host.run, host.lock_timeout))
            _change_group(host, doms, plan_for, outcomes, stack)
            for name, dom in doms.items():
                outcomes[name].after = _converged(host, dom, plan_for)
    except Problem as problem:
        for outcome in outcomes.values():
            outcome.problem = problem
    return outcomes


def _refused(outcome: Outcome) -> Outcome:
    """A member's part when the group cannot go: its own problem, or that of another."""
    other = Conflict(
        "nothing was done, since another VM of the consistent group cannot take part",
        wanted="all VMs at one point in time",
        todo="see the other VM's message",
    )
    return Outcome(problem=outcome.problem or other)


def _change_group(
    host: Host,
    doms: Mapping[str, Domain],
    plan_for: PlanFor,
    outcomes: dict[str, Outcome],
    stack: contextlib.ExitStack,
) -> None:
    plans: dict[str, tuple[VmState, Plan]] = {}
    for name, dom in doms.items():
        outcomes[name].before = observe(host, dom)
        vm = _recovered(host, dom, outcomes[name])
        plans[name] = (vm, _settled(host, dom, vm, plan_for))
    lacking = [name for name, (_vm, plan) in plans.items() if plan.steps]
    if lacking and len(lacking) < len(plans):
        have = ", ".join(name for name in plans if name not in lacking)
        raise Conflict(
            f"{have} already has the snapshot, {', '.join(lacking)} has not",
            wanted="one point in time for all of them",
            todo="choose another name, or remove the snapshot first",
        )
    uuids = tuple(vm.uuid for vm, _plan in plans.values())
    works = [
        stack.enter_context(_begun(host, doms[name], vm, plan.steps, uuids))
        for name, (vm, plan) in plans.items()
        if plan.steps
    ]
    if works:
        _together(works, outcomes)


def _together(works: list[Work], outcomes: dict[str, Outcome]) -> None:
    try:
        with ThreadPoolExecutor(max_workers=len(works)) as pool:
            list(pool.map(lambda work: apply(work, until_point=True), works))
            take(works)
            list(pool.map(apply, works))
        for work in works:
            work.journal.close()
    except Unreachable:
        raise
    except Problem as problem:
        raise [_brought_in_order(work, problem) for work in works][-1] from problem
    finally:
        for work in works:
            outcome = outcomes[work.vm.name]
            outcome.steps += work.steps[: work.next]
            outcome.report.update(work.report)
            outcome.notes += tuple(work.notes)
