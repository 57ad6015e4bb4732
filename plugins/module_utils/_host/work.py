# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One VM in the hands of a run, and the one function that does a step to it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._model.state import VmState
from .._model.step import Step
from .journal import Journal
from .observe import Host

if TYPE_CHECKING:
    from .libvirt_dep import Domain


@dataclass
class Work:
    """One VM in the hands of a run: what is to be done, how far it got, what to report.

    ``resumed`` steps clean up after a dead run; its journal, which lists other steps, is then
    not marked. ``undone``: the steps that were done have left nothing.
    """

    host: Host
    dom: Domain
    vm: VmState
    steps: tuple[Step, ...]
    journal: Journal
    resumed: bool = False
    undone: bool = False
    next: int = 0
    report: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def advance(self) -> None:
        """The next step is done."""
        self.done(self.next)
        self.next += 1

    def done(self, index: int) -> None:
        """A step is done, perhaps before an earlier one."""
        if not self.resumed:
            self.journal.done(index)


@functools.singledispatch
def do(step: Step, work: Work) -> None:
    """Do one step; there is an implementation for each kind (do_images, do_records, do_power)."""
    raise TypeError(f"no way to do {step} of VM {work.vm.name}")
