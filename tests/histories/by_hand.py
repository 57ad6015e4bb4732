# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What others do to the machine: virsh, qemu-img, an edited definition.

What virsh itself refuses has not happened.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

from .actions import Action, action, pick
from .model import OFF, RUNNING, SAVED, Model, demand
from .stage import Stage
from .tasks import NAME


class ByHand(Action):
    """A command by virsh; `Refused` by it means that nothing has happened."""

    def words(self, stage: Stage, **params: Any) -> list[str]:
        raise NotImplementedError

    def play(self, stage: Stage, model: Model, **params: Any) -> None:
        stage.virsh(*self.words(stage, **params))


class MergeByHand(ByHand):
    """A disk of a machine that is on; what stood on its images may be spoilt."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.points)
        return {"target": pick(random, model.disks)}

    def after(self, model: Model, *, target: str) -> None:
        demand(model.active and not model.frozen)
        model.shake()


@action("virsh blockcommit", 5)
class BlockCommitByHand(MergeByHand):
    def words(self, stage: Stage, *, target: str) -> list[str]:
        own = ["--base", stage.chain(target)[-1]]  # people know what a template is
        return ["blockcommit", NAME, target, *own, "--active", "--pivot", "--wait"]


@action("virsh blockpull", 3)
class BlockPullByHand(MergeByHand):
    def after(self, model: Model, *, target: str) -> None:
        super().after(model, target=target)
        # QEMU writes all that it has pulled only as it runs, and on the way into a pause.
        demand(model.power == RUNNING)

    def words(self, stage: Stage, *, target: str) -> list[str]:
        return ["blockpull", NAME, target, "--wait"]


@action("virsh blockcopy")
class BlockCopyByHand(MergeByHand):
    def words(self, stage: Stage, *, target: str) -> list[str]:
        place = stage.new_image(f"copied-{target}")
        copy = ["blockcopy", NAME, target, place, "--format", "qcow2"]
        return [*copy, "--transient-job", "--wait", "--pivot"]


@action("qemu-img commit", 4)
class CommitByHand(Action):
    """An overlay is written into what it stands on, and stays; for that the machine goes off.

    In the first seconds of another tool's snapshot nobody can tell that from what the guest wrote
    at last, so people take their time.
    """

    SECONDS = 3

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.points)
        return {"target": pick(random, model.disks)}

    def after(self, model: Model, *, target: str) -> None:
        demand(model.points and model.power != SAVED and not model.frozen)
        model.power = OFF
        model.off()
        model.shake()

    def play(self, stage: Stage, model: Model, *, target: str) -> None:
        if model.active:
            stage.vm.destroy()
        if not stage.chain(target)[1:]:
            return
        time.sleep(self.SECONDS)
        command = ["qemu-img", "commit", "-q", "-d", stage.source(target)]
        # Without anything below it, there is nothing to do, and qemu-img says so.
        subprocess.run(command, check=False, capture_output=True)


@action("virsh snapshot-create-as", 4)
class SnapshotByHand(ByHand):
    # Any name is good for libvirt.
    NAMES = ("h{}", "h{} before update", "h{} Prüfung: $(id) & <y>")

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": random.choice(self.NAMES).format(model.count + 1)}

    def after(self, model: Model, *, name: str) -> None:
        demand(model.power != SAVED and not model.frozen)
        model.number()
        model.point(name, memory=False, ours=False)

    def words(self, stage: Stage, *, name: str) -> list[str]:
        return ["snapshot-create-as", NAME, name, "--disk-only", "--atomic"]


@action("virsh checkpoint-create-as", 2)
class CheckpointByHand(ByHand):
    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": f"h{model.count + 1}"}

    def after(self, model: Model, *, name: str) -> None:
        demand(model.active and not model.frozen)
        model.number()
        model.bitmaps.add(name)

    def words(self, stage: Stage, *, name: str) -> list[str]:
        disks = [word for target in ("vda", "vdb") for word in ("--diskspec", target)]
        raw = ["--diskspec", "vdc,checkpoint=no"] if "vdc" in stage.targets else []
        return ["checkpoint-create-as", NAME, name, *disks, *raw]


@action("virsh checkpoint-delete", 4)
class DeleteCheckpointByHand(ByHand):
    """It writes to images that other tools' snapshots stand on, of which only the time may tell."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": pick(random, model.bitmaps)}

    def after(self, model: Model, *, name: str) -> None:
        demand(name in model.bitmaps)
        demand(model.active)
        model.bitmaps.discard(name)
        for point in [each for each in model.points.values() if not each.ours]:
            model.points[point.name] = replace(point, certain=False)

    def words(self, stage: Stage, *, name: str) -> list[str]:
        return ["checkpoint-delete", NAME, name]


@action("touch an image")
class Touch(Action):
    """Nobody can see that its content is that of then, so what stands on it may be refused.

    `days`: how far its time is off, as that of an image that was copied, or of a host whose clock
    was set.
    """

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.points)
        return {"target": pick(random, model.disks), "days": random.choice([0, 0, -1, 1])}

    def after(self, model: Model, *, target: str, days: int = 0) -> None:
        demand(model.points and model.power != SAVED)
        model.shake()
        model.ahead = model.ahead or days > 0

    def play(self, stage: Stage, model: Model, *, target: str, days: int = 0) -> None:
        moment = time.time() + days * 86400
        os.utime(stage.chain(target)[-1], (moment, moment))


@action("qemu-img at rest", 2)
class AtRest(Action):
    """What people do to the active image of a machine that is off, and that leaves its content."""

    COMMANDS: ClassVar = {
        "check": (["check", "-q", "-r", "all"],),
        "bitmap": (["bitmap", "--add"], ["bitmap", "--remove"]),
        "snapshot": (["snapshot", "-c", "by-hand"], ["snapshot", "-d", "by-hand"]),
    }

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"target": pick(random, ["vda", "vdb"]), "what": pick(random, self.COMMANDS)}

    def after(self, model: Model, *, target: str, what: str) -> None:
        demand(model.power == OFF and what in self.COMMANDS)

    def play(self, stage: Stage, model: Model, *, target: str, what: str) -> None:
        for command in self.COMMANDS[what]:
            last = ["by-hand"] if what == "bitmap" else []
            line = ["qemu-img", *command, stage.source(target), *last]
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(line)}: {done.stderr}")


@action("virsh backup-begin")
class BackUpByHand(Action):
    """A whole backup by another program, with a checkpoint that it goes on from."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": f"h{model.count + 1}"}

    def after(self, model: Model, *, name: str) -> None:
        demand(model.power == RUNNING and not model.frozen)
        model.number()
        model.bitmaps.add(name)

    def play(self, stage: Stage, model: Model, *, name: str) -> None:
        stage.backup_begin(name)
