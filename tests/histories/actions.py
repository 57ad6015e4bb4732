# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an action is, and the list of all of them."""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar, TypeVar

from .model import Model, demand
from .stage import Stage

ACTIONS: dict[str, Action] = {}
A = TypeVar("A", bound="type[Action]")


class Action:
    """Something that happens to the machine. Parameters are plain values, as they are printed."""

    weight: ClassVar[int] = 1

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        """Parameters that make sense now. Raises `Unfit` where there are none."""
        return {}

    def after(self, model: Model, **params: Any) -> None:
        """Change the model as the machine has to change. Raises `Unfit` where it cannot be."""
        raise NotImplementedError

    def play(self, stage: Stage, model: Model, **params: Any) -> None:
        """Do it; `model` is from before."""
        raise NotImplementedError


class Task(Action):
    """A task with one of our modules."""

    module: ClassVar[str]
    # Whether a second run must find nothing to do.
    repeatable: ClassVar[bool] = True
    # Whether it leaves images as they are that nothing refers to then.
    leaves: ClassVar[bool] = False
    # Whether only the same task brings in order what a run that died has left.
    alone: ClassVar[bool] = False

    def options(self, stage: Stage, **params: Any) -> dict[str, Any]:
        """The options of the module."""
        return params

    def certain(self, model: Model, **params: Any) -> bool:
        """Whether the task must succeed; else it may be refused, touching nothing."""
        return True

    def settle(self, stage: Stage, before: Model, after: Model, **params: Any) -> None:
        """Correct what the model cannot know of what the task has done."""

    def may_remove(self, model: Model, **params: Any) -> set[str]:
        """Points that may go with it."""
        return set()


def action(name: str, weight: int = 1) -> Any:
    """Add a class to the list, under the name that histories are written with."""

    def register(kind: A) -> A:
        kind.weight = weight
        ACTIONS[name] = kind()
        return kind

    return register


def pick(random: Random, choices: Any) -> Any:
    """One of them, which must not depend on the order of a set. Raises `Unfit` for none."""
    ordered = sorted(choices)
    demand(ordered)
    return random.choice(ordered)
