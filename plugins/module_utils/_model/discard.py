# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM that was restored under another name and is to be taken away, and what is done for that.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .problem import Problem
from .restore import Marker
from .state import VmState

STOP = "stop_vm"
REMOVE = "remove_file"
UNDEFINE = "undefine_vm"


@dataclass(frozen=True)
class Act:
    """One of STOP, REMOVE and UNDEFINE; ``file`` is what REMOVE removes."""

    what: str
    file: str = ""

    def shown(self, vm: str) -> dict[str, Any]:
        """As a step of a plan."""
        return {"vm": vm, "step": self.what, **({"file": self.file} if self.file else {})}


@dataclass(frozen=True)
class Restored:
    """The VM as it is. ``there`` are the files of its marker that exist, ``uses`` what else stands
    on one of them, as a text, ``stored`` the names of its storage snapshots.
    """

    vm: VmState
    marker: Marker | None
    there: frozenset[str] = field(default=frozenset())
    uses: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()


@dataclass
class Discarded:
    """What was done or would be; ``problem`` is why it was not, or not all of it."""

    acts: tuple[Act, ...] = ()
    problem: Problem | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(act.file for act in self.acts if act.file)
