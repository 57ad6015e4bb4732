# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points: made, verified, pruned, restored in place, beside and from the repository.

Those of the model are in the order in which they were made, which is how histories name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from . import beside
from .actions import Task, action, pick
from .model import OFF, RUNNING, SAVED, Model, demand
from .stage import Stage


class OfRepository(Task):
    """A task with the repository."""

    def options(self, stage: Stage, **params: Any) -> dict[str, Any]:
        return {"repository": str(stage.repository), **params}


@action("back up", 9)
class BackUp(OfRepository):
    module = "vm_backup"
    repeatable = False  # each is a restore point of its own

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        back = random.random() < 0.1  # as a clock that was set back
        now = f"2025-12-31T00:{model.count % 60:02}:00Z" if back else model.clock()
        return {"type": random.choice(["auto", "auto", "full"]), "now": now}

    def after(self, model: Model, *, type: str, now: str) -> None:
        demand(not model.frozen)
        model.back_up(now)

    def certain(self, model: Model, *, now: str, **_params: Any) -> bool:
        return now.startswith("2026")


@action("verify", 2)
class Verify(OfRepository):
    module = "vm_backup_info"
    repeatable = False

    def after(self, model: Model) -> None:
        demand(model.backups)
        model.verified = True

    def options(self, stage: Stage) -> dict[str, Any]:
        return {**super().options(stage), "verify": True}


@action("prune", 2)
class Prune(OfRepository):
    module = "vm_backup_prune"

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(len(model.backups) > 1)
        return {"keep_last": random.randint(1, len(model.backups))}

    def after(self, model: Model, *, keep_last: int) -> None:
        demand(model.backups)
        model.backups = model.backups[-keep_last:]

    def settle(self, stage: Stage, before: Model, after: Model, *, keep_last: int) -> None:
        """The newest one that was verified is kept, too."""
        more = [
            point for point in before.backups[:-keep_last] if point.id in stage.restore_points()
        ]
        if before.verified and len(more) == 1:
            after.backups = [*more, *after.backups]


@action("restore in place", 3)
class RestoreInPlace(OfRepository):
    module = "vm_restore"
    repeatable = False
    alone = True  # the machine may be off, or stand on the repository

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.backups)
        number = random.randrange(len(model.backups))
        start = random.random() < 0.5
        return {
            "number": number,
            "start": start,
            "of": [pick(random, model.disks)] if random.random() < 0.2 else [],
            "place": random.choice(("", "", "directory")),
            "instant": start and random.random() < 0.4,  # else it stays on the repository
        }

    def after(
        self, model: Model, *, number: int, start: bool, of: Sequence[str] = (), **_how: Any
    ) -> None:
        demand(number < len(model.backups) and not model.frozen)
        demand(model.power != SAVED or model.saved_in)
        if model.saved_in:  # libvirt knows nothing of that file
            model.keep(model.saved_in)
        # One that was restored from this point, and runs, is left as it is.
        demand(model.restored != model.backups[number].name or not model.active)
        model.restored = model.backups[number].name
        model.moves += 1
        held = model.backups[number].disks
        model.disks = {**model.disks, **{target: held[target] for target in of or held}}
        model.power = RUNNING if start else OFF
        model.off()
        # The present definition is kept, and with it a disk that was attached since.
        model.swapped = bool(model.points)

    def settle(self, stage: Stage, before: Model, after: Model, **_params: Any) -> None:
        for file in after.kept:
            stage.give_up_images(file)

    def certain(self, model: Model, *, number: int, of: Sequence[str] = (), **_params: Any) -> bool:
        """Of the definition only the disks change, so each of then has to be there."""
        plugged = model.plugged or not model.backups[number].plugged
        return (plugged or bool(of)) and not model.points

    def options(
        self,
        stage: Stage,
        *,
        number: int,
        start: bool,
        of: Sequence[str] = (),
        place: str = "",
        instant: bool = False,
    ) -> dict[str, Any]:
        more: dict[str, Any] = {"start": start, "force": True, "delete_replaced": True}
        if of:
            more["disks"] = list(of)
        if place:
            more["directory"] = str(stage.elsewhere)
        point = stage.restore_points()[number]
        return {**super().options(stage), "point": point, "instant": instant, **more}


@action("restore beside", 3)
class RestoreBeside(OfRepository):
    """Under another name, looked into, and discarded."""

    module = "vm_restore"
    repeatable = False

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.backups)
        return {"number": random.randrange(len(model.backups)), "instant": random.random() < 0.4}

    def after(self, model: Model, *, number: int, instant: bool) -> None:
        demand(number < len(model.backups))

    def options(self, stage: Stage, *, number: int, instant: bool) -> dict[str, Any]:
        place = {"as": "beside", "directory": str(stage.beside), "instant": instant}
        return {**super().options(stage), "point": stage.restore_points()[number], **place}

    def look(self, stage: Stage, model: Model, *, number: int, instant: bool) -> None:
        beside.look(stage, model.backups[number].disks)


@action("work beside", 2)
class WorkBeside(RestoreBeside):
    """On the images in the repository, which stay as they are whatever is done above them."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.backups)
        steps = [random.choice(sorted(beside.STEPS)) for _step in range(random.randint(1, 4))]
        number = random.randrange(len(model.backups))
        return {"number": number, "start": random.random() < 0.2, "steps": steps}

    def after(self, model: Model, *, number: int, start: bool, steps: list[str]) -> None:
        demand(number < len(model.backups) and set(steps) <= set(beside.STEPS))
        model.number()

    def options(
        self, stage: Stage, *, number: int, start: bool, steps: list[str]
    ) -> dict[str, Any]:
        return {**super().options(stage, number=number, instant=True), "start": start}

    def look(
        self, stage: Stage, model: Model, *, number: int, start: bool, steps: list[str]
    ) -> None:
        point = model.backups[number]
        beside.Guest(stage, point.disks, point.id).work(steps, model.count + 1)
