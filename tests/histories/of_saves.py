# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that others save, go on from, lose and throw away, and what is left of ours."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from .accidents import then
from .actions import Action, action, pick
from .by_hand import ByHand
from .judge import DONE, REFUSED, Fault, Trial, message, one_of
from .model import OFF, RUNNING, SAVED, Model, demand
from .stage import Stage
from .tasks import NAME


@action("virsh managedsave", 2)
class SaveByHand(ByHand):
    def after(self, model: Model) -> None:
        model.save()

    def words(self, stage: Stage) -> list[str]:
        return ["managedsave", NAME]


@action("virsh managedsave-remove", 2)
class DropSave(ByHand):
    """That memory is lost, and the guest boots."""

    def after(self, model: Model) -> None:
        demand(model.power == SAVED and not model.saved_in)
        model.lose()

    def words(self, stage: Stage) -> list[str]:
        return ["managedsave-remove", NAME]


@action("start saved", 2)
class StartSaved(Action):
    """By libvirt, which knows of what it keeps itself, and boots where it is in a file."""

    def after(self, model: Model) -> None:
        demand(model.power == SAVED)
        if model.saved_in:
            model.keep(model.saved_in)
            model.power = RUNNING
        else:
            model.go_on(model.was)

    def play(self, stage: Stage, model: Model) -> None:
        if model.saved_in:
            stage.note_images(model.saved_in)
        stage.vm.start(wait=False)
        stage.ready(agent=model.agent or bool(model.saved_in))


@action("virsh save", 2)
class SaveToFileByHand(ByHand):
    """Nobody knows of it then but who has done it."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"file": f"m{model.count + 1}"}

    def after(self, model: Model, *, file: str) -> None:
        model.save()
        model.number()
        model.keep(file)

    def play(self, stage: Stage, model: Model, *, file: str) -> None:
        stage.virsh("save", NAME, stage.save_file(file))
        stage.note_images(file)


@action("throw a save away", 2)
class ThrowAway(Action):
    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"file": pick(random, {*model.kept, model.saved_in} - {""})}

    def after(self, model: Model, *, file: str) -> None:
        demand(file and (file in model.kept or file == model.saved_in))
        if model.kept.pop(file, None) is None:
            model.lose()

    def play(self, stage: Stage, model: Model, *, file: str) -> None:
        Path(stage.save_file(file)).unlink()


@action("go on from an old save", 4)
class GoOnFromOld(Trial):
    """It can where no image was written since, and must not where one was."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"file": pick(random, model.kept), "virsh": random.random() < 0.3}

    def after(self, model: Model, *, file: str, virsh: bool) -> None:
        demand(file in model.kept and model.power == OFF)

    def run(self, stage: Stage, model: Model, *, file: str, virsh: bool) -> tuple[str, Model]:
        held = model.kept[file]
        as_then = stage.images_as_noted(file) and held.plugged == model.plugged
        if not as_then:
            return self._refused(stage, model, file)
        after = model.copy()
        after.memory, after.agent, after.liar = held.number, held.agent, held.liar
        after.kept.pop(file)
        if virsh:
            stage.virsh("restore", stage.save_file(file))
            Path(stage.save_file(file)).unlink()
        elif (said := message(self._attempt(stage, file))) != DONE and model.ahead:
            return f"{REFUSED}: {said}", one_of(stage, then(model))
        elif said != DONE:
            raise Fault(f"the images are as they were when its memory was saved: {said}")
        after.go_on(held.power if virsh else RUNNING)
        return DONE, one_of(stage, then(after))

    def _refused(self, stage: Stage, model: Model, file: str) -> tuple[str, Model]:
        result = self._attempt(stage, file)
        if not result["failed"]:
            raise Fault("it goes on though an image was written since its memory was saved")
        return f"{REFUSED}: {message(result)}", one_of(stage, then(model))

    def _attempt(self, stage: Stage, file: str) -> dict[str, Any]:
        return stage.attempt("vm_memory", state="running", path=stage.save_file(file))
