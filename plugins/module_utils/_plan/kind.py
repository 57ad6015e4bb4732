# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling checkpoints, which are kept as a whole, from other snapshots.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Container

from .._model.problem import Conflict
from .._model.snapshot import CHECKPOINT, Snapshot
from .._model.state import VmState


def check_kind(vm: VmState, found: Snapshot, kind: str) -> None:
    """Raise Conflict where a task for one kind names the other."""
    if found.kind != kind:
        is_one = found.kind == CHECKPOINT
        raise Conflict(
            f"{found.name} of VM {vm.name} is a {'checkpoint' if is_one else 'snapshot'}",
            wanted=f"a {kind or 'snapshot'}",
            todo=f"use {'vm_checkpoint' if is_one else 'vm_snapshot'} for it, or another name",
        )


def check_checkpoints(vm: VmState, leaving: Container[str]) -> None:
    """Raise Conflict where an overlay of a checkpoint is to leave its chain."""
    for found in vm.snapshots:
        lost = sorted(path for path in found.overlays.values() if path in leaving)
        if lost and found.kind == CHECKPOINT:
            raise Conflict(
                f"checkpoint {found.name} of VM {vm.name} needs {', '.join(lost)}",
                wanted="to take it out of the chain, which would destroy that checkpoint",
                todo=f"remove the checkpoint first (vm_checkpoint with name {found.name} and state"
                " absent), or choose other images",
            )
