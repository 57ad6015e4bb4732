# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of one VM in a run.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

from .._model.problem import Busy, Conflict, Problem
from .._model.state import VmState
from .._model.step import Plan, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._host.libvirt_dep import Domain
    from .._host.observe import Host
    from .._host.work import Work

PlanFor = Callable[[VmState], Plan]
"""How a module decides: a pure function of what was observed."""
ChangeAll = Callable[["Host", "Mapping[str, Domain]", PlanFor], "dict[str, Outcome]"]
"""How VMs are brought to what their plans say, each with an outcome of its own."""


@dataclass
class Outcome:
    """What became of one VM: steps done (or foreseen), states before and after, or a problem."""

    before: VmState | None = None
    after: VmState | None = None
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None

    @classmethod
    def failed(cls, problem: Problem) -> Outcome:
        """That of a VM of which nothing else is known."""
        return cls(problem=problem)

    def add(self, work: Work) -> None:
        """Take over what a work did and has to tell."""
        self.steps += () if work.undone else work.steps[: work.next]
        self.report.update(work.report)
        self.notes += tuple(work.notes)

    @property
    def journaled(self) -> bool:
        """Whether a run was under way, or had died, when this was foreseen."""
        return self.before is not None and self.before.unsettled

    @property
    def to_do(self) -> bool:
        """Whether a foreseen outcome needs hands: steps, or a journal to close.

        What is in the way of a run may be another run, so a conflict needs a second look, too,
        when nobody else works on the VM.
        """
        if self.problem is not None:
            return self.journaled or isinstance(self.problem, (Busy, Conflict))
        return self.journaled or bool(self.steps)
