# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots and checkpoints by our modules: taken, gone back to, removed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from .actions import Task, action, pick
from .model import SAVED, Model, Point, demand, is_checkpoint
from .stage import Stage

AFTER = ("unchanged", "unchanged", "running", "paused", "shutoff")


# Where the overlays come to lie: beside the images, in another directory, in files that are named.
PLACES = ("", "", "", "directory", "files")


@action("snapshot", 20)
class TakeSnapshot(Task):
    module = "vm_snapshot"

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        mode = random.choice(["external", "external", "internal"])
        memory = model.active and (mode == "internal" or random.random() < 0.4)
        params = {"name": f"s{model.count + 1}", "mode": mode, "memory": memory}
        if mode == "external":
            params["place"] = random.choice(PLACES)
            if not memory and random.random() < 0.2:
                params["of"] = [pick(random, model.disks)]
        return params

    def after(
        self,
        model: Model,
        *,
        name: str,
        mode: str,
        memory: bool,
        place: str = "",
        of: Sequence[str] = (),
    ) -> None:
        demand(model.power != SAVED and not model.frozen and (model.active or not memory))
        demand(mode == "external" or memory == model.active)
        model.number()
        model.point(name, memory=memory, internal=mode == "internal", of=of)

    def certain(self, model: Model, *, mode: str, memory: bool, **_params: Any) -> bool:
        return mode == "external" and (model.honest or not memory)

    def options(
        self,
        stage: Stage,
        *,
        name: str,
        mode: str,
        memory: bool,
        place: str = "",
        of: Sequence[str] = (),
    ) -> dict[str, Any]:
        options: dict[str, Any] = {"name": name, "mode": mode, "memory": memory}
        if of:
            options["disks"] = list(of)
        if place == "files":
            files = [
                (each, stage.elsewhere / f"{name}-of-{each}.qcow2") for each in of or stage.targets
            ]
            options["disks"] = [{"target": each, "file": str(file)} for each, file in files]
        if place == "directory" or (memory and place == "files"):
            options["directory"] = str(stage.elsewhere)
        return options


class Removal(Task):
    """Something that takes a point away and leaves what was written since."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": pick(random, model.points)}

    def certain(self, model: Model, *, name: str, **_params: Any) -> bool:
        return False

    def after(self, model: Model, *, name: str) -> None:
        demand(name in model.points and model.power != SAVED and not model.frozen)
        model.drop(name)

    def may_remove(self, model: Model, *, name: str, **_params: Any) -> set[str]:
        return {name}


@action("remove", 10)
class RemoveSnapshot(Removal):
    module = "vm_snapshot"

    def options(self, stage: Stage, *, name: str) -> dict[str, Any]:
        return {"name": name, "state": "absent"}


@action("forget")
class Forget(Removal):
    """The record goes, and the images stay where they are."""

    module = "vm_snapshot"
    leaves = True

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": pick(random, (n for n, point in model.points.items() if self._fits(point)))}

    def _fits(self, point: Point) -> bool:
        return not point.internal and not is_checkpoint(point.name)

    def after(self, model: Model, *, name: str) -> None:
        super().after(model, name=name)
        model.by_hand = True
        model.moves += 1

    def options(self, stage: Stage, *, name: str) -> dict[str, Any]:
        return {"name": name, "state": "absent", "metadata_only": True}


@action("remove with all below")
class RemoveSubtree(Removal):
    module = "vm_snapshot"

    def after(self, model: Model, *, name: str) -> None:
        demand(name in model.points and model.power != SAVED and not model.frozen)
        for each in reversed(model.below(name)):
            model.drop(each)

    def may_remove(self, model: Model, *, name: str, **_params: Any) -> set[str]:
        return set(model.below(name))

    def options(self, stage: Stage, *, name: str) -> dict[str, Any]:
        return {"name": name, "state": "absent", "subtree": True}


class Back(Task):
    """Going back to a point."""

    repeatable = False

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        name = pick(random, self.names(model))
        return {"name": name, "run_after": random.choice(AFTER)}

    def names(self, model: Model) -> set[str]:
        return {name for name in model.points if not is_checkpoint(name)}

    def after(self, model: Model, *, name: str, run_after: str) -> None:
        demand(name in self.names(model) and model.power != SAVED)
        # What it leaves out may be another image since: then that of then is brought back.
        demand(not model.swapped or set(model.points[name].disks) == set(model.disks))
        model.back_to(model.points[name], run_after)
        model.current = name

    def certain(self, model: Model, *, name: str, **_params: Any) -> bool:
        point = model.points[name]
        # What an internal one lives in must not have become the base of an overlay.
        below = point.internal and (
            model.disturbed or any(not each.internal for each in model.points.values())
        )
        return point.certain and not model.frozen and not below and not model.bitmaps

    def options(self, stage: Stage, *, name: str, run_after: str) -> dict[str, Any]:
        return {"name": name, "state": "reverted", "run_after": run_after}


@action("go back", 16)
class Revert(Back):
    module = "vm_snapshot"


@action("go back and keep", 4)
class RevertAndKeep(Back):
    module = "vm_snapshot"

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        keep = f"k{model.count + 1}"
        return {"name": pick(random, self.names(model)), "keep": keep}

    def after(self, model: Model, *, name: str, keep: str) -> None:
        demand(name in self.names(model) and model.power != SAVED and not model.frozen)
        demand(set(model.points[name].disks) == set(model.disks))
        model.number()
        inside = model.points[name].internal
        model.point(keep, memory=inside, internal=inside)
        model.back_to(model.points[name])
        model.current = name

    def may_remove(self, model: Model, *, name: str, keep: str) -> set[str]:
        """Where nothing has changed since the point, there is nothing to keep."""
        return {keep} if model.disks == model.points[name].disks else set()

    def options(self, stage: Stage, *, name: str, keep: str) -> dict[str, Any]:
        return {"name": name, "state": "reverted", "keep_current": keep}


@action("checkpoint", 5)
class TakeCheckpoint(Task):
    module = "vm_checkpoint"

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": f"c{model.count + 1}", "live": random.random() < 0.5}

    def after(self, model: Model, *, name: str, live: bool) -> None:
        demand(model.active and not model.frozen)
        model.number()
        model.point(name, memory=True)


@action("restore checkpoint", 5)
class RestoreCheckpoint(Back):
    module = "vm_checkpoint"

    def names(self, model: Model) -> set[str]:
        return {name for name in model.points if is_checkpoint(name)}

    def options(self, stage: Stage, *, name: str, run_after: str) -> dict[str, Any]:
        return {"name": name, "state": "restored", "run_after": run_after}


@action("remove checkpoint", 2)
class RemoveCheckpoint(Removal):
    module = "vm_checkpoint"

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": pick(random, filter(is_checkpoint, model.points))}

    def options(self, stage: Stage, *, name: str) -> dict[str, Any]:
        return {"name": name, "state": "absent"}
