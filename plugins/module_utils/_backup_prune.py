# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What restore points are kept, as options of a task: what C(vm_backup_prune) does.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ._flow.prune import prune
from ._model.backup import in_utc, is_id, moment
from ._model.problem import BadInput
from ._model.reference import shown
from ._plan.foreseen import Foreseen
from ._plan.retention import RULES, Retention
from ._repository import check_ids, now_of
from ._repository_operation import RepositoryOperation


def prune_operation(params: Mapping[str, Any]) -> RepositoryOperation:
    """What the module vm_backup_prune is to do. Raises BadInput."""
    counts = {rule: params[f"keep_{rule}"] for rule in RULES}
    for rule, count in counts.items():
        if count < 0:
            raise BadInput(
                f"keep_{rule} is {count}", wanted="a number, at least 0", todo="correct it"
            )
    if not any(counts.values()):
        raise BadInput(
            "no option says which restore points are kept",
            wanted="at least one of " + ", ".join(f"keep_{rule}" for rule in RULES),
            todo="set it to more than 0",
        )
    check_ids("protect", params["protect"])
    rules = Retention(**counts, protect=frozenset(params["protect"]), merge=params["merge"])
    foreseen = {vm: _foreseen(vm, told) for vm, told in (params["foreseen"] or {}).items()}
    known = {vm: expected for vm, expected in foreseen.items() if expected}
    return RepositoryOperation(partial(prune, rules, in_utc(now_of(params)), known), known)


def _foreseen(vm: str, told: Any) -> Foreseen | None:
    """What vm_backup tells of a VM; None where that is no restore point. Raises BadInput."""
    if not isinstance(told, Mapping):
        raise _not_told(vm, told)
    point = told.get("restore_point")
    if point is None:
        return None
    if not isinstance(point, Mapping):
        raise _not_told(vm, point)
    id, time, parent = (str(point.get(key) or "") for key in ("id", "time", "parent"))
    if not is_id(id) or moment(time) is None or (parent and not is_id(parent)):
        raise _not_told(vm, point)
    return Foreseen(id, time, parent, verified=point.get("verified") is True)


def _not_told(vm: str, found: object) -> BadInput:
    return BadInput(
        f"the option 'foreseen' says of VM {shown(vm)}: {shown(str(found))}",
        wanted="a dictionary whose restore_point has an id, a time, and a parent or none",
        todo="give it what vm_backup returns as 'vms'",
    )
