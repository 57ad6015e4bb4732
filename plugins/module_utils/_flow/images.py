# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing one image that no VM uses to what a plan says.

The same flow as for a VM: recover, plan, hold against facts, apply, look again.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Callable

from .._host.image_apply import ImageWork, apply_steps
from .._host.image_facts import image_facts
from .._host.image_observe import ImageHost, image_key, real_path
from .._host.journal import FORMAT, Journal, check_room, journal_path
from .._host.lock import locked
from .._host.state_dir import check_state_directory
from .._model.fault import as_problem
from .._model.image import Identity
from .._model.image_state import ImageState
from .._model.image_step import (
    ApplyTag,
    CommitOverlay,
    ImagePlan,
    ImageStep,
    RemoveOverlay,
    to_dict,
)
from .._model.problem import Busy, Conflict, Problem
from .._model.reference import shown
from .._model.version import VERSION
from .._plan.image_predict import predict
from .._plan.image_recover import bases_of, begun_mark, plan_image_recovery
from .._plan.image_vet import needs, vet

Observe = Callable[[str], ImageState]
PlanImage = Callable[[ImageState], ImagePlan]


@dataclass
class ImageOutcome:
    """What became of one image: steps done (or foreseen), states before and after, or a problem."""

    path: str
    before: ImageState | None = None
    after: ImageState | None = None
    steps: tuple[ImageStep, ...] = ()
    notes: tuple[str, ...] = ()
    problem: Problem | None = None

    @property
    def to_do(self) -> bool:
        """Whether a foreseen outcome needs hands: steps, or a journal to close.

        What is in the way of a run may be another run, so it needs a second look when nobody
        else works on the image.
        """
        journaled = self.before is not None and self.before.journal is not None
        if self.problem is not None:
            return journaled or isinstance(self.problem, (Busy, Conflict))
        return journaled or bool(self.steps)

    @property
    def removed(self) -> tuple[Identity, ...]:
        """The image if it goes, by its identity."""
        image = self.before.image if self.before else None
        goes = any(isinstance(step, RemoveOverlay) for step in self.steps)
        return (image.identity,) if image and goes else ()


@dataclass(frozen=True)
class ImageTask:
    """What is done to each image of a task: how it is read, and what is decided."""

    host: ImageHost
    observe: Observe
    plan: PlanImage

    def foresee(self, path: str, gone: tuple[Identity, ...] = ()) -> ImageOutcome:
        """What a run would do, without touching anything; check mode returns this.

        ``gone`` are images that are removed before.
        """
        outcome = ImageOutcome(path)
        try:
            outcome.before = state = self.observe(path)
            recovery = self._recovery(state)
            clean = replace(predict(state, recovery.steps), journal=None, drafts=())
            self._held(recovery, state, gone)
            plan = self._held(self.plan(clean), clean, gone)
            steps = (*recovery.steps, *plan.steps)
            if steps:
                check_state_directory(self.host.state_dir)
                check_room(self.host.state_dir, self._content(clean, plan))
            outcome.steps = steps
            outcome.notes = (*recovery.notes, *plan.notes)
            outcome.after = predict(clean, plan.steps)
        except Exception as error:
            outcome.problem = as_problem(error, f"image {shown(path)}")
        return outcome

    def change(self, path: str, foreseen: ImageOutcome) -> ImageOutcome:
        """Bring one image to what its plan says, alone on it."""
        outcome = ImageOutcome(path)
        try:
            with self._alone(path, foreseen):
                outcome.before = self.observe(path)
                self._recover(outcome)
                self._carry_out(outcome)
                outcome.after = self._converged(path)
        except Exception as error:
            outcome.problem = as_problem(error, f"image {shown(path)}")
        return outcome

    @contextlib.contextmanager
    def _alone(self, path: str, foreseen: ImageOutcome) -> Iterator[None]:
        """Hold the locks of the image and of what it stands on or is to stand on."""
        host, state = self.host, foreseen.before
        below = [*state.chain[1:2], *state.wanted[:1]] if state else []
        reals = {real_path(path), *(image.file.real for image in below)}
        with contextlib.ExitStack() as stack:
            for real in sorted(reals, key=image_key):
                stack.enter_context(
                    locked(
                        host.state_dir,
                        image_key(real),
                        shown(real),
                        host.run,
                        host.lock_timeout,
                        kind="image",
                    )
                )
            yield

    def _held(
        self, plan: ImagePlan, state: ImageState, gone: tuple[Identity, ...] = ()
    ) -> ImagePlan:
        """The plan held against the facts; raises Problem if it cannot go."""
        if not plan.steps:
            return plan
        wanted = needs(plan, state)
        facts = image_facts(
            self.host,
            state.real,
            written=wanted.written,
            removed=wanted.removed,
            stood_on=wanted.stood_on,
            directories=wanted.directories,
            bases_of=bases_of,
            gone=gone,
        )
        return vet(plan, state, facts)

    def _recovery(self, state: ImageState, *, finish: bool = True) -> ImagePlan:
        """The plan that cleans up after a dead run, empty if there was none."""
        try:
            return plan_image_recovery(state, finish=finish)
        except Problem as problem:
            journal = journal_path(self.host.state_dir, image_key(state.real))
            raise type(problem)(
                f"{problem.found} (journal {journal})", wanted=problem.wanted, todo=problem.todo
            ) from problem

    def _recover(self, outcome: ImageOutcome) -> None:
        """Bring in order what a dead run left. Its journal stays as it is until then."""
        state = outcome.before
        if state is None or state.journal is None:
            return
        plan = self._held(self._recovery(state), state)
        journal = Journal(self.host.state_dir, image_key(state.real), dict(state.journal))
        work = ImageWork(self.host, state, plan.steps, journal, begun_mark, resumed=True)
        self._applied(work, outcome)
        outcome.notes += plan.notes
        journal.close()

    def _carry_out(self, outcome: ImageOutcome) -> None:
        state = self.observe(outcome.path)
        plan = self._held(self.plan(state), state)
        outcome.notes += plan.notes
        if not plan.steps:
            return
        journal = Journal(self.host.state_dir, image_key(state.real), self._content(state, plan))
        journal.write()
        work = ImageWork(self.host, state, plan.steps, journal, begun_mark)
        try:
            self._applied(work, outcome)
        except Exception as error:
            problem = as_problem(error, f"image {shown(outcome.path)}")
            raise self._left_in_order(work, problem) from error
        journal.close()

    def _applied(self, work: ImageWork, outcome: ImageOutcome) -> None:
        try:
            apply_steps(work)
        finally:
            outcome.steps += work.steps[: work.next]
            outcome.notes += tuple(work.notes)

    def _content(self, state: ImageState, plan: ImagePlan) -> dict[str, object]:
        """The journal of a run that is about to begin."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "run": self.host.run,
            "path": state.real,
            "marks": [],
            "steps": [{"step": to_dict(step), "done": False} for step in plan.steps],
        }

    def _left_in_order(self, work: ImageWork, problem: Problem) -> Problem:
        """After a failure clean up at once, if what is there is whole; the error to raise then."""
        try:
            state = self.observe(work.state.path)
            plan = self._recovery(state, finish=False)
            repair = ImageWork(self.host, state, plan.steps, work.journal, begun_mark, resumed=True)
            apply_steps(repair)
            if not _torn(work, state):
                work.journal.close()
                return problem
            why = "what was begun is finished by the next run"
        except Exception as error:
            second = as_problem(error, f"image {shown(work.state.path)}")
            why = f"what was begun could not be brought in order ({second.found})"
        todo = f"{problem.todo}; {why}; nothing is lost until then".lstrip("; ")
        return type(problem)(problem.found, wanted=problem.wanted, todo=todo)

    def _converged(self, path: str) -> ImageState:
        """The image as it is now; a plan that still has steps means that the run failed."""
        after = self.observe(path)
        left = self.plan(after).steps
        if left:
            raise Problem(
                f"{shown(path)} is not as wanted after the run; still to do: "
                + ", ".join(step.step for step in left),
                wanted="nothing left to do",
                todo="run the task again; if it stays, look at qcow2_info",
            )
        return after


def _torn(work: ImageWork, now: ImageState) -> bool:
    """Whether a failed step has left content that is neither the old one nor the wanted one."""
    step = work.steps[work.next]
    if isinstance(step, ApplyTag):
        return work.state.marks != now.marks
    return isinstance(step, CommitOverlay) and not work.untouched
