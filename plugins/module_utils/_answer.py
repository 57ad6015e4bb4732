# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module for VMs returns.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """What the module will return."""

    vms: dict[str, Any] = field(default_factory=dict)
    plan: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def fail(self, name: str, problem: object) -> None:
        """The task fails for a VM."""
        self.problems[name] = str(problem)
        self.vms[name] = {"failed": True, "msg": str(problem)}

    @property
    def failure(self) -> str:
        """Why the task fails, '' if it does not."""
        listed = "; ".join(self.problems.values())
        several = self.problems and len(self.vms) > 1
        count = f"{len(self.problems)} of {len(self.vms)} VMs failed: " if several else ""
        return count + listed

    def to_dict(self) -> dict[str, Any]:
        return {
            "changed": bool(self.plan),
            "vms": self.vms,
            "plan": self.plan,
            "notes": self.notes,
            "diff": {"before": "\n".join(self.before), "after": "\n".join(self.after)},
        }
