# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest agent falls silent, and answers again."""

from __future__ import annotations

from .actions import Action, action
from .model import RUNNING, Model, demand
from .stage import Stage


@action("silence the agent")
class Silence(Action):
    def after(self, model: Model) -> None:
        demand(model.power == RUNNING and model.honest and not model.frozen)
        model.agent = False

    def play(self, stage: Stage, model: Model) -> None:
        stage.vm.silence_agent()


@action("wake the agent", 4)
class Wake(Action):
    def after(self, model: Model) -> None:
        demand(model.power == RUNNING and not model.agent)
        model.agent = True

    def play(self, stage: Stage, model: Model) -> None:
        stage.vm.wake_agent()
