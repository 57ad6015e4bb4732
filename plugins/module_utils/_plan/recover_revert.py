# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How to bring a VM in order after a run that died on its way back to a snapshot.

Until the VM is defined on its new overlays all of the present state is there, and the run is
undone; from then on it is finished.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._model.state import OFF, DiskState, VmState
from .._model.step import (
    CreateOverlay,
    DefineAsOf,
    Plan,
    RemoveFile,
    RestoreMemory,
    ResumeVm,
    RevertInternal,
    RewriteSnapshot,
    StartVm,
    Step,
    StopVm,
)
from .left import Left


def reverting(left: Left) -> DefineAsOf | RevertInternal | None:
    """The step by which the dead run was to get there, None if it was about something else."""
    return next((s for s in left.steps if isinstance(s, (DefineAsOf, RevertInternal))), None)


def got_there(left: Left, vm: VmState) -> bool:
    """Whether the dead run had left the present state."""
    step = reverting(left)
    if isinstance(step, DefineAsOf):
        return any(disk.persistent in _new_overlays(left) for disk in vm.disks)
    return step is not None and _begun(step, left, vm)


def _new_overlays(left: Left) -> set[str]:
    """The overlays that the VM was to be put on."""
    records = (step for step in left.steps if isinstance(step, RewriteSnapshot) and step.current)
    return {file for step in records for _target, file in step.files}


def _begun(step: RevertInternal, left: Left, vm: VmState) -> bool:
    """libvirt starts the VM anew to go back, so that it then has another number, or is off.

    One that was switched off for it has no number before, and stays off only where it shall.
    """
    marks = [mark for mark in left.marks if mark.startswith(step.mark(""))]
    if vm.off and step.status == OFF and left.status != OFF:
        return bool(marks)
    return bool(marks) and step.mark(vm.live.number) not in left.marks


def plan_finish(left: Left, vm: VmState, *, finish: bool) -> Plan:
    """The steps that are still to be done; without ``finish`` only what records need."""
    steps = tuple(_still_to_do(left, vm, finish=finish))
    step = reverting(left)
    name = step.snapshot if isinstance(step, DefineAsOf) else step.name if step else ""
    if finish and isinstance(step, RevertInternal) and not _went_back(step, vm):
        note = f"{vm.name}: an interrupted run was about to go back to {name}; it is {vm.status}"
        return Plan(vm.name, steps, (note,))
    if finish:
        note = f"{vm.name}: finished what an interrupted run had begun: it is back at {name}"
        return Plan(vm.name, steps, (note,), reverted=name)
    kept = [s.file for s in left.steps if isinstance(s, RemoveFile) and s.file in left.existing]
    note = f"{vm.name}: its disks are at snapshot {name}, and it is {vm.status}"
    unused = f"; what it had before is in {', '.join(kept)}" if kept else ""
    return Plan(vm.name, steps, (note + unused,))


def _went_back(step: RevertInternal, vm: VmState) -> bool:
    found = vm.snapshot(step.name)
    return found is not None and found.current and not vm.off


def _still_to_do(left: Left, vm: VmState, *, finish: bool) -> Iterator[Step]:
    """Nothing is brought back a second time: the guest may have run, and written, since then."""
    fresh = all(disk.unwritten for disk in _moved(left, vm))
    for step, done in zip(left.steps, left.done):
        if isinstance(step, RewriteSnapshot):
            if not done and vm.snapshot(step.name):
                yield step
        elif isinstance(step, RemoveFile):
            if finish and step.file in left.existing and not vm.in_a_chain(step.file):
                yield step
        elif isinstance(step, StopVm):
            if finish and not done and not vm.off and isinstance(reverting(left), RevertInternal):
                yield step
        elif not done and finish and _goes_on(step, vm, fresh=fresh):
            yield step


def _goes_on(step: Step, vm: VmState, *, fresh: bool) -> bool:
    """Whether a step lets the VM go on from the point to which it was brought."""
    if isinstance(step, (StartVm, RestoreMemory)):
        return vm.off and fresh
    return isinstance(step, ResumeVm) and (fresh or not vm.off)


def _moved(left: Left, vm: VmState) -> Iterator[DiskState]:
    """The disks that the dead run has put on new overlays."""
    yield from (disk for disk in vm.disks if disk.disk.path in _new_overlays(left))


def undo(left: Left, vm: VmState) -> tuple[Step, ...]:
    """Remove the overlays that the VM was never put on, and let it run again if it was stopped."""
    steps: list[Step] = [
        RemoveFile(path, "unused overlay of an interrupted run")
        for path in _off_its_chains(left, vm)
        if path not in left.written
    ]
    if vm.off and left.status in ("running", "paused"):
        steps.append(StartVm(paused=left.status == "paused"))
    return tuple(steps)


def ran_on(left: Left, vm: VmState) -> tuple[str, ...]:
    """The overlays on which the VM has run since, before somebody put it on others."""
    return tuple(path for path in _off_its_chains(left, vm) if path in left.written)


def _off_its_chains(left: Left, vm: VmState) -> Iterator[str]:
    """The overlays that the VM was to be put on, and is not."""
    there = _new_overlays(left) & left.existing
    made = [step for step in left.steps if isinstance(step, CreateOverlay) and step.file in there]
    define = reverting(left)
    attached = define.attached if isinstance(define, DefineAsOf) else ()
    for step in made:
        had = vm.disk(step.target) is not None or (step.target, step.file) in attached
        if had and not vm.in_a_chain(step.file):
            yield step.file
