# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens at any moment of one of our runs: it dies, or the daemon or QEMU under it does."""

from __future__ import annotations

import os
import signal
import time
from random import Random
from typing import Any, ClassVar

from lab.modules import ModuleCrashed, ModuleRun

from . import beside
from .accidents import Given, as_before, check_thawed, known, task, then
from .actions import action
from .judge import DONE, Candidate, Fault, Trial, message, no_traceback, one_of
from .model import SAVED, Model, demand
from .of_merges import forget_disk
from .stage import Stage

# A run has begun to work after half a second, and short ones are over in two.
MOMENTS = (1.0, 2.0, 5.0)
NOTHING = {"name": "nosuch", "state": "absent"}


class AtMoment(Trial):
    """One of our tasks is under way when something happens `ms` after its start."""

    deadly: ClassVar[bool] = False  # for the task itself

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        kind, given = task(model, random)
        return {"kind": kind, "given": given, "ms": round(1000 * self._moment(random))}

    def _moment(self, random: Random) -> float:
        return random.uniform(0.3, random.choice(MOMENTS))

    def after(self, model: Model, *, kind: str, given: Given, ms: int) -> None:
        known(kind).after(model.copy(), **given)

    def run(
        self, stage: Stage, model: Model, *, kind: str, given: Given, ms: int
    ) -> tuple[str, Model]:
        what = known(kind)
        with stage.begin(what.module, **what.options(stage, **given)) as run:
            time.sleep(ms / 1000)
            over = run.poll() is not None
            self.happens(stage, run)
            said = self._outcome(run)
        stage.settled()
        check_thawed(stage, model, kind)
        answer = message(stage.attempt("vm_snapshot", **NOTHING))
        if answer != DONE:
            raise Fault(f"the task: {said}\nthe next one: {answer}")
        beside.clear(stage)
        candidates = self.candidates(model, (kind, given))
        try:
            prepared = [self.prepared(stage, each) for each in candidates]
            return said + " (over)" * over, one_of(stage, prepared)
        except Fault as fault:
            raise Fault(f"the task: {said}\n{fault}") from None

    def _outcome(self, run: ModuleRun) -> str:
        try:
            result = run.result()
        except ModuleCrashed as crash:
            if not self.deadly:
                raise Fault(f"the task has crashed: {crash}") from None
            return "killed"
        no_traceback(result)
        return message(result)

    def happens(self, stage: Stage, run: ModuleRun) -> None:
        raise NotImplementedError

    def prepared(self, stage: Stage, candidate: Candidate) -> Candidate:
        """With what the model cannot know: a QEMU that was to go on may have opened its images."""
        candidate.model.ahead = candidate.model.ahead or candidate.model.power == SAVED
        return candidate

    def candidates(self, model: Model, dead: tuple[str, Given]) -> list[Candidate]:
        """As before it and after it."""
        return [*then(model, dead), *as_before(model, dead[0])]


@action("killed at a moment", 3)
class KilledAt(AtMoment):
    deadly = True

    def happens(self, stage: Stage, run: ModuleRun) -> None:
        run.send_signal(signal.SIGKILL)


@action("interrupted")
class Interrupted(AtMoment):
    """As by Ctrl-C, or when the session over which Ansible has come ends."""

    deadly = True

    def happens(self, stage: Stage, run: ModuleRun) -> None:
        run.send_signal(signal.SIGTERM)


@action("the daemon dies during a task", 2)
class DaemonDies(AtMoment):
    """The task waits for it or fails, and the next one finds what it has left."""

    def happens(self, stage: Stage, run: ModuleRun) -> None:
        stage.lab.daemon.restart(crash=True)


@action("QEMU dies during a task", 2)
class QemuDies(AtMoment):
    """Then the machine is off, before or after the task, unless that has started it once more."""

    def after(self, model: Model, *, kind: str, given: Given, ms: int) -> None:
        super().after(model, kind=kind, given=given, ms=ms)
        demand(model.active)

    def happens(self, stage: Stage, run: ModuleRun) -> None:
        try:
            os.kill(stage.vm.qemu_pid(), signal.SIGKILL)
        except OSError:  # the task has switched it off
            return
        stage.vm.disconnect()

    def prepared(self, stage: Stage, candidate: Candidate) -> Candidate:
        """Some disks of a snapshot were merged, and the others were left to it."""
        candidate = super().prepared(stage, candidate)
        for target in candidate.model.disks:
            forget_disk(stage, candidate.model, target)
        return candidate

    def candidates(self, model: Model, dead: tuple[str, Given]) -> list[Candidate]:
        found = super().candidates(model, dead)
        return [*found, *map(_off, found), *self._once_off(model, dead)]

    def _once_off(self, model: Model, dead: tuple[str, Given]) -> list[Candidate]:
        """The task where it was done to a machine that was off by then."""
        gone = _off(Candidate(model.copy(), model)).model
        return [Candidate(each.model, model, each.done) for each in then(gone, dead)]


def _off(candidate: Candidate) -> Candidate:
    after = candidate.model.copy()
    after.lose()
    after.frozen = False
    return Candidate(after, candidate.before, candidate.done)
