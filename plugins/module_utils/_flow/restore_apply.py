# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying out the plan of a restore, or leaving all as it was.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .._host.connection import call
from .._host.do_restore import Restoring, begin, define, do_restore, give_up
from .._host.journal import Journal, new_content
from .._host.observe import Host, observe
from .._host.work import Work, do
from .._model.problem import Problem, Unreachable
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
    StartVm,
    Step,
    StopVm,
)
from .._plan.restore import pull_plan
from .._plan.restore_checks import unusable
from .._plan.restore_predict import definition
from .change import apply_held
from .outcome import Outcome

# A pull, and what follows it for the definition and the snapshots.
_PULLING = (PullDisk, SetSource, RewriteSnapshot, ForgetSnapshot)


@dataclass(frozen=True)
class Decision:
    """What is to be done to a VM, and all that it was decided from."""

    seen: Seen
    stored: StoredVm | None
    places: Places
    plan: Plan
    after: VmState


def carry_out(
    host: Host, wish: RestoreWish, decision: Decision, outcome: Outcome, deadline: float
) -> None:
    """Do the steps; ``deadline`` is of time.monotonic(). Raises Problem."""
    restoring, pulled = _restoring(host, wish, decision, deadline), False
    steps = decision.plan.steps
    made = tuple(step for step in steps if isinstance(step, (RestoreDisk, RestoreFile)))
    off = tuple(step for step in steps if isinstance(step, (StopVm, DefineRestored, StartVm)))
    with _given_up_on_failure(restoring, made, outcome):
        for step in steps:
            if isinstance(step, _PULLING):
                if not pulled:
                    _pull(host, wish, outcome, deadline)
                pulled = True
            elif isinstance(step, DefineRestored):
                define(step, made, restoring)
                outcome.steps += (step,)
            else:
                if isinstance(step, StopVm):
                    _begin_off(restoring, off)
                _do(step, restoring)
                outcome.steps += (step,)
            if step in off[-1:]:
                _end_off(restoring)
    outcome.notes += tuple(restoring.notes)


def _begin_off(restoring: Restoring, steps: tuple[Step, ...]) -> None:
    """A journal from the stop to what ends it, so that a run that dies leaves no VM off."""
    host, vm = restoring.host, restoring.seen.vm
    content = new_content(host.run, vm.status, steps, ())
    restoring.journal = Journal(host.state_dir, vm.uuid, content)
    restoring.journal.write()


def _end_off(restoring: Restoring) -> None:
    if restoring.journal:
        restoring.journal.close()
    restoring.journal = None


@contextlib.contextmanager
def _given_up_on_failure(
    restoring: Restoring, made: tuple[RestoreDisk | RestoreFile, ...], outcome: Outcome
) -> Iterator[None]:
    """Where it fails before the VM is defined, nothing of it stays, and the VM runs as it did.

    Then nothing was done, but for a VM that was stopped and started.

    If libvirt was lost in the middle of that call, the next run looks what came of it.
    """
    before = outcome.steps
    try:
        yield
    except Unreachable:
        raise
    except Exception:
        if not restoring.defined:
            give_up(made, restoring)
            left = tuple(step for step in outcome.steps if isinstance(step, StopVm))
            outcome.steps = left if restoring.stopped else before
            if restoring.stopped:
                with contextlib.suppress(Problem):
                    _do(StartVm(), restoring)
                    _end_off(restoring)
        raise
    finally:
        if restoring.verification:
            restoring.verification.close()


def _restoring(host: Host, wish: RestoreWish, decision: Decision, deadline: float) -> Restoring:
    seen, stored, macs = decision.seen, decision.stored, decision.places.macs

    def xml(step: DefineRestored, stamps: dict[str, str]) -> str:
        if stored is None:
            raise Problem(f"VM {wish.name}: nothing was read to define it from")
        return definition(wish, seen, stored, step, macs, stamps)

    def refused(trouble: str) -> Problem:
        return unusable(wish.stock, wish.point, trouble)

    restoring = Restoring(host, wish, seen, xml, refused, deadline)
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
    restoring.stopped = restoring.stopped or isinstance(step, StopVm)


def _pull(host: Host, wish: RestoreWish, outcome: Outcome, deadline: float) -> None:
    """Let the images stand for themselves; a pull has a journal, so it goes on when this dies."""
    dom = call(f"finding VM {wish.name}", host.conn.lookupByUUIDString, wish.uuid)
    bounded = replace(host, timeout=max(1.0, deadline - time.monotonic()))
    apply_held(bounded, dom, observe(host, dom), lambda vm: pull_plan(wish, vm), outcome)
