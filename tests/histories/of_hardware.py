# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that come, go and grow, and a machine that is called otherwise for a while."""

from __future__ import annotations

import subprocess
from random import Random
from typing import Any

from .actions import Action, action, pick
from .model import MORE, OFF, SAVED, Model, demand
from .stage import Stage
from .tasks import NAME


@action("attach a disk")
class Attach(Action):
    """By virsh, to the machine as it runs and to its definition."""

    def after(self, model: Model) -> None:
        demand(model.power != SAVED and not model.frozen and not model.plugged)
        model.plugged = True

    def play(self, stage: Stage, model: Model) -> None:
        place = stage.new_image(f"more{model.count}")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", place, "4M"], check=True)
        stage.lend(place)
        given = ["--driver", "qemu", "--subdriver", "qcow2", "--config"]
        live = ["--live"] if model.active else []
        stage.virsh("attach-disk", NAME, place, MORE, *given, *live)


@action("detach a disk", 2)
class Detach(Action):
    def after(self, model: Model) -> None:
        demand(model.power != SAVED and not model.frozen and model.plugged)
        # The guest has to let go of it.
        demand(model.power != "paused")
        model.plugged = False

    def play(self, stage: Stage, model: Model) -> None:
        stage.lend(stage.source(MORE))  # not the one that was attached, if that was restored
        stage.unplug(MORE)


@action("grow a disk")
class Grow(Action):
    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"target": pick(random, set(model.disks) - {"vda"})}

    def after(self, model: Model, *, target: str) -> None:
        demand(model.power != SAVED and not model.frozen and target in model.disks)
        # QEMU goes back to an internal snapshot only on a disk as large as then.
        model.shake(internal=True)

    def play(self, stage: Stage, model: Model, *, target: str) -> None:
        path = stage.source(target)
        size = stage.size(path) + (1 << 20)
        if model.active:
            stage.virsh("blockresize", NAME, path, f"{size}B")
        else:
            form = "raw" if path.endswith(".raw") else "qcow2"
            command = ["qemu-img", "resize", "-q", "-f", form, path, str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr)


@action("rename and back")
class Rename(Action):
    """libvirt renames no machine that has snapshots or checkpoints."""

    def after(self, model: Model) -> None:
        demand(model.power == OFF)

    def play(self, stage: Stage, model: Model) -> None:
        stage.virsh("domrename", NAME, "other")
        answer = stage.attempt("vm_snapshot_info", vm=["other"])
        stage.virsh("domrename", "other", NAME)
        if answer["failed"]:
            raise AssertionError(answer["msg"])
