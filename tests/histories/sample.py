# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A sample of histories: few, and with every action in one of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import count
from typing import Any

from .actions import ACTIONS, Task
from .model import Model
from .play import random_steps

SEEDS = (359, 261, 290, 64, 187, 305)
MORE = 3  # histories, where an action has not come in these
# Only some machines have what this one is about; each of them is asked for it.
RARE = "vm_storage_snapshot"


def names() -> list[str]:
    """The actions that happen by themselves; those that go with each other are neighbours."""
    kinds = {name: type(each).__module__ for name, each in ACTIONS.items() if each.weight}
    return sorted(kinds, key=lambda name: (kinds[name], name))


def shares() -> Iterator[tuple[int, list[str]]]:
    """(seed, actions that are wanted) for each history; every action is wanted by two of them."""
    known, size = names(), len(SEEDS)
    common = [name for name in known if not _rare(name)]
    for number, seed in enumerate(SEEDS):
        turns = {number, (number + size // 2) % size}
        mine = [name for n, name in enumerate(common) if n * size // len(common) in turns]
        yield seed, [*mine, *(filter(_rare, known) if _machine(seed).get("storage") else ())]


def another(left: Collection[str], last: int) -> tuple[int, list[str]]:
    """One more history, with a later seed, for what has not come and what goes with that."""
    kinds = {type(ACTIONS[name]).__module__ for name in left}
    rare = any(map(_rare, left))
    seeds = (seed for seed in count(last + 1) if bool(_machine(seed).get("storage")) == rare)
    return next(seeds), [name for name in names() if type(ACTIONS[name]).__module__ in kinds]


def _machine(seed: int) -> dict[str, Any]:
    return next(random_steps(seed, Model))[1]


def _rare(name: str) -> bool:
    found = ACTIONS[name]
    return isinstance(found, Task) and found.module == RARE


def missing(played: Iterable[str]) -> list[str]:
    """The actions that were not among those."""
    return sorted(set(names()) - set(played))
