# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merges by our modules, of all disks or of one, in whole or in part."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from .actions import Task, action, pick
from .model import SAVED, Model, demand
from .stage import Stage


class Merge(Task):
    """Images are merged; the points that stood on them may go, and nothing else changes."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"depth": random.choice([1, 1, 2, 3])}

    def certain(self, model: Model, **_params: Any) -> bool:
        return False

    def after(self, model: Model, *, depth: int) -> None:
        demand(model.power != SAVED and not model.frozen)
        model.moves += 1

    def may_remove(self, model: Model, **_params: Any) -> set[str]:
        return {name for name, point in model.points.items() if point.ours and not point.internal}

    def settle(self, stage: Stage, before: Model, after: Model, **_params: Any) -> None:
        """Where somebody has exchanged or merged a disk, a snapshot may go on with the others."""
        for target in after.disks if before.disturbed else ():
            forget_disk(stage, after, target)

    def options(self, stage: Stage, *, depth: int) -> dict[str, Any]:
        return {"max_depth": depth}


@action("commit", 7)
class Commit(Merge):
    module = "vm_blockcommit"


@action("pull", 3)
class Pull(Merge):
    module = "vm_blockpull"


def forget_disk(stage: Stage, model: Model, target: str) -> None:
    """Take a disk out of the points whose records, as libvirt has them, have lost it."""
    for name in sorted(stage.snapshots() & set(model.points)):
        point = model.points[name]
        if target in point.disks and target not in stage.disks_of(name):
            disks = {each: held for each, held in point.disks.items() if each != target}
            model.points[name] = replace(point, disks=disks)


class PartMerge(Merge):
    """Of one disk, between images that are named by how far they are from the active one."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        target = pick(random, model.disks)
        return {"target": target, "base": random.randint(1, 4)}

    def after(self, model: Model, *, target: str, **_params: Any) -> None:
        demand(model.power != SAVED and not model.frozen and target in model.disks)
        model.moves += 1

    def may_remove(self, model: Model, *, target: str, **_more: Any) -> set[str]:
        """Who names the images merges those of another tool's snapshot, too."""
        last = {name for name, point in model.points.items() if set(point.disks) == {target}}
        return super().may_remove(model) | last

    def settle(
        self, stage: Stage, before: Model, after: Model, *, target: str, **_more: Any
    ) -> None:
        """A snapshot whose overlay is merged is one of the other disks from then on."""
        forget_disk(stage, after, target)

    def image(self, stage: Stage, target: str, depth: int) -> str:
        """The image so deep, or the lowest of its own."""
        found = stage.chain(target)
        return found[min(depth, len(found) - 1)]


@action("commit some", 2)
class CommitSome(PartMerge):
    module = "vm_blockcommit"

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {**super().offer(model, random), "top": random.randint(0, 2)}

    def options(self, stage: Stage, *, target: str, base: int, top: int) -> dict[str, Any]:
        options = {"disks": [target], "base": self.image(stage, target, base + top)}
        return {**options, "top": self.image(stage, target, top)} if top else options


@action("pull some", 2)
class PullSome(PartMerge):
    module = "vm_blockpull"

    def options(self, stage: Stage, *, target: str, base: int) -> dict[str, Any]:
        return {"disks": [target], "base": self.image(stage, target, base + 1)}
