# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots as options of a task.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._argspec import flush_seconds
from ._flow.outcome import PlanFor
from ._host.save_file import look_for_rest
from ._model.names import check_description, check_directory, check_snapshot_name
from ._model.problem import BadInput
from ._model.state import VmState
from ._operation import Operation
from ._plan.absent import AbsentWish, plan_absent
from ._plan.revert import RevertWish, plan_reverted, unreverted
from ._plan.snapshot import SnapshotWish, plan_present
from ._plan.way_back import with_way_back
from ._snapshot_info import snapshot_result


def snapshot_operation(params: Mapping[str, Any]) -> Operation:
    """What the module vm_snapshot is to do. Raises BadInput."""
    # One that we give is looked at where it is known that it is new.
    name = params["name"] or check_snapshot_name("")
    present = params["state"] == "present"
    if params["state"] == "reverted":
        return _reverted(name, params)
    return Operation(
        plan=_present(name, params) if present else _absent(name, params),
        result=lambda _before, after, report: _result(name, after, report),
        group=present and params["consistent_group"],
    )


def _present(name: str, params: Mapping[str, Any]) -> PlanFor:
    _refuse(params, "state: present", ("subtree", "metadata_only", "keep_current", "run_after"))
    wish = _wish(name, params)
    if not params["prove_way_back"]:
        return lambda vm: plan_present(wish, vm)
    return lambda vm: with_way_back(plan_present(wish, vm), vm, RevertWish(name))


def _absent(name: str, params: Mapping[str, Any]) -> PlanFor:
    useless = ("memory", "disks", "directory", "description", "keep_current", "run_after")
    _refuse(params, "state: absent", (*useless, "prove_way_back"))
    wish = AbsentWish(name, subtree=params["subtree"], metadata_only=params["metadata_only"])
    return lambda vm: plan_absent(wish, vm)


def _reverted(name: str, params: Mapping[str, Any]) -> Operation:
    useless = ("disks", "subtree", "metadata_only", "consistent_group", "prove_way_back")
    _refuse(params, "state: reverted", useless)
    keep = params["keep_current"]
    if not keep:
        _refuse(params, "state: reverted without keep_current", ("memory", "description"))
    if keep == name:
        raise BadInput(
            f"the present state is to be kept as snapshot {keep}, which is to be gone back to",
            wanted="a new name in 'keep_current'",
            todo="choose another name",
        )
    wish = RevertWish(
        name,
        keep=_wish(check_snapshot_name(keep), params) if keep else None,
        run_after=params["run_after"] or "unchanged",
        directory=_directory(params),
    )

    def result(_before: VmState, after: VmState, report: Mapping[str, Any]) -> dict[str, Any]:
        return {**_result(name, after, report), "state": after.status}

    return Operation(
        lambda vm: plan_reverted(wish, vm),
        result,
        proof=lambda vm: unreverted(wish, vm),
        also=look_for_rest,
    )


def _refuse(params: Mapping[str, Any], where: str, options: Sequence[str]) -> None:
    useless = [option for option in options if params[option]]
    if useless:
        raise BadInput(
            f"the options {', '.join(useless)} mean nothing with {where}",
            wanted="a task that says what it does",
            todo="remove them",
        )


def _wish(name: str, params: Mapping[str, Any]) -> SnapshotWish:
    entries = [_disk_entry(entry) for entry in params["disks"] or ()]
    _check_files([entry for entry in entries if entry[1]], len(set(params["vm"])))
    return SnapshotWish(
        name=name,
        mode=params["mode"],
        memory=params["memory"],
        disks=tuple(dict.fromkeys(target for target, _file in entries)),
        files=tuple((target, file) for target, file in entries if file),
        directory=_directory(params),
        description=_described(params["description"]),
        quiesce=params["quiesce"],
        freeze_timeout=params["freeze_timeout"],
        flush_timeout=flush_seconds(params),
        group=params["consistent_group"] and len(set(params["vm"])) > 1,
    )


def _directory(params: Mapping[str, Any]) -> str:
    return check_directory(params["directory"])


def _described(text: str | None) -> str | None:
    return None if text is None else check_description(text)


def _check_files(named: Sequence[tuple[str, str]], vms: int) -> None:
    """A disk has one overlay, and VMs have each their own."""
    wanted, todo = "one overlay for each disk", "correct the entries of the option 'disks'"
    for target, file in named:
        others = [other for found, other in named if found == target and other != file]
        if others:
            raise BadInput(
                f"disk {target} is to have {file} and {others[0]} as overlay",
                wanted=wanted,
                todo=todo,
            )
    if named and vms > 1:
        target, file = named[0]
        raise BadInput(
            f"disk {target} of each of {vms} VMs is to have {file} as overlay",
            wanted=wanted,
            todo="leave out 'file' (the option 'directory' says where), or name one VM in a task",
        )


def _disk_entry(entry: object) -> tuple[str, str]:
    """A disk of the option 'disks': a target, or a dictionary of target and file."""
    if isinstance(entry, str) and entry:
        return entry, ""
    if isinstance(entry, dict) and entry.get("target") and set(entry) <= {"target", "file"}:
        return str(entry["target"]), str(entry.get("file") or "")
    raise BadInput(
        f"the entry {entry!r} of the option 'disks' is not understood",
        wanted="a target such as vda, or a dictionary with 'target' and 'file'",
        todo="correct it",
    )


def _result(name: str, vm: VmState, report: Mapping[str, Any]) -> dict[str, Any]:
    found = vm.snapshot(name)
    return {"snapshot": snapshot_result(found) if found else None, **report}
