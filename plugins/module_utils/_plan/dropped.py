# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Defining snapshots again that libvirt dropped when a transient VM stopped.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.snapshot import Snapshot
from .._model.state import VmState
from .._model.step import DefineSnapshot, Plan, Step


def plan_dropped(vm: VmState) -> Plan:
    """The steps, and notes of those that have lost what they were about."""
    known = {found.name for found in vm.snapshots}
    steps: list[Step] = []
    notes: list[str] = []
    for found in vm.dropped:
        why = _spoilt(vm, found)
        if not why and found.parent and found.parent not in known:
            why = f"its parent {found.parent} was not either"
        if why:
            notes.append(f"{vm.name}: snapshot {found.name} was not defined again: {why}")
        else:
            known.add(found.name)
            steps.append(DefineSnapshot(found.name, found.current))
    if steps:
        names = ", ".join(sorted(step.name for step in steps if isinstance(step, DefineSnapshot)))
        notes.append(f"{vm.name}: defined {names} again, which libvirt dropped when the VM stopped")
    return Plan(vm.name, tuple(steps), tuple(notes))


def _spoilt(vm: VmState, found: Snapshot) -> str:
    """What has become of its images since, '' if they are what they were."""
    for target, point in found.points.items():
        disk = vm.disk(target)
        if point in vm.missing:
            return f"{point} does not exist"
        if disk is not None and disk.depth_of(point) == 0:
            return f"the VM writes to its image {point}"
    for image in (*found.overlays.values(), found.memory_file):
        if image in vm.missing:
            return f"{image} does not exist"
    return ""
