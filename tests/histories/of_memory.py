# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that is saved and goes on, and freezes, by our modules."""

from __future__ import annotations

from random import Random
from typing import Any

from .actions import Task, action
from .model import OFF, PAUSED, RUNNING, SAVED, Model, demand
from .stage import Stage


@action("save memory", 3)
class Save(Task):
    module = "vm_memory"

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"file": f"m{model.count + 1}"} if random.random() < 0.5 else {}

    def after(self, model: Model, *, file: str = "") -> None:
        model.save(file)
        model.number()

    def certain(self, model: Model, **_params: Any) -> bool:
        return model.honest

    def options(self, stage: Stage, *, file: str = "") -> dict[str, Any]:
        return {"state": "saved", **place(stage, file)}


def place(stage: Stage, file: str) -> dict[str, str]:
    """The option for a file that holds memory, none where libvirt is to keep it."""
    return {"path": stage.save_file(file)} if file else {}


@action("let memory run", 3)
class GoOn(Task):
    module = "vm_memory"

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"file": model.saved_in} if model.saved_in else {}

    def after(self, model: Model, *, file: str = "") -> None:
        demand(model.power in (SAVED, OFF, PAUSED) and not model.frozen)
        demand(file == model.saved_in)
        if model.power == OFF:
            model.off()
        model.go_on(RUNNING)

    def options(self, stage: Stage, *, file: str = "") -> dict[str, Any]:
        return {"state": "running", **place(stage, file)}

    def certain(self, model: Model, **_params: Any) -> bool:
        """Of a save that is not ours only the times of the images tell."""
        return not model.ahead or model.power != SAVED


@action("freeze")
class Freeze(Task):
    module = "vm_freeze"

    def after(self, model: Model) -> None:
        demand(model.power == RUNNING and not model.frozen)
        demand(model.honest)
        model.frozen = True

    def certain(self, model: Model) -> bool:
        return model.honest

    def options(self, stage: Stage) -> dict[str, Any]:
        return {"state": "frozen", "deadline": 600}


@action("thaw", 8)
class Thaw(Task):
    module = "vm_freeze"

    def after(self, model: Model) -> None:
        demand(model.power == RUNNING and model.frozen)
        model.frozen = False

    def options(self, stage: Stage) -> dict[str, Any]:
        return {"state": "thawed"}
