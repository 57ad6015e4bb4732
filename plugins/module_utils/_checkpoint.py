# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints (disks and memory of a VM) as options of a task.

A checkpoint is an external snapshot with memory, which other tasks leave whole.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._flow.outcome import PlanFor
from ._host.save_file import look_for_rest
from ._model.names import check_description, check_directory, check_snapshot_name
from ._model.problem import BadInput
from ._model.snapshot import CHECKPOINT
from ._model.state import VmState
from ._model.step import Plan
from ._operation import Operation
from ._plan.absent import AbsentWish, plan_absent
from ._plan.revert import RevertWish, plan_reverted, unreverted
from ._plan.snapshot import SnapshotWish, plan_present
from ._plan.way_back import with_way_back
from ._snapshot_info import snapshot_result


def checkpoint_operation(params: Mapping[str, Any]) -> Operation:
    """What the module vm_checkpoint is to do. Raises BadInput."""
    name = params["name"] or check_snapshot_name("")
    _refuse_useless(params)

    def result(_before: VmState, after: VmState, _report: Mapping[str, Any]) -> dict[str, Any]:
        found = after.snapshot(name)
        return {"checkpoint": snapshot_result(found) if found else None, "state": after.status}

    together = params["consistent_group"] and len(set(params["vm"])) > 1
    if params["state"] == "absent":
        gone = AbsentWish(name, kind=CHECKPOINT)
        return Operation(lambda vm: plan_absent(gone, vm), result)
    if params["state"] == "restored":
        run_after = params["run_after"] or "unchanged"
        back = RevertWish(name, run_after=run_after, group=together, kind=CHECKPOINT)
        return Operation(
            lambda vm: plan_reverted(back, vm),
            result,
            group=together,
            proof=lambda vm: unreverted(back, vm),
            also=look_for_rest,
        )
    wish = SnapshotWish(
        name,
        mode="external",
        memory=True,
        directory=check_directory(params["directory"]),
        description=_described(params["description"]),
        quiesce="never",
        live=params["live"],
        group=together,
        kind=CHECKPOINT,
    )
    return Operation(_present(wish, params["prove_way_back"]), result, group=together)


def _present(wish: SnapshotWish, prove: bool) -> PlanFor:
    way = RevertWish(wish.name, group=wish.group, kind=CHECKPOINT)

    def plan_for(vm: VmState) -> Plan:
        plan = plan_present(wish, vm)
        return with_way_back(plan, vm, way) if prove else plan

    return plan_for


def _refuse_useless(params: Mapping[str, Any]) -> None:
    for option, state in (("run_after", "restored"), ("prove_way_back", "present")):
        if params[option] and params["state"] != state:
            raise BadInput(
                f"the option {option} means nothing with state: {params['state']}",
                wanted="a task that says what it does",
                todo="remove it",
            )


def _described(text: str | None) -> str | None:
    return None if text is None else check_description(text)
