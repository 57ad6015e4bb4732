# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the guest does, and what is done to its power."""

from __future__ import annotations

import os
import signal
from random import Random
from typing import Any

from lab.vm import wait_until

from .actions import Action, action
from .model import OFF, PAUSED, REGIONS, RUNNING, Model, demand
from .stage import Stage


@action("write", 34)
class Write(Action):
    """The guest writes some regions, and into its memory."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.awake)
        places = [(target, region) for target in model.disks for region in range(REGIONS)]
        chosen = random.sample(places, random.randint(1, 5))
        return {"places": sorted(f"{target}:{region}" for target, region in chosen)}

    def after(self, model: Model, *, places: list[str]) -> None:
        demand(model.awake)
        number = model.memory = model.number()
        for target, region in split(places):
            held = list(model.disks[target])
            held[region] = number
            model.disks[target] = tuple(held)

    def play(self, stage: Stage, model: Model, *, places: list[str]) -> None:
        number = model.copy().number()
        wanted: dict[str, dict[int, int]] = {}
        for target, region in split(places):
            wanted.setdefault(target, {})[region] = number
        stage.write(wanted, number)


def split(places: list[str]) -> list[tuple[str, int]]:
    """What ``vda:3`` means."""
    return [(place.partition(":")[0], int(place.partition(":")[2])) for place in places]


class Power(Action):
    """Another state of the machine, by libvirt."""

    before: tuple[str, ...]
    then: str
    boots = False

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.power in self.before and not model.frozen)
        return {}

    def after(self, model: Model) -> None:
        self.offer(model, Random(0))
        model.power = self.then
        model.stale = model.stale and self.then == PAUSED
        if self.boots or self.then == OFF:
            model.off()


@action("start", 10)
class Start(Power):
    before, then, boots = (OFF,), RUNNING, True

    def play(self, stage: Stage, model: Model) -> None:
        stage.vm.start()


@action("start paused")
class StartPaused(Power):
    before, then, boots = (OFF,), PAUSED, True

    def play(self, stage: Stage, model: Model) -> None:
        stage.vm.start(paused=True)


@action("pause", 2)
class Pause(Power):
    before, then = (RUNNING,), PAUSED

    def play(self, stage: Stage, model: Model) -> None:
        stage.vm.domain.suspend()


@action("resume", 4)
class Resume(Power):
    before, then = (PAUSED,), RUNNING

    def play(self, stage: Stage, model: Model) -> None:
        stage.vm.domain.resume()
        stage.ready(agent=model.agent)


@action("shut down inside", 2)
class ShutDown(Power):
    before, then = (RUNNING,), OFF

    def play(self, stage: Stage, model: Model) -> None:
        stage.vm.shutdown()


@action("cut the power", 2)
class CutPower(Power):
    before, then = (RUNNING, PAUSED), OFF

    def play(self, stage: Stage, model: Model) -> None:
        stage.vm.destroy()


@action("kill QEMU")
class KillQemu(Action):
    """As by a host without memory; `again` is as where somebody watches over it, and starts it."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.active and not model.frozen)
        return {"again": random.random() < 0.6}

    def after(self, model: Model, *, again: bool = False) -> None:
        demand(model.active and not model.frozen)
        model.off()
        model.power = RUNNING if again else OFF

    def play(self, stage: Stage, model: Model, *, again: bool = False) -> None:
        os.kill(stage.vm.qemu_pid(), signal.SIGKILL)
        wait_until(lambda: not stage.vm.active(), 20, "libvirt has noticed")
        stage.vm.disconnect()
        if again:
            stage.vm.start()


@action("reset")
class Reset(Power):
    before, then, boots = (RUNNING,), RUNNING, True

    def play(self, stage: Stage, model: Model) -> None:
        stage.reset()


@action("kill the daemon")
class KillDaemon(Action):
    """The machine goes on without it, and is found again."""

    def after(self, model: Model) -> None:
        pass

    def play(self, stage: Stage, model: Model) -> None:
        stage.lab.daemon.restart(crash=True)
