# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots by the file system below the images, where that can take some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from .actions import Task, action, pick
from .model import OFF, SAVED, Model, demand
from .stage import Stage
from .tasks import NAME

BACKENDS = {"xfs": ("auto", "reflink"), "btrfs": ("auto", "btrfs", "btrfs")}


class OfStorage(Task):
    module = "vm_storage_snapshot"


@action("storage snapshot", 12)
class TakeStored(OfStorage):
    """Of a machine that runs, or is off; its chains are as long as before."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.storage)
        backend = random.choice(BACKENDS[model.storage])
        some = [pick(random, model.disks)] if random.random() < 0.2 else []
        place = random.choice(("", "", "directory"))
        return {"name": f"z{model.count + 1}", "backend": backend, "of": some, "place": place}

    def after(
        self, model: Model, *, name: str, backend: str, of: Sequence[str], place: str
    ) -> None:
        demand(model.storage and model.power != SAVED and not model.frozen)
        model.number()
        model.store(name, of)

    def certain(self, model: Model, *, backend: str, **_params: Any) -> bool:
        """A subvolume keeps only images that stand on no other; somebody may have left overlays."""
        whole = backend != "btrfs" or not (model.points or model.moves)
        return whole and not model.disturbed

    def options(
        self, stage: Stage, *, name: str, backend: str, of: Sequence[str], place: str
    ) -> dict[str, Any]:
        options: dict[str, Any] = {"name": name, "backend": backend}
        if of:
            options["disks"] = list(of)
        if place:
            options["directory"] = str(stage.elsewhere)
        return options

    def settle(
        self, stage: Stage, before: Model, after: Model, *, name: str, **_params: Any
    ) -> None:
        """Note of which images the copies are: another task may have taken the disks elsewhere."""
        point = after.stored[name]
        images = {target: stage.source(target) for target in point.disks}
        there = all(stage.storage.copy(NAME, path, name).exists() for path in images.values())
        after.stored[name] = replace(point, images=images, certain=point.certain and there)


@action("go back to storage snapshot", 16)
class BackToStored(OfStorage):
    """Of all disks that it has, or of some; what has become of the points does not matter."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        name = pick(random, model.stored)
        some = [pick(random, model.stored[name].disks)] if random.random() < 0.2 else []
        return {"name": name, "of": some}

    def after(self, model: Model, *, name: str, of: Sequence[str]) -> None:
        demand(name in model.stored and model.power == OFF)
        held = model.stored[name].disks
        demand(set(of) <= set(held))
        model.disks = {**model.disks, **{target: held[target] for target in of or held}}

    def certain(self, model: Model, *, name: str, **_params: Any) -> bool:
        """As long as the disks are on the images of then, and no point would be lost.

        One into whose image somebody has merged by hand is protected still.
        """
        point = model.stored[name]
        whole = all(each.certain for each in model.points.values())
        same = (point.points, point.moves) == (set(model.points), model.moves)
        return whole and point.certain and same and not point.plugged and not model.bitmaps

    def options(self, stage: Stage, *, name: str, of: Sequence[str]) -> dict[str, Any]:
        return {"name": name, "state": "reverted", "disks": list(of)}


@action("remove storage snapshot", 5)
class RemoveStored(OfStorage):
    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": pick(random, model.stored)}

    def after(self, model: Model, *, name: str) -> None:
        demand(name in model.stored and model.power != SAVED and not model.frozen)
        del model.stored[name]

    def options(self, stage: Stage, *, name: str) -> dict[str, Any]:
        return {"name": name, "state": "absent"}
