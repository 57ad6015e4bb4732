# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems that are full: of the state directory, and where images and memory come to lie."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

from . import beside
from .accidents import Given, known, task, then
from .actions import action
from .judge import DONE, Candidate, Fault, Trial, difference, message, no_traceback, one_of
from .model import PAUSED, RUNNING, Model, demand
from .rooms import fill
from .stage import Stage
from .tasks import FILLER, NAME


@action("without room for records", 2)
class NoRecords(Trial):
    """The file system of the state directory is full, from the start or after some records.

    Once there is room again, the next task finds the machine as it was before, or as after it.
    """

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        kind, given = task(model, random)
        room = {"free": random.randrange(0, 40, 4)} if random.random() < 0.5 else {}
        return {"kind": kind, "given": given, **(room or {"written": random.randint(1, 6)})}

    def after(self, model: Model, *, kind: str, given: Given, **_room: int) -> None:
        known(kind).after(model, **given)

    def run(
        self, stage: Stage, model: Model, *, kind: str, given: Given, **room: int
    ) -> tuple[str, Model]:
        what, before = known(kind), stage.world()
        options = what.options(stage, **given)
        with stage.little_state(**room) as runner:
            result = runner(what.module, **options)
        no_traceback(result)
        if result["failed"] and room.get("free") == 0 and stage.world() != before:
            raise Fault(f"without any room something has changed: {message(result)}")
        again = stage.attempt(what.module, **options) if result["failed"] else result
        beside.clear(stage)
        candidates = [*then(model, (kind, given)), *then(model)]
        candidates += then(model, (kind, given), (kind, given))
        return f"{message(result)}; then {message(again)}", one_of(stage, candidates)


# What is written where there is little room: a module, and the option for the place.
PLACES = {
    "snapshot": ("vm_snapshot", {"name": "small", "mode": "external"}, "directory"),
    "memory": ("vm_snapshot", {"name": "small", "mode": "external", "memory": True}, "directory"),
    "checkpoint": ("vm_checkpoint", {"name": "csmall"}, "directory"),
    "save": ("vm_memory", {"state": "saved"}, "path"),
}


@action("into a place without room")
class NoPlace(Trial):
    """It is refused or fails and nothing stays; what succeeds is taken back.

    `room` in KiB; with `meanwhile` somebody else takes what is left as the run begins to write.
    """

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        room, meanwhile = random.choice([4, 9000, 120_000, 200_000]), random.random() < 0.6
        return {"what": random.choice(sorted(PLACES)), "room": room, "meanwhile": meanwhile}

    def after(self, model: Model, *, what: str, room: int, meanwhile: bool) -> None:
        demand(model.active and not model.frozen and what in PLACES)

    def run(
        self, stage: Stage, model: Model, *, what: str, room: int, meanwhile: bool
    ) -> tuple[str, Model]:
        module, given, option = PLACES[what]
        before = stage.world()
        with stage.small(room << 10) as place:
            options = {**given, option: f"{place}/"}
            if meanwhile:
                result = self._while_filling(stage, place, module, options)
            else:
                result = stage.attempt(module, **options)
            no_traceback(result)
            if model.awake and stage.power() == PAUSED:  # QEMU had no room
                stage.virsh("resume", NAME)
            if not result["failed"]:
                self._take_back(stage, what, place)
            elif meanwhile:
                stage.attempt("vm_snapshot", name="nosuch", state="absent")
            if result["failed"] and (found := difference(before, stage.world())):
                raise Fault(f"{message(result)}\nand this is not as before: {found}")
            if left := list(place.iterdir()):
                raise Fault(f"{message(result)}\nleft: {left}")
        return message(result), one_of(stage, self._after(model, what, result))

    def _while_filling(
        self, stage: Stage, place: Path, module: str, options: Given
    ) -> dict[str, Any]:
        with stage.begin(module, **options) as run:
            while run.poll() is None and not any(place.iterdir()):
                time.sleep(0.01)
            fill(place, 0)
            result = run.result()
        (place / FILLER).unlink()
        return result

    def _take_back(self, stage: Stage, what: str, place: Path) -> None:
        module, given, option = PLACES[what]
        back: dict[str, Any] = {"name": given.get("name"), "state": "absent"}
        if what == "save":
            back = {"state": "running", option: f"{place}/"}
        if (said := message(stage.attempt(module, **back))) != DONE:
            raise Fault(f"it cannot be taken back: {said}")

    def _after(self, model: Model, what: str, result: dict[str, Any]) -> list[Candidate]:
        after = model.copy()
        if what == "save" and not result["failed"]:
            after.go_on(RUNNING)
        elif not result["failed"] and after.active:
            after.stale = after.power == PAUSED
        return list(then(after))
