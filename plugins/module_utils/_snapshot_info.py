# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots and checkpoints as modules return them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._look_operation import LookOperation
from ._model.image_result import to_result as image_to_result
from ._model.snapshot import CHECKPOINT, Snapshot
from ._model.state import VmState
from ._model.tree import tree_text
from ._plan.agree import disagreements
from ._plan.damage import damages


def snapshot_result(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as modules return it."""
    return {
        "name": snapshot.name,
        "mode": snapshot.mode,
        "memory": snapshot.memory != "no",
        "memory_file": snapshot.memory_file or None,
        "consistency": snapshot.consistency,
        "description": snapshot.description,
        "disks": {
            disk.target: {
                "file": disk.file or None,
                "image": snapshot.image_before(disk.target) or None,
            }
            for disk in snapshot.taken
        },
    }


def snapshot_info(params: Mapping[str, Any]) -> LookOperation:
    """What the module vm_snapshot_info is to show."""
    wanted = params["name"]
    return LookOperation(lambda vm: _snapshots(vm, wanted))


def checkpoint_info(params: Mapping[str, Any]) -> LookOperation:
    """What the module vm_checkpoint_info is to show."""
    wanted = params["name"]
    return LookOperation(lambda vm: _checkpoints(vm, wanted))


def _snapshots(vm: VmState, wanted: str | None) -> dict[str, Any]:
    return {
        "state": vm.status,
        "snapshots": _entries(vm, vm.snapshots, wanted),
        "tree": tree_text(vm.snapshots),
        "disks": {
            disk.target: {
                "source": str(disk.disk.source) if disk.disk.source else None,
                "persistent": disk.persistent or None,
                "chain": [image_to_result(image) for image in disk.chain],
            }
            for disk in vm.disks
        },
        "disagreements": disagreements(vm),
    }


def _checkpoints(vm: VmState, wanted: str | None) -> dict[str, Any]:
    checkpoints = [snapshot for snapshot in vm.snapshots if snapshot.kind == CHECKPOINT]
    return {"state": vm.status, "checkpoints": _entries(vm, checkpoints, wanted)}


def _entries(vm: VmState, shown: Sequence[Snapshot], wanted: str | None) -> list[dict[str, Any]]:
    return [_entry(each, vm) for each in shown if wanted in (None, each.name)]


def _entry(snapshot: Snapshot, vm: VmState) -> dict[str, Any]:
    """A snapshot among all of a VM, as the info modules return it."""
    return {
        **snapshot_result(snapshot),
        "parent": snapshot.parent or None,
        "children": [child.name for child in vm.snapshots if child.parent == snapshot.name],
        "current": snapshot.current,
        "created": snapshot.created,
        "state": snapshot.state,
        "problems": list(damages(vm, snapshot)),
    }
