# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions, of the machine and of its snapshots, that people edit.

Nobody but going back changes them, and that brings those of then.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from .actions import Action, action, pick
from .by_hand import ByHand
from .definition import CHOICES
from .model import SAVED, Model, demand, is_checkpoint
from .stage import Stage
from .tasks import NAME

DESCRIPTION = "edited by hand"


@action("virsh desc")
class Describe(ByHand):
    def after(self, model: Model) -> None:
        demand(model.power != SAVED)
        model.edits["description"] = DESCRIPTION

    def words(self, stage: Stage) -> list[str]:
        return ["desc", NAME, "--config", DESCRIPTION]


@action("virsh edit")
class Edit(Action):
    """What the machine is from its next start on."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        what = pick(random, CHOICES)
        return {"what": what, "value": random.choice(CHOICES[what] or (f"n{model.count}",))}

    def after(self, model: Model, *, what: str, value: str) -> None:
        demand(model.power != SAVED and what in CHOICES)
        model.edits[what] = value

    def play(self, stage: Stage, model: Model, *, what: str, value: str) -> None:
        stage.edit(what, value)


@action("virsh snapshot-edit")
class EditSnapshot(Action):
    """The description of a snapshot, which is for people, but for its last line.

    Without that one nobody knows any more what the images were, or what is a checkpoint.
    """

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        name = pick(random, model.points)
        return {"name": name, "whole": not is_checkpoint(name) and random.random() < 0.3}

    def after(self, model: Model, *, name: str, whole: bool) -> None:
        demand(name in model.points and not (whole and is_checkpoint(name)))
        if whole:
            # Nor what of the images is ours.
            model.by_hand = True
            model.points[name] = replace(model.points[name], ours=False, certain=False)

    def play(self, stage: Stage, model: Model, *, name: str, whole: bool) -> None:
        stage.edit_snapshot(name, whole=whole)
