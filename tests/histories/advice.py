# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The advice of a message is followed until what was refused is done."""

from __future__ import annotations

import os
import re
from random import Random
from typing import Any

from . import images
from .accidents import Given, known, task
from .actions import ACTIONS, Action, Task, action, pick
from .judge import DONE, Fault, Trial, perform
from .model import MORE, SAVED, Model, Unfit, demand, is_checkpoint
from .of_merges import forget_disk
from .stage import Stage

# What the messages say is to be done, and the action that does it.
ADVICE = (
    (re.compile(r"vm_snapshot with name (.+?),? (?:and )?state absent"), "remove", ("name",)),
    (
        re.compile(r"vm_checkpoint with name (.+?),? (?:and )?state absent"),
        "remove checkpoint",
        ("name",),
    ),
    (
        re.compile(r"vm_storage_snapshot with name (\S+?),? (?:and )?state absent"),
        "remove storage snapshot",
        ("name",),
    ),
    (
        re.compile(r"'disks: \[(\w+)\]' and 'base: ([^']+)'"),
        "commit onto",
        ("target", "path"),
    ),
    (re.compile(r"qcow2_overlay with path (.+?), state absent"), "remove image", ("path",)),
    (
        re.compile(r"qcow2_snapshot with path (.+?), name (.+?), state absent"),
        "delete inside",
        ("path", "name"),
    ),
    (re.compile(r"[Ss]witch the VM off|shut that VM down"), "cut the power", ()),
    (re.compile(r"vm_freeze with 'state: thawed'"), "thaw", ()),
    (
        re.compile(r"vm_memory with state running and path \S*/(\w+)\.save"),
        "let memory run",
        ("file",),
    ),
    (re.compile(r"vm_memory with state running"), "let memory run", ()),
)
TO_DO = "To do:"
STEPS = 80  # each image that others have left is one


@action("insist on removing", 2)
class Insist(Trial):
    """A point is removed, whatever has to be done before."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": pick(random, model.points)}

    def after(self, model: Model, *, name: str) -> None:
        demand(name in model.points and model.power != SAVED and not model.frozen)

    def run(self, stage: Stage, model: Model, *, name: str) -> tuple[str, Model]:
        remove = "remove checkpoint" if is_checkpoint(name) else "remove"
        return insist(stage, model, remove, {"name": name})


@action("insist", 4)
class InsistOnTask(Trial):
    """A task, whatever has to be done before, as far as its messages name tasks."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        kind, given = task(model, random)
        return {"kind": kind, "given": given}

    def after(self, model: Model, *, kind: str, given: Given) -> None:
        known(kind).after(model, **given)

    def run(self, stage: Stage, model: Model, *, kind: str, given: Given) -> tuple[str, Model]:
        said, after = perform(stage, model, kind, given)
        if said == DONE or not following(said.partition(TO_DO)[2]):
            return said, after
        return insist(stage, after, kind, given)


def insist(stage: Stage, model: Model, kind: str, params: dict[str, Any]) -> tuple[str, Model]:
    """Perform an action, and before it whatever the messages ask for. Raises `Fault`."""
    todo, told = [(kind, params)], []
    for _step in range(STEPS):
        kind, params = todo[-1]
        try:
            ACTIONS[kind].after(model.copy(), **params)
        except Unfit:  # what was to be done has been done with something else
            said = DONE
        else:
            said, model = _performed(stage, model, todo[-1], told)
        told.append(f"{kind} {params}: {said}")
        if told.count(told[-1]) > 2:
            break
        if said == DONE:
            todo.pop()
            if not todo:
                return DONE if len(told) == 1 else "; ".join(told), model
        elif len(todo) > 1 and (kind, params) in todo[:-1]:
            break
        elif kind == "remove image":  # the message names those that stand on it
            todo += [(kind, {"path": path}) for path in re.findall(r"by image '([^']+)'", said)]
        else:
            todo += advised(said.partition(TO_DO)[2], told)
    raise Fault("the advice leads nowhere:\n" + "\n".join(told))


def _performed(
    stage: Stage, model: Model, step: tuple[str, dict[str, Any]], told: list[str]
) -> tuple[str, Model]:
    """As `perform`; a fault tells what has led to it."""
    try:
        return perform(stage, model, *step)
    except Fault as fault:
        raise Fault("\n".join([*told, str(fault)])) from None


def advised(said: str, told: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """What is to be done as a message says. Raises `Fault` where that is not understood."""
    if found := following(said):
        return found
    raise Fault("no advice that is known:\n" + "\n".join(told))


def following(said: str) -> list[tuple[str, dict[str, Any]]]:
    """The first advice that is understood, all of it where it is about several images."""
    for pattern, kind, names in ADVICE:
        found = [dict(zip(names, match.groups())) for match in pattern.finditer(said)]
        if found:
            several = found if kind == "remove image" else found[:1]
            return [(kind, params) for params in several]
    return []


@action("commit onto", 0)
class CommitOnto(Task):
    """Only as an advice."""

    module = "vm_blockcommit"

    def after(self, model: Model, *, target: str, path: str) -> None:
        demand(model.power != SAVED and not model.frozen)
        demand(target in model.disks or (target == MORE and model.plugged))
        model.moves += 1

    def certain(self, model: Model, **_params: Any) -> bool:
        return False

    def may_remove(self, model: Model, *, target: str, path: str) -> set[str]:
        """Ours, and any that has no other disk left."""
        return {
            name
            for name, point in model.points.items()
            if (point.ours and not point.internal) or set(point.disks) <= {target}
        }

    def settle(self, stage: Stage, before: Model, after: Model, *, target: str, path: str) -> None:
        forget_disk(stage, after, target)

    def options(self, stage: Stage, *, target: str, path: str) -> dict[str, Any]:
        return {"disks": [target], "base": path}


@action("remove image", 0)
class RemoveImage(Action):
    """Only as an advice: an image that somebody has left, and that nobody records."""

    def after(self, model: Model, *, path: str) -> None:
        pass

    def play(self, stage: Stage, model: Model, *, path: str) -> None:
        if not os.path.exists(path):  # it went with another one
            return
        result = images.absent("qcow2_overlay", path, stage.lab.directory, stage.state_dir)
        if result["failed"] or not result["changed"]:
            raise RuntimeError(result.get("msg"))


@action("delete inside", 0)
class DeleteInside(Action):
    """Only as an advice: an internal snapshot that nobody records."""

    def after(self, model: Model, *, path: str, name: str) -> None:
        pass

    def play(self, stage: Stage, model: Model, *, path: str, name: str) -> None:
        root, state_dir = stage.lab.directory, stage.state_dir
        result = images.absent("qcow2_snapshot", path, root, state_dir, name=name)
        if result["failed"]:
            raise RuntimeError(result.get("msg"))
