# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage snapshots as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ._argspec import flush_seconds
from ._model.names import check_directory, check_snapshot_name
from ._model.problem import BadInput
from ._model.state import VmState
from ._model.storage import BTRFS, LVM, Copy
from ._operation import Operation
from ._plan.storage import StorageWish, plan_storage_absent, plan_storage_present
from ._plan.storage_revert import StorageRevertWish, plan_storage_reverted

_SIZE = re.compile(r"([1-9][0-9]{0,17})(%|[KMGT]?)\Z")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DEFAULT_PERCENT = 20
_MEANINGLESS = {
    "present": (),
    "absent": ("disks", "directory", "cow_size"),
    "reverted": ("directory", "cow_size"),
}


def storage_operation(params: Mapping[str, Any]) -> Operation:
    """What the module vm_storage_snapshot is to do. Raises BadInput."""
    name = params["name"] or check_snapshot_name("")
    state = params["state"]
    _refuse(params, state, _MEANINGLESS[state])
    disks = tuple(dict.fromkeys(params["disks"] or ()))
    wish = _wish(name, disks, params)
    back = StorageRevertWish(name, disks)
    plans = {
        "present": lambda vm: plan_storage_present(wish, vm),
        "absent": lambda vm: plan_storage_absent(name, vm),
        "reverted": lambda vm: plan_storage_reverted(back, vm),
    }
    return Operation(
        plan=plans[state],
        result=lambda _before, after, report: {**_result(name, after), **report},
        storage=True,
    )


def _refuse(params: Mapping[str, Any], state: str, options: Sequence[str]) -> None:
    useless = [option for option in options if params[option]]
    if useless:
        raise BadInput(
            f"the options {', '.join(useless)} mean nothing with state: {state}",
            wanted="a task that says what it does",
            todo="remove them",
        )


def _wish(name: str, disks: tuple[str, ...], params: Mapping[str, Any]) -> StorageWish:
    size, percent = _cow_size(params["cow_size"])
    return StorageWish(
        name=name,
        backend=params["backend"],
        disks=disks,
        directory=check_directory(params["directory"]),
        cow_bytes=size,
        cow_percent=percent,
        quiesce=params["quiesce"],
        freeze_timeout=params["freeze_timeout"],
        flush_timeout=flush_seconds(params),
    )


def _cow_size(text: str | None) -> tuple[int, int]:
    """(bytes, percent of the origin) of the option ``cow_size``; one of them counts."""
    if text is None:
        return 0, _DEFAULT_PERCENT
    match = _SIZE.match(text.strip())
    if match is None:
        raise BadInput(
            f"cow_size is {text!r}",
            wanted="a number with K, M, G or T, or with % of the size of the disk",
            todo="correct it, for example 10G or 20%",
        )
    number, unit = int(match.group(1)), match.group(2)
    return (0, number) if unit == "%" else (number * _UNITS[unit], 0)


def _result(name: str, vm: VmState) -> dict[str, Any]:
    found = vm.storage.snapshot(name)
    if found is None:
        return {"snapshot": None}
    return {
        "snapshot": {
            "name": found.name,
            "consistency": found.consistency or None,
            "created": found.created or None,
            "disks": {copy.target: _disk_result(vm, copy) for copy in found.copies},
            "problems": list(vm.storage.damages(found)),
        }
    }


def _disk_result(vm: VmState, copy: Copy) -> dict[str, Any]:
    volume = vm.storage.volume(copy.made) if copy.backend == LVM else None
    return {
        "backend": copy.backend,
        "image": copy.image,
        "file": copy.file,
        "volume": copy.made if copy.backend == LVM else None,
        "subvolume": copy.made if copy.backend == BTRFS else None,
        "thin": copy.thin if copy.backend == LVM else None,
        "used_percent": volume.used if volume and copy.is_merged else None,
        "stands_on": [path for path, _stamp in copy.below],
    }
