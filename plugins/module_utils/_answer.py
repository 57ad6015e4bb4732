# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module for VMs returns.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ._model.fault import as_problem, trace_of
from ._model.problem import Problem


def failed_entry(problem: Problem) -> dict[str, Any]:
    """What is returned of a VM that failed; ``exception`` is the traceback of a fault of ours."""
    trace = trace_of(problem)
    return {"failed": True, "msg": str(problem), **({"exception": trace} if trace else {})}


def error_entry(problem: Problem | None) -> dict[str, Any]:
    """The same of an image, which names it ``error`` and always has it."""
    if problem is None:
        return {"error": None}
    trace = trace_of(problem)
    return {"error": str(problem), **({"exception": trace} if trace else {})}


@dataclass
class Answer:
    """What the module will return."""

    vms: dict[str, Any] = field(default_factory=dict)
    plan: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def fail(self, name: str, problem: Problem) -> None:
        """The task fails for a VM."""
        self.problems[name] = str(problem)
        self.vms[name] = failed_entry(problem)

    @contextlib.contextmanager
    def entry(self, name: str) -> Iterator[None]:
        """What comes up within is the failure of this VM and of no other."""
        try:
            yield
        except Exception as error:
            self.fail(name, as_problem(error, f"VM {name}"))

    @property
    def failure(self) -> str:
        """Why the task fails, '' if it does not."""
        if len(self.vms) < 2:
            return "; ".join(self.problems.values())
        told = (text if name in text else f"{name}: {text}" for name, text in self.problems.items())
        count = f"{len(self.problems)} of {len(self.vms)} VMs failed: " if self.problems else ""
        listed = "; ".join(told)
        return count + listed

    def to_dict(self) -> dict[str, Any]:
        return {
            "changed": bool(self.plan),
            "vms": self.vms,
            "plan": self.plan,
            "notes": self.notes,
            "diff": {"before": "\n".join(self.before), "after": "\n".join(self.after)},
        }
