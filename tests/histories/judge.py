# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares the machine with the model, and each task of ours with its promises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lab.programs import LabError

from .actions import ACTIONS, Action, Task
from .images import Stray
from .liars import ALWAYS_FROZEN
from .model import MORE, OFF, RUNNING, Model, Point
from .of_snapshots import Back
from .stage import KEPT, Stage


class Fault(Exception):
    """The machine, or what our code says, is not what the model says."""


DONE, REFUSED = "done", "refused"
# Of a QEMU that stands still: how much it does depends on its version.
OF_STALE = "has not run since"
OFF_FIRST = "switch the VM off first"


class Trial(Action):
    """Something that cannot be foreseen, and that tells what the machine has become by it."""

    def run(self, stage: Stage, model: Model, **params: Any) -> tuple[str, Model]:
        """Play it; returns what came of it, and the model after it. Raises `Fault`."""
        raise NotImplementedError


def complaints(stage: Stage, model: Model) -> list[str]:
    """All that is not as in the model; an empty list if all is well."""
    found = [f"left in the state directory: {name}" for name in stage.leftovers()]
    found += [f"template {path} was written to" for path in stage.written_templates()]
    wanted = OFF if model.saved_in else model.power
    if (power := stage.power()) != wanted:
        return [*found, f"the machine is {power}, not {wanted}"]
    if stage.saved() != (saves := {*model.kept, model.saved_in} - {""}):
        found.append(f"memory is saved in {sorted(stage.saved())}, not {sorted(saves)}")
    if stage.snapshots() != set(model.points):
        found.append(f"snapshots are {sorted(stage.snapshots())}, not {sorted(model.points)}")
    if (stored := stage.storage.names()) != set(model.stored):
        found.append(f"storage snapshots are {sorted(stored)}, not {sorted(model.stored)}")
    if unlike := stage.unlike(model.edits):
        found.append(f"the definition is not as it was to be: {unlike}")
    if stage.plugged(MORE) != model.plugged:
        found.append(f"there is {'no' if model.plugged else 'a'} disk {MORE}")
    if stage.checkpoints() != model.bitmaps:
        found.append(f"checkpoints of others: {stage.checkpoints()}, not {model.bitmaps}")
    return [*found, *_of_guest(stage, model), *_of_content(stage, model), *_told(stage, model)]


def _of_guest(stage: Stage, model: Model) -> list[str]:
    if model.power != RUNNING:
        return []
    try:
        stage.ready(agent=model.agent)
    except LabError as error:
        return [str(error)]
    found = []
    if not model.honest and stage.stalls():
        found.append("the guest does not write")
    if model.honest and (frozen := stage.frozen()) != model.frozen:
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
        found += [f"vm_snapshot_info, {name}: {each}" for each in _of_point(told.get(name), point)]
    if (held := stage.restore_points()) != (wanted := [point.id for point in model.backups]):
        found.append(f"restore points {held}, not {wanted}")
    return found


def _of_point(told: dict[str, Any] | None, point: Point) -> Iterator[str]:
    """What is told of a point, and is not so."""
    if told is None:
        return
    if told["problems"] and point.certain:
        yield f"finds problems: {told['problems']}"
    if (mode := "internal" if point.internal else "external") != told["mode"]:
        yield f"it is {mode}"
    if (memory := point.memory is not None) != told["memory"]:
        yield f"it has {'' if memory else 'no '}memory"
    if set(told["disks"]) - {MORE} != set(point.disks):
        yield f"it is of {sorted(point.disks)}, not of {sorted(told['disks'])}"


def perform(stage: Stage, model: Model, name: str, params: dict[str, Any]) -> tuple[str, Model]:
    """Play an action and judge it; returns what came of it, and the model after it."""
    try:
        return _perform(stage, model, name, params)
    except Fault as fault:
        raise Fault(f"{name} {params}: {fault}") from None


def _perform(stage: Stage, model: Model, name: str, params: dict[str, Any]) -> tuple[str, Model]:
    what = ACTIONS[name]
    if isinstance(what, Trial):
        return what.run(stage, model, **params)
    after = model.copy()
    what.after(after, **params)
    if isinstance(what, Task):
        outcome = _task(stage, model, what, params)
    else:
        outcome = _other(stage, model, what, params)
    chosen = after if outcome == DONE else model
    settle(stage, chosen, what, model, params)
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
    if found := difference(before, stage.world()):
        raise Fault(f"check mode has changed something: {found}")
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
    new = _left(stage, before["unneeded"], real.get("notes", ()))
    if new and not model.disturbed and not what.leaves:
        raise Fault(f"files that nobody needs: {sorted(new)}")
    return DONE


def _left(stage: Stage, before: set[str], notes: Sequence[str]) -> set[str]:
    """The files that nobody needs any more and of which no task has said that they stay."""
    stage.notes += (note for note in notes if any(word in note for word in KEPT))
    new = stage.unneeded() - before
    return new - stage.said_to_stay(new)


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is not as it was."""
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


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
    no_traceback(real)
    message = real.get("msg") if real["failed"] else "(the real run succeeds)"
    said = foreseen.get("msg") if foreseen["failed"] else "(check mode succeeds)"
    if message != said:
        raise Fault(f"check mode: {said}\nreally: {message}")
    if found := difference(before, stage.world()):
        raise Fault(f"a task that was refused has changed something: {found}\n{message}")
    excused = model.liar == ALWAYS_FROZEN or (model.stale and OF_STALE in message)
    if what.certain(model, **params) and not excused:
        raise Fault(f"refused: {message}")
    if OFF_FIRST in message and model.power == OFF:
        raise Fault(f"it is off already: {message}")
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


def settle(
    stage: Stage, chosen: Model, what: Action, before: Model, params: dict[str, Any]
) -> None:
    """What a task was free to do, and the model cannot know."""
    if not isinstance(what, Task):
        return
    for name in sorted(set(chosen.points) - stage.snapshots()):
        if name in what.may_remove(before, **params):
            chosen.drop(name)
    if chosen is not before:
        what.settle(stage, before, chosen, **params)


def one_of(stage: Stage, candidates: Iterable[Candidate]) -> Model:
    """The first candidate that the machine is as."""
    told = []
    for candidate in candidates:
        for what, given in candidate.done:
            settle(stage, candidate.model, what, candidate.before, given)
        found = complaints(stage, candidate.model)
        if not found:
            return candidate.model
        told.append("; ".join(found))
    raise Fault("as none of what it could be:\n" + "\n".join(told))


@dataclass(frozen=True)
class Candidate:
    """What the machine may have become, and the tasks that would have made it so."""

    model: Model
    before: Model
    done: tuple[tuple[Action, dict[str, Any]], ...] = ()


def message(result: dict[str, Any]) -> str:
    """`DONE`, or what a run says that has failed."""
    return str(result["msg"]) if result["failed"] else DONE


def no_traceback(result: dict[str, Any]) -> None:
    """An error is told in words, also for a single machine. Raises `Fault`."""
    for entry in (result, *result.get("vms", {}).values()):
        if entry.get("exception"):
            raise Fault(f"a task ends with a traceback: {entry['exception']}")
