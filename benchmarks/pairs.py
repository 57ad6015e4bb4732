# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two sides measured in turns, and what the numbers say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Goal:
    """What a ratio has to reach.

    With `faster` the ratio counts how many times longer the peer takes and must be at least
    `bound`; else it is our share of the peer's value, which must be at most `bound`.
    """

    bound: float
    faster: bool = False

    def __str__(self) -> str:
        return f">= {self.bound:g}" if self.faster else f"<= {self.bound:g}"


@dataclass(frozen=True)
class Comparison:
    """One measure of both sides, pair by pair, in milliseconds.

    Without a `goal` it is there for information; `faster` then says which ratio to show.
    """

    what: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    peer_name: str
    goal: Goal | None = None
    faster: bool = False

    @property
    def counts_up(self) -> bool:
        """Whether a larger ratio is better for us."""
        return self.goal.faster if self.goal else self.faster

    @property
    def ratios(self) -> list[float]:
        """Pair by pair: ours / peer, or peer / ours where it counts how many times faster."""
        pairs = zip(self.ours, self.peer)
        return [peer / ours if self.counts_up else ours / peer for ours, peer in pairs]

    @property
    def ratio(self) -> float:
        """The median of the ratios, which the goal is held against."""
        return statistics.median(self.ratios)

    @property
    def bad_ratio(self) -> float:
        """What 95 of 100 pairs reach or surpass, in our favour."""
        return quantile(self.ratios, 0.05 if self.counts_up else 0.95)

    @property
    def verdict(self) -> str:
        """met or MISSED; without a goal whether we are slower in most pairs."""
        if self.goal is None:
            loses = self.ratio < 1 if self.counts_up else self.ratio > 1
            return "LOSES" if loses else "wins"
        met = self.ratio >= self.goal.bound if self.goal.faster else self.ratio <= self.goal.bound
        return "met" if met else "MISSED"


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def middle(values: Sequence[float]) -> str:
    """Median and 95th percentile, as they are shown."""
    return f"{shown(statistics.median(values))} / {shown(quantile(values, 0.95))}"


def shown(value: float) -> str:
    """A number with three digits that say something."""
    digits = 2 - math.floor(math.log10(value)) if 0 < value < 100 else 0
    return f"{value:.{digits}f}"


def in_turns(pairs: int, ours: Callable[[], T], peer: Callable[[], T]) -> tuple[list[T], list[T]]:
    """Measure both sides so many times, A B and B A alternating, so that neither is favoured."""
    first, second = [], []
    for number in range(pairs):
        if number % 2 == 0:
            first.append(ours())
            second.append(peer())
        else:
            second.append(peer())
            first.append(ours())
    return first, second
