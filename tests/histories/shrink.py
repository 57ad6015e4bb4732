# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shortest history that still fails, by delta debugging (Zeller and Hildebrandt, 2002)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrink(steps: Sequence[T], fails: Callable[[list[T]], bool], seconds: float) -> list[T]:
    """Fewer steps with which `fails` holds still, each needed; the best found within the time."""
    best, parts = list(steps), 2
    limit = time.monotonic() + seconds
    while len(best) > 1 and time.monotonic() < limit:
        shorter = _shorter(best, parts, fails, limit)
        if shorter is not None:
            best, parts = shorter, max(2, parts - 1)
        elif parts >= len(best):
            break
        else:
            parts = min(len(best), parts * 2)
    return best


def _shorter(
    steps: list[T], parts: int, fails: Callable[[list[T]], bool], limit: float
) -> list[T] | None:
    """The steps without one of so many parts of them, where that fails still."""
    size = -(-len(steps) // parts)
    for start in range(0, len(steps), size):
        if time.monotonic() > limit:
            return None
        rest = steps[:start] + steps[start + size :]
        if rest and fails(rest):
            return rest
    return None
