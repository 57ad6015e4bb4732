# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU writes the memory of a VM that is paused once; libvirt does not show that it has.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.names import in_shell
from .._model.problem import Problem, Unsupported

_WRITTEN_ONCE = "paused due to previous migration"


def explained(problem: Problem, name: str) -> Problem:
    """A failure to write the memory of a VM, with what to do where it was written before."""
    if _WRITTEN_ONCE not in problem.found:
        return problem
    return Unsupported(
        f"the memory of VM {name} was written before, and it has not run since: QEMU does not"
        " write it twice",
        wanted="to write its memory",
        todo=f"let it run for a moment (virsh resume {in_shell(name)}; virsh suspend"
        f" {in_shell(name)}), then run the task again",
    )
