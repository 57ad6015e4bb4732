# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The histories that every run of the tests plays: few, and with every action in one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .actions import ACTIONS, Task

SEEDS = (1, 2, 3, 4, 5, 6, 7, 8)
# Only some machines have what this one is about, so each history asks for it.
RARE = "vm_storage_snapshot"


def names() -> list[str]:
    """The actions that happen by themselves."""
    return sorted(name for name, each in ACTIONS.items() if each.weight)


def shares() -> Iterator[tuple[int, list[str]]]:
    """(seed, actions that are wanted) for each history; every action is wanted by two of them."""
    known, count = names(), len(SEEDS)
    for number, seed in enumerate(SEEDS):
        turns = {number, (number + count // 2) % count}
        yield seed, [name for n, name in enumerate(known) if n % count in turns or _rare(name)]


def _rare(name: str) -> bool:
    found = ACTIONS[name]
    return isinstance(found, Task) and found.module == RARE


def missing(played: Iterable[str]) -> list[str]:
    """The actions that were not among those."""
    return sorted(set(names()) - set(played))
