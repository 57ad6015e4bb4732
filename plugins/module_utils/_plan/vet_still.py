# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What QEMU does not do for a VM that has not run since its memory was written or loaded.

It does not write that memory twice. It has let go of the images when the memory was written: from
then on no job changes them, and since version 10 nothing reads them that is begun then. Version 10
has not got them either before it runs with memory that was loaded.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from itertools import takewhile

from .._model.backup_steps import OFF
from .._model.names import in_shell
from .._model.problem import Unsupported
from .._model.state import Facts, VmState
from .._model.step import BackUp, CommitDisk, Plan, SaveMemory, Step, StopVm, TakeSnapshot


def wants_stillness(plan: Plan, vm: VmState) -> bool:
    """Whether it matters if the VM has run since its memory was written or loaded."""
    return vm.status == "paused" and any(
        writes_memory(step) or _merges(step) or _reads(step) for step in _before_a_stop(plan)
    )


def check_still(plan: Plan, vm: VmState, facts: Facts) -> None:
    """Raise Unsupported where QEMU would refuse a step of the plan for that."""
    if vm.status != "paused":
        return
    for step in _before_a_stop(plan):
        if facts.memory_written and writes_memory(step):
            raise _written_once(vm)
        if (facts.memory_written and _merges(step)) or (
            facts.inactive and (_merges(step) or _reads(step))
        ):
            raise _let_go(vm)


def _before_a_stop(plan: Plan) -> list[Step]:
    return list(takewhile(lambda step: not isinstance(step, StopVm), plan.steps))


def writes_memory(step: Step) -> bool:
    """Whether memory goes to a file of its own."""
    into_a_file = isinstance(step, TakeSnapshot) and bool(step.spec.memory_file)
    return into_a_file or isinstance(step, SaveMemory)


def _merges(step: Step) -> bool:
    """A pull is refused of every VM that is paused."""
    return isinstance(step, CommitDisk) and step.how in ("active", "middle")


def _reads(step: Step) -> bool:
    inside = isinstance(step, TakeSnapshot) and step.spec.mode == "internal"
    return inside or (isinstance(step, BackUp) and step.how != OFF)


def _written_once(vm: VmState) -> Unsupported:
    return Unsupported(
        f"the memory of VM {vm.name} was written before, and it has not run since: QEMU does not"
        " write it twice",
        wanted="to write its memory",
        todo=f"let it run for a moment (virsh resume {in_shell(vm.name)}; virsh suspend"
        f" {in_shell(vm.name)}), then run the task again",
    )


def _let_go(vm: VmState) -> Unsupported:
    return Unsupported(
        f"VM {vm.name} is paused and has not run since its memory was written or loaded, so QEMU"
        " has not got its images",
        wanted="a VM that is off, or has run since",
        todo="let it go on (vm_memory with state running), or switch it off",
    )
