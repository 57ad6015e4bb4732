# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Letting guests write out what they hold in memory, before they are frozen.

A freeze first blocks all writes and then writes everything out; who writes meanwhile waits for all
of it. What was written out before, while the guest went on, need not be waited for.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .._model.freeze import NOT_WRITTEN_OUT
from .._model.problem import Problem, TimedOut, Unreachable
from .guest_exec import execute

if TYPE_CHECKING:
    from .libvirt_dep import Domain

_COMMAND = ("sync",)
# Less than this a round takes that finds next to nothing to write, in a slow guest too.
_SHORT_SECONDS = 0.25
_CLEARLY_SHORTER = 0.7
# The agent reads the program from a disk that may be busy with what the guest writes out by itself.
_PATIENCE = 15.0


@dataclass
class WriteOut:
    """One guest that is to write out for at most ``seconds`` (0: not at all), and how it went.

    ``milliseconds`` are from the begin of the first to its own last end, ``spent`` the seconds that
    it took itself. ``notes`` say why it did not, or not to the end.
    """

    dom: Domain
    seconds: float
    milliseconds: int = 0
    spent: float = 0.0
    notes: list[str] = field(default_factory=list)


def write_out(parts: Sequence[WriteOut]) -> None:
    """Let the guests write out side by side, and again as long as that gets clearly shorter.

    Those who have ended early take part in each round, since they go on writing until all can be
    frozen; the seconds of each are its own. No failure of a guest is raised, only Unreachable where
    libvirt is lost.
    """
    began, before = time.monotonic(), math.inf
    going = [part for part in parts if part.seconds > 0]
    while going:
        with ThreadPoolExecutor(max_workers=len(going)) as pool:
            rounds = list(pool.map(lambda part: _round(part, began), going))
        going = [part for part in going if not part.notes and part.spent < part.seconds]
        longest = max(rounds)
        if longest < _SHORT_SECONDS or longest > _CLEARLY_SHORTER * before:
            return
        before = longest


def _round(part: WriteOut, began: float) -> float:
    """One time; how many seconds it took."""
    start = time.monotonic()
    try:
        left = part.seconds - part.spent
        ended = execute(part.dom, _COMMAND, left, max(1.0, min(_PATIENCE, left)))
        if ended["rc"]:
            part.notes.append(f"{NOT_WRITTEN_OUT}: sync ended with {ended['rc']}")
    except TimedOut:
        part.notes.append(f"{NOT_WRITTEN_OUT}: that takes longer than {part.seconds:g} s")
    except Unreachable:
        raise
    except Problem as problem:
        part.notes.append(f"{NOT_WRITTEN_OUT}: {problem.found}")
        return 0.0
    now = time.monotonic()
    part.milliseconds = round((now - began) * 1000)
    part.spent += now - start
    return now - start
