# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Letting a VM run again that a dead run had stopped to restore it in place.

It is defined by one call, so it is what it was or what it was to become. Files that were made for
it are known by their names, and go when it is restored the next time.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.state import VmState
from .._model.step import DefineRestored, Plan, StartVm
from .left import Left


def restoring(left: Left) -> DefineRestored | None:
    """The step by which the dead run was to restore the VM, None if it had another aim."""
    return next((step for step in left.steps if isinstance(step, DefineRestored)), None)


def plan_restore_recovery(step: DefineRestored, left: Left, vm: VmState, *, finish: bool) -> Plan:
    """Start it, unless it was to stay off once it is restored; ``finish`` as in plan_recovery."""
    restored = all(vm.paths.get(target) == file for target, file, _format in step.disks)
    what = "restored" if restored else "not restored"
    to_run = not restored or any(isinstance(each, StartVm) for each in left.steps)
    note = f"{vm.name}: an interrupted run has {what} it"
    if not (vm.off and to_run):
        return Plan(vm.name, (), (note,))
    if not finish:
        return Plan(vm.name, (), (f"{note}, and it does not start",))
    paused = left.status == "paused" and not restored
    return Plan(vm.name, (StartVm(paused),), (f"{note} and left it off; it was started",))
