# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt does not allow while a VM that is off has backup checkpoints.

libvirt 9.0 answers with error 84 to all that takes a snapshot or corrects the record of one, since
only a QEMU that runs tells that it could. 11.3 allows some of it, and no external snapshot.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.problem import Conflict
from .._model.state import Facts, VmState
from .._model.step import DefineAsOf, DefineSnapshot, Plan, RewriteSnapshot, TakeSnapshot

_REFUSED = (DefineSnapshot, RewriteSnapshot, TakeSnapshot)


def wants_backups(plan: Plan, vm: VmState) -> bool:
    """Whether the plan does such a thing while the VM is off."""
    off = vm.off
    for step in plan.steps:
        off = off or isinstance(step, DefineAsOf)
        if off and isinstance(step, _REFUSED):
            return True
    return False


def check_backups(plan: Plan, vm: VmState, facts: Facts) -> None:
    """Raise Conflict where libvirt would refuse it in the middle."""
    if not facts.backups or not wants_backups(plan, vm):
        return
    goes_back = any(isinstance(step, DefineAsOf) for step in plan.steps)
    first = "" if goes_back else "start the VM first, or "
    raise Conflict(
        f"VM {vm.name} has backup checkpoints ({', '.join(facts.backups)}), and libvirt changes no"
        " record of snapshots while such a VM is off",
        wanted="to take a snapshot, or to correct the record of one, while it is off",
        todo=f"{first}remove the checkpoints (virsh checkpoint-delete --metadata) and let the next"
        " backup be a full one",
    )
