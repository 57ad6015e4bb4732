# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module does to images that no VM uses: observe, plan, show or apply, observe again.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from ._answer import error_entry
from ._argspec import check_seconds, run_name, state_dir_for
from ._flow.images import ImageOutcome, ImageTask, PlanImage
from ._host.image_observe import ImageHost, real_path
from ._model.fault import as_problem
from ._model.image import Identity
from ._model.image_state import ImageState
from ._model.image_step import shown
from ._model.problem import BadInput
from ._model.reference import shown as named
from ._plan.image_predict import picture

IMAGE_OPTIONS: dict[str, Any] = {
    "path": {"type": "list", "elements": "path", "required": True},
    "allowed_roots": {"type": "list", "elements": "path"},
    "look_in": {"type": "list", "elements": "path"},
    "timeout": {"type": "int", "default": 3600},
    "lock_timeout": {"type": "int", "default": 30},
    "state_dir": {"type": "path"},
}


@dataclass(frozen=True)
class ImageOperation:
    """What a module does to each image of the option ``path``.

    ``observe`` reads an image, ``plan`` is a pure decision, ``result`` is what is returned of it.
    """

    observe: Callable[[ImageHost, str], ImageState]
    plan: PlanImage
    result: Callable[[ImageState], dict[str, Any]]

    def carry_out(self, params: Mapping[str, Any], module: str, *, check: bool) -> ImageAnswer:
        """Do it to one image after the other; with ``check`` only say what would be done.

        A problem of one image stands in the answer; Problem is raised for those that concern all.
        """
        host = _host(params, module)
        task = ImageTask(host, lambda path: self.observe(host, path), self.plan)
        return _answer(self, params["path"], _outcomes(task, params["path"], check))


@dataclass
class ImageAnswer:
    """What the module will return."""

    images: list[dict[str, Any]] = field(default_factory=list)
    plan: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def failure(self) -> str:
        """Why the task fails, '' if it does not."""
        failed = [(image["path"], image["error"]) for image in self.images if image["error"]]
        problems = [text if path in text else f"{named(path)}: {text}" for path, text in failed]
        several = problems and len(self.images) > 1
        count = f"{len(problems)} of {len(self.images)} images failed: " if several else ""
        return count + "; ".join(dict.fromkeys(problems))

    def to_dict(self) -> dict[str, Any]:
        return {
            "changed": bool(self.plan),
            "images": self.images,
            "plan": self.plan,
            "notes": self.notes,
            "diff": {"before": "\n".join(self.before), "after": "\n".join(self.after)},
        }


def _host(params: Mapping[str, Any], module: str) -> ImageHost:
    check_seconds(params)
    if not params["path"]:
        raise BadInput(
            "the option 'path' is an empty list", wanted="at least one image", todo="name one"
        )
    state_dir = state_dir_for(params["state_dir"], "/session" if os.geteuid() else "")
    roots = params["allowed_roots"]
    return ImageHost(
        state_dir=os.path.join(state_dir, "images"),
        roots=None if roots is None else tuple(roots),
        look_in=tuple(params["look_in"] or ()),
        timeout=float(params["timeout"]),
        lock_timeout=float(params["lock_timeout"]),
        run=run_name(module),
    )


def _outcomes(task: ImageTask, paths: list[str], check: bool) -> dict[str, ImageOutcome]:
    """path -> outcome, each image once, in this order: one may go before what it stands on."""
    outcomes: dict[str, ImageOutcome] = {}
    by_place: dict[str, ImageOutcome] = {}
    gone: tuple[Identity, ...] = ()
    for path in dict.fromkeys(paths):
        try:
            place = real_path(path)
        except Exception as error:
            outcomes[path] = ImageOutcome(path, problem=as_problem(error, f"image {named(path)}"))
            continue
        if place not in by_place:
            foreseen = task.foresee(path, gone)
            goes = foreseen.to_do and not check
            by_place[place] = task.change(path, foreseen) if goes else foreseen
            gone += by_place[place].removed
        outcomes[path] = by_place[place]
    return outcomes


def _answer(
    operation: ImageOperation, paths: list[str], outcomes: dict[str, ImageOutcome]
) -> ImageAnswer:
    answer = ImageAnswer()
    for outcome in {id(outcome): outcome for outcome in outcomes.values()}.values():
        try:
            _add(answer, outcome)
        except Exception as error:
            outcome.problem = as_problem(error, f"image {named(outcome.path)}")
    for path in paths:
        answer.images.append(_entry(operation, path, outcomes[path]))
    return answer


def _add(answer: ImageAnswer, outcome: ImageOutcome) -> None:
    answer.plan.extend(shown(outcome.path, step) for step in outcome.steps)
    answer.notes.extend(outcome.notes)
    if outcome.steps and outcome.before and outcome.after:
        answer.before.append(picture(outcome.before))
        answer.after.append(picture(outcome.after))


def _entry(operation: ImageOperation, path: str, outcome: ImageOutcome) -> dict[str, Any]:
    problem = outcome.problem
    state = outcome.after if problem is None else outcome.before
    found: dict[str, Any] = {}
    try:
        found = operation.result(state) if state else {}
    except Exception as error:
        problem = as_problem(error, f"image {named(path)}")
    return {"path": path, **error_entry(problem), **found}
