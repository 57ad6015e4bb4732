# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest agents that may not freeze, or do otherwise than they say.

What they come to is seen by writing in the guest, never by asking them.
"""

from __future__ import annotations

from random import Random
from typing import Any

from .accidents import then
from .actions import Action, action, pick
from .judge import REFUSED, Fault, Trial, message, one_of
from .liars import LIARS, STUCK
from .model import RUNNING, Model, demand
from .stage import Stage


@action("the agent lies", 3)
class Lie(Action):
    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"how": pick(random, LIARS)}

    def after(self, model: Model, *, how: str) -> None:
        demand(model.power == RUNNING and model.honest and not model.frozen and how in LIARS)
        model.liar = how

    def play(self, stage: Stage, model: Model, *, how: str) -> None:
        stage.let_lie(how)


@action("mend the agent", 3)
class Mend(Action):
    def after(self, model: Model) -> None:
        demand(model.power == RUNNING and model.liar)
        model.liar = ""

    def play(self, stage: Stage, model: Model) -> None:
        stage.vm.restart_agent()


@action("freeze and thaw by an agent that lies", 2)
class FreezeByLiar(Trial):
    """Whatever the tasks say, the guest writes in the end."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"thaw": random.random() < 0.5}

    def after(self, model: Model, *, thaw: bool) -> None:
        demand(model.power == RUNNING and model.liar)

    def run(self, stage: Stage, model: Model, *, thaw: bool) -> tuple[str, Model]:
        frozen = stage.attempt("vm_freeze", state="frozen", deadline=20 if thaw else 3)
        said = [message(frozen)]
        if thaw and not frozen["failed"]:
            said.append(message(stage.attempt("vm_freeze", state="thawed")))
        return "; ".join(said), one_of(stage, then(model))


@action("an agent does not thaw")
class Stuck(Trial):
    """Nobody can help its guest but from inside; that is said, and not that all is well."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        return {"name": f"s{model.count + 1}", "quiesce": random.choice(["preferred", "required"])}

    def after(self, model: Model, *, name: str, quiesce: str) -> None:
        demand(model.power == RUNNING and model.honest and not model.frozen)
        model.number()
        model.point(name, memory=False)

    def run(self, stage: Stage, model: Model, *, name: str, quiesce: str) -> tuple[str, Model]:
        stage.let_lie(STUCK)
        result = stage.attempt("vm_snapshot", name=name, mode="external", quiesce=quiesce)
        said = " ".join([message(result), *result.get("notes", ())])
        stuck = bool(stage.vm.stalled())
        stage.thaw_inside()
        stage.vm.restart_agent()
        if stuck and "frozen" not in said and "thaw" not in said:
            raise Fault(f"the guest stays frozen, and all that is said is: {said}")
        after = model.copy()
        self.after(after, name=name, quiesce=quiesce)
        chosen = one_of(stage, [*then(model), *then(after)][:: 1 if result["failed"] else -1])
        return said if not result["failed"] else f"{REFUSED}: {said}", chosen
