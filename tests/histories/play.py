# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One history, from a machine that has just booted to one with nothing left of it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain
from random import Random
from typing import Any

from lab import Lab
from lab.file_systems import mount_trouble

from .actions import ACTIONS
from .finish import finish
from .judge import Fault, perform
from .model import MACHINES, Model, Unfit
from .stage import Stage

SHORTEST, LONGEST = 15, 40  # and rather short: what a history has to itself is its end
WANTED = 0.9  # how often what is wanted comes before what is not
SHARES = (1.0, 0.5, 0.25)  # of the actions, that a history has
LEADING_ON = (
    *("write", "start", "start saved", "let memory run", "resume"),
    *("thaw", "wake the agent", "mend the agent"),
)
# Where histories are kept as text: an action a line.
Step = tuple[str, dict[str, Any]]
# Actions that are to come, in groups: those of the first before those of the second.
Wanted = Sequence[Collection[str]]
# The modules that add to the list of actions.
GROUPS = (
    *("accidents", "advice", "by_hand", "of_agent", "of_backups", "of_definition", "of_hardware"),
    *("of_liars", "of_memory", "of_merges", "of_moments", "of_power", "of_repository", "of_room"),
    *("of_saves", "of_snapshots", "of_storage"),
)
for group in GROUPS:
    import_module(f".{group}", __package__)
MACHINE = "machine"  # the first line of a history, which says what disks it is played on


@dataclass
class Outcome:
    """How a history went: its actions, what each came to, and the fault it ended with."""

    machine: Step = (MACHINE, {})
    steps: list[Step] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    fault: str = ""
    lacking: str = ""  # why it was not played on the machine that it is for


def random_steps(seed: int, model: Callable[[], Model], wanted: Wanted = ()) -> Iterator[Step]:
    """A machine, and actions that fit it as it is each time the next one is asked for.

    What is wanted comes once as soon as it can, among the others, and is not left out later; there
    are more actions until all of it was there.
    """
    random, left = Random(seed), [sorted(group) for group in wanted]
    yield MACHINE, dict(random.choice(MACHINES))
    weights = few(random) | {name: ACTIONS[name].weight for name in chain(*left)}
    length = round(random.triangular(SHORTEST, LONGEST, SHORTEST))
    for number in range(LONGEST):
        if number >= length and not any(left):
            return
        name, params = choose(random, model(), weights, left)
        left = [[each for each in group if each != name] for group in left]
        yield name, params


def few(random: Random) -> dict[str, int]:
    """The weights of the actions of a history, most of which leaves many of them out.

    Where all of them compete, none meets itself and its neighbours often enough: "swarm testing",
    Groce and others, 2012. What leads on from any state is never left out.
    """
    share = random.choice(SHARES)
    return {
        name: ACTIONS[name].weight
        for name in sorted(ACTIONS)
        if random.random() < share or name in LEADING_ON
    }


def choose(random: Random, model: Model, weights: Mapping[str, int], wanted: Wanted = ()) -> Step:
    """An action that fits, by weight, or one that is wanted."""
    groups = wanted if random.random() < WANTED else ()
    first = list(chain(*(random.sample(sorted(group), len(group)) for group in groups)))
    while True:
        name = first.pop(0) if first else random.choices([*weights], [*weights.values()])[0]
        try:
            params = ACTIONS[name].offer(model, random)
            ACTIONS[name].after(model.copy(), **params)
        except Unfit:
            continue
        return name, params


class Play:
    """A history while it is played."""

    def __init__(self, lab: Lab, tell: Callable[[str], None] = lambda _line: None) -> None:
        self.lab = lab
        self.tell = tell
        self.model = Model()

    def random(self, seed: int, wanted: Wanted = ()) -> Outcome:
        return self.play(random_steps(seed, lambda: self.model, wanted))

    def play(self, steps: Iterator[Step]) -> Outcome:
        """Play them; those that do not fit are left out."""
        outcome = Outcome()
        machine = next(steps)
        if machine[0] != MACHINE:
            machine, steps = (MACHINE, dict(MACHINES[0])), chain([machine], steps)
        machine = outcome.machine = possible(machine, outcome)
        self.tell(f"  {written(machine)}")
        self.model = Model.of(**machine[1])
        stage = Stage(self.lab, **machine[1])
        try:
            for step in steps:
                self._step(stage, step, outcome)
            self.tell("  the end")
            finish(stage, self.model)
        except Fault as fault:
            outcome.fault = str(fault)
        except Exception:  # of the engine, or of the lab
            outcome.fault = traceback.format_exc()
        finally:
            stage.close()
        return outcome

    def _step(self, stage: Stage, step: Step, outcome: Outcome) -> None:
        name, params = step
        try:
            ACTIONS[name].after(self.model.copy(), **params)
        except Unfit:
            return
        outcome.steps.append(step)
        self.tell(f"  {written(step)}")
        said, self.model = perform(stage, self.model, name, params)
        outcome.said.append(said)
        if said != "done":
            self.tell(f"      {said}")


def possible(machine: Step, outcome: Outcome) -> Step:
    """The machine, or one without a file system that cannot be had, which the outcome says then."""
    name, params = machine
    if not params.get("storage") or not (trouble := mount_trouble()):
        return machine
    outcome.lacking = f"NOT TESTED: storage snapshots on {params['storage']}, since {trouble}"
    return name, {key: value for key, value in params.items() if key != "storage"}


def written(step: Step) -> str:
    """A line of a history."""
    name, params = step
    return f"{name} {json.dumps(params, sort_keys=True)}" if params else name


def read(line: str) -> Step:
    """A line of a history, read again."""
    name, _brace, rest = line.strip().partition(" {")
    return name, json.loads("{" + rest) if rest else {}
