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
from .workers import Script

SEEDS = (207, 683, 364, 626, 146, 201)
MORE = 3  # rounds of histories, where an action has not come in these
# Only some machines have what this one is about; each of them is asked for it.
RARE = "vm_storage_snapshot"


def names() -> list[str]:
    """The actions that happen by themselves; those that go with each other are neighbours."""
    return sorted((name for name, each in ACTIONS.items() if each.weight), key=_kind_and_name)


def shares() -> Iterator[Script]:
    """The histories, each of which wants its share of the actions."""
    known, size = names(), len(SEEDS)
    common = [name for name in known if not _rare(name)]
    for number, seed in enumerate(SEEDS):
        mine = [name for n, name in enumerate(common) if n * size // len(common) == number]
        yield seed, [[*mine, *(filter(_rare, known) if _machine(seed).get("storage") else ())]]


def more(left: Collection[str], last: int) -> Iterator[Script]:
    """Histories with later seeds, for what has not come: that first, then what goes with it."""
    for kind in sorted({_kind(name) for name in left}):
        group = [name for name in names() if _kind(name) == kind]
        last = _after(last, any(map(_rare, group)))
        yield last, [[name for name in group if name in left], group]


def _after(seed: int, rare: bool) -> int:
    """The next seed of a machine that has, or has not, what is rare."""
    return next(n for n in count(seed + 1) if bool(_machine(n).get("storage")) == rare)


def _kind(name: str) -> str:
    return type(ACTIONS[name]).__module__


def _kind_and_name(name: str) -> tuple[str, str]:
    return _kind(name), name


def _machine(seed: int) -> dict[str, Any]:
    return next(random_steps(seed, Model))[1]


def _rare(name: str) -> bool:
    found = ACTIONS[name]
    return isinstance(found, Task) and found.module == RARE


def missing(played: Iterable[str]) -> list[str]:
    """The actions that were not among those."""
    return sorted(set(names()) - set(played))
