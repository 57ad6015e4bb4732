# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How to bring a VM in order after a run that died while it saved or restored its memory.

The daemon goes on when its client dies, so what it came to decides. A save that is complete is
kept, a part of one is removed; while the VM runs, it is itself what was to be kept.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.state import VmState
from .._model.step import Plan, RecordSave, RemoveSave, RestoreSave, ResumeVm, SaveMemory, Step
from .left import Left


def moving_memory(left: Left) -> SaveMemory | RestoreSave | None:
    """The step by which the dead run was to save or restore, None if it had another aim."""
    return next((s for s in left.steps if isinstance(s, (SaveMemory, RestoreSave))), None)


def plan_memory_recovery(step: SaveMemory | RestoreSave, left: Left, vm: VmState) -> Plan:
    """The steps that finish or undo it, and a note that says which."""
    if isinstance(step, RestoreSave):
        return _restoring(step, left, vm)
    if vm.off and left.saved:
        note = f"{vm.name}: finished the save of its memory that an interrupted run had begun"
        return Plan(vm.name, (RecordSave(step.file, step.managed),), (note,))
    stopped = vm.status == "paused" and not step.paused
    steps: tuple[Step, ...] = (ResumeVm(),) if stopped else ()
    why = "what an interrupted run has saved of its memory"
    if step.managed or step.file in left.existing:
        steps = (*steps, RemoveSave(step.file, step.managed, why))
    ended = "the VM went off before its memory was saved" if vm.off else "the VM still runs"
    note = f"{vm.name}: removed what an interrupted run has saved of its memory; {ended}"
    return Plan(vm.name, steps, (note,))


def _restoring(step: RestoreSave, left: Left, vm: VmState) -> Plan:
    if vm.off:
        note = f"{vm.name}: an interrupted run had not yet let it go on"
        return Plan(vm.name, (), (note,))
    steps: tuple[Step, ...] = (ResumeVm(),) if vm.status == "paused" else ()
    if step.managed or step.file in left.existing:
        # libvirt removes a managed save by itself, and knows nothing of our record of it.
        steps = (*steps, RemoveSave(step.file, step.managed, "the VM has gone on from it"))
    note = f"{vm.name}: an interrupted run has let it go on"
    return Plan(vm.name, steps, (note,))
