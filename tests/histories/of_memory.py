# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that is saved and goes on, and freezes, by our modules."""

from __future__ import annotations

from typing import Any

from .actions import Task, action
from .model import OFF, PAUSED, RUNNING, SAVED, Model, demand
from .stage import Stage


@action("save memory", 2)
class Save(Task):
    module = "vm_memory"

    def after(self, model: Model) -> None:
        demand(model.active and not model.frozen)
        model.power = SAVED

    def certain(self, model: Model) -> bool:
        return model.agent

    def options(self, stage: Stage) -> dict[str, Any]:
        return {"state": "saved"}


@action("let memory run", 2)
class GoOn(Task):
    module = "vm_memory"

    def after(self, model: Model) -> None:
        demand(model.power in (SAVED, OFF, PAUSED) and not model.frozen)
        if model.power == OFF:
            model.off()
        model.power, model.stale = RUNNING, False

    def options(self, stage: Stage) -> dict[str, Any]:
        return {"state": "running"}


@action("freeze")
class Freeze(Task):
    module = "vm_freeze"

    def after(self, model: Model) -> None:
        demand(model.power == RUNNING and not model.frozen)
        demand(model.agent)
        model.frozen = True

    def certain(self, model: Model) -> bool:
        return model.agent

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
