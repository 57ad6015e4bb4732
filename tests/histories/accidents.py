# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong: a run of ours is killed at any of its effects, and what is done then."""

from __future__ import annotations

from random import Random
from typing import Any

from .actions import ACTIONS, Action, Task, action
from .model import Model, Unfit, demand
from .stage import Stage

# As many effects as short and long tasks have.
EFFECTS = (8, 20, 50)


@action("killed", 14)
class Killed(Action):
    """One of our tasks dies; it is then run again, or another task finds what it has left."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        kinds = [name for name, each in ACTIONS.items() if isinstance(each, Task)]
        random.shuffle(kinds)
        for kind in kinds:
            try:
                given = ACTIONS[kind].offer(model, random)
                ACTIONS[kind].after(model.copy(), **given)
            except Unfit:
                continue
            at = random.randint(1, random.choice(EFFECTS))
            then = random.choice(["again", "another"])
            return {"kind": kind, "at": at, "then": then, "given": given}
        raise Unfit

    def after(self, model: Model, *, kind: str, at: int, then: str, given: dict[str, Any]) -> None:
        demand(isinstance(ACTIONS.get(kind), Task))
        ACTIONS[kind].after(model, **given)

    def play(self, stage: Stage, model: Model, **params: Any) -> None:
        raise NotImplementedError("judge.py plays it, which has to tell what has come of it")
