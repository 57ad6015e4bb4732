# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares the machine with the model, and each task of ours with its promises."""

from __future__ import annotations

from typing import Any

from .actions import ACTIONS, Action, Task
from .images import Stray
from .model import RUNNING, Model, Unfit
from .of_snapshots import Back
from .stage import Stage


class Fault(Exception):
    """The machine, or what our code says, is not what the model says."""


DONE, REFUSED = "done", "refused"


def complaints(stage: Stage, model: Model) -> list[str]:
    """All that is not as in the model; an empty list if all is well."""
    found = [f"left in the state directory: {name}" for name in stage.leftovers()]
    if (power := stage.power()) != model.power:
        return [*found, f"the machine is {power}, not {model.power}"]
    if stage.snapshots() != set(model.points):
        found.append(f"snapshots are {sorted(stage.snapshots())}, not {sorted(model.points)}")
    if stage.checkpoints() != model.bitmaps:
        found.append(f"checkpoints of others: {stage.checkpoints()}, not {model.bitmaps}")
    return [*found, *_of_guest(stage, model), *_of_content(stage, model), *_told(stage, model)]


def _of_guest(stage: Stage, model: Model) -> list[str]:
    if model.power != RUNNING:
        return []
    stage.ready()
    found = []
    if (frozen := stage.frozen()) != model.frozen:
        found.append(f"the guest is {'' if frozen else 'not '}frozen")
    if (memory := stage.memory()) != model.memory:
        found.append(f"the memory holds {memory}, not {model.memory}")
    return found


def _of_content(stage: Stage, model: Model) -> list[str]:
    try:
        held = stage.content()
    except Stray as error:
        return [str(error)]
    return [
        f"{target} holds {held[target]}, not {wanted}"
        for target, wanted in model.disks.items()
        if held[target] != wanted
    ]


def _told(stage: Stage, model: Model) -> list[str]:
    """What vm_snapshot_info and vm_backup_info say."""
    told = stage.told()
    found = []
    if set(told) != set(model.points):
        found.append(f"vm_snapshot_info tells {sorted(told)}, not {sorted(model.points)}")
    for name, point in model.points.items():
        problems = told.get(name, {}).get("problems")
        if problems and point.certain:
            found.append(f"vm_snapshot_info finds problems with {name}: {problems}")
    if len(stage.restore_points()) != len(model.backups):
        found.append(f"{len(stage.restore_points())} restore points, not {len(model.backups)}")
    return found


def perform(stage: Stage, model: Model, name: str, params: dict[str, Any]) -> tuple[str, Model]:
    """Play an action and judge it; returns what came of it, and the model after it."""
    try:
        return _perform(stage, model, name, params)
    except Fault as fault:
        raise Fault(f"{name} {params}: {fault}") from None


def _perform(stage: Stage, model: Model, name: str, params: dict[str, Any]) -> tuple[str, Model]:
    what = ACTIONS[name]
    after = model.copy()
    what.after(after, **params)
    if name == "killed":
        return _killed(stage, model, after, params)
    if isinstance(what, Task):
        outcome = _task(stage, model, what, params)
    else:
        outcome = _other(stage, model, what, params)
    chosen = after if outcome == DONE else model
    _settle_removed(stage, chosen, what, model, params)
    if found := complaints(stage, chosen):
        raise Fault("\n".join(found))
    return outcome, chosen


def _other(stage: Stage, model: Model, what: Action, params: dict[str, Any]) -> str:
    try:
        what.play(stage, model, **params)
    except RuntimeError as error:  # virsh refuses
        model.by_hand = True
        return f"{REFUSED} by virsh: {error}"
    return DONE


def _task(stage: Stage, model: Model, what: Task, params: dict[str, Any]) -> str:
    """A task, with check mode before it and a second run after it."""
    options = what.options(stage, **params)
    damaged = _damaged(stage, what, params)
    before = stage.world()
    foreseen = stage.attempt(what.module, check=True, **options)
    if stage.world() != before:
        raise Fault("check mode has changed something")
    real = stage.attempt(what.module, **options)
    if real["failed"] or foreseen["failed"]:
        return _refusal(stage, model, what, params, (before, foreseen, real))
    if damaged:
        raise Fault(f"went back to what vm_snapshot_info calls damaged: {damaged}")
    _same(foreseen, real)
    if what.repeatable:
        again = stage.attempt(what.module, **options)
        if again["failed"] or again["changed"]:
            raise Fault(f"a second run: {again.get('msg') or again.get('plan')}")
    if look := getattr(what, "look", None):
        look(stage, model, **params)
    new = stage.unneeded() - before["unneeded"]
    if new and not model.disturbed:
        raise Fault(f"files that nobody needs: {sorted(new)}")
    return DONE


def _damaged(stage: Stage, what: Task, params: dict[str, Any]) -> list[str]:
    """What is told about the point that is to be gone back to."""
    if not isinstance(what, Back):
        return []
    return list(stage.told().get(params["name"], {}).get("problems", ()))


def _refusal(
    stage: Stage,
    model: Model,
    what: Task,
    params: dict[str, Any],
    runs: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
) -> str:
    before, foreseen, real = runs
    message = real.get("msg") if real["failed"] else "(the real run succeeds)"
    said = foreseen.get("msg") if foreseen["failed"] else "(check mode succeeds)"
    if message != said:
        raise Fault(f"check mode: {said}\nreally: {message}")
    if stage.world() != before:
        raise Fault(f"a task that was refused has changed something: {message}")
    if what.certain(model, **params):
        raise Fault(f"refused: {message}")
    return f"{REFUSED}: {message}"


def _same(foreseen: dict[str, Any], real: dict[str, Any]) -> None:
    for key in ("changed", "plan", "diff"):
        if _plain(foreseen.get(key)) != _plain(real.get(key)):
            raise Fault(f"{key} of check mode: {foreseen.get(key)}\nreally: {real.get(key)}")


# A guest that runs changes how much there is to copy; a repository gets a random name.
_VARIES = ("bytes", "id", "checkpoint", "seconds")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key not in _VARIES}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def _settle_removed(
    stage: Stage, chosen: Model, what: Action, before: Model, params: dict[str, Any]
) -> None:
    """Points that a task was allowed to remove are those that it has removed."""
    if not isinstance(what, Task):
        return
    for name in sorted(set(chosen.points) - stage.snapshots()):
        if name in what.may_remove(before, **params):
            chosen.drop(name)


def _killed(stage: Stage, model: Model, after: Model, params: dict[str, Any]) -> tuple[str, Model]:
    """A task dies; what is found then is the state before it or after it, once recovered."""
    what, given = ACTIONS[params["kind"]], params["given"]
    if not isinstance(what, Task):
        raise Unfit
    options = what.options(stage, **given)
    died = stage.killed(what.module, params["at"], **options)
    stage.settled()
    candidates = [after, model]
    if not died:
        outcome = "was over"
    elif params["then"] == "again":
        outcome = f"killed, again: {_message(stage.attempt(what.module, **options))}"
        candidates += _twice(what, after, given)
    else:
        nothing = {"name": "nosuch", "state": "absent"}
        answer = _message(stage.attempt("vm_snapshot", **nothing))
        if answer != DONE:
            raise Fault(f"the next task after a kill: {answer}")
        outcome = "killed, another task"
    return outcome, _found(stage, model, what, given, candidates)


def _message(result: dict[str, Any]) -> str:
    return str(result["msg"]) if result["failed"] else DONE


def _twice(what: Task, after: Model, given: dict[str, Any]) -> list[Model]:
    """Where the dead run had done all, and a second one does it once more."""
    twice = after.copy()
    try:
        what.after(twice, **given)
    except Unfit:
        return []
    return [twice]


def _found(
    stage: Stage, before: Model, what: Task, given: dict[str, Any], candidates: list[Model]
) -> Model:
    """The candidate that the machine is as."""
    told = []
    for candidate in candidates:
        _settle_removed(stage, candidate, what, before, given)
        found = complaints(stage, candidate)
        if not found:
            return candidate
        told.append("; ".join(found))
    raise Fault("neither as before nor as after:\n" + "\n".join(told))
