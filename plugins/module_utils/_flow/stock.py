# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run over a repository works with, and what becomes of the restore points of one VM.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .._model.fault import trace_of
from .._model.problem import Problem


@dataclass(frozen=True)
class Store:
    """A repository, and how a run works in it. ``run`` is what others are told who holds a lock."""

    repository: str
    timeout: float
    lock_timeout: float
    run: str
    check: bool


@dataclass
class StockOutcome:
    """What became of the restore points of one VM: the result, and steps as they are returned."""

    result: dict[str, Any] = field(default_factory=dict)
    steps: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    problem: str = ""
    exception: str = ""

    def fail(self, problem: Problem) -> None:
        """Say why not all was done; ``exception`` is the traceback of a fault of ours."""
        self.problem = "; ".join(filter(None, [self.problem, str(problem)]))
        self.exception = self.exception or trace_of(problem)

    def fail_for(self, problems: Iterable[Problem]) -> None:
        """The same for what came up with single restore points; the same words only once."""
        for problem in {str(problem): problem for problem in problems}.values():
            self.fail(problem)
