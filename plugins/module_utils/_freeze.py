# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezes that outlive the task as options and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._argspec import flush_seconds
from ._flow.freezing import freeze_all, thaw_all
from ._host.hold import look_at_guest
from ._model.freeze import FROZEN
from ._model.problem import BadInput
from ._model.state import VmState
from ._operation import Operation
from ._plan.freeze import FreezeWish, plan_freeze


def freeze_operation(params: Mapping[str, Any]) -> Operation:
    """What the module vm_freeze is to do. Raises BadInput."""
    frozen = params["state"] == "frozen"
    _check(params, frozen=frozen)
    points = tuple(dict.fromkeys(params["mountpoints"] or ()))
    wish = FreezeWish(frozen, params["deadline"], points, flush_seconds(params))
    return Operation(
        lambda vm: plan_freeze(wish, vm),
        lambda _before, after, _report: _result(after),
        also=look_at_guest,
        change=freeze_all if frozen else thaw_all,
    )


def _check(params: Mapping[str, Any], *, frozen: bool) -> None:
    if params["deadline"] < 1:
        raise BadInput(
            f"deadline is {params['deadline']}", wanted="seconds, at least 1", todo="correct it"
        )
    if params["mountpoints"] and not frozen:
        raise BadInput(
            "the option mountpoints means nothing with state: thawed",
            wanted="a task that says what it does: an agent thaws all or nothing",
            todo="remove it",
        )
    if params["mountpoints"] == []:
        raise BadInput(
            "the option 'mountpoints' is an empty list",
            wanted="mount points, or all of them",
            todo="name some, or leave the option out",
        )


def _result(vm: VmState) -> dict[str, Any]:
    frozen = vm.guest is not None and vm.guest.status == FROZEN
    record = vm.freeze if frozen else None
    known = record if record and record.until else None
    return {
        "frozen": frozen,
        "mountpoints": list(record.mountpoints) if record else [],
        "thaws_at": known.until if known else None,
        **({"flush_ms": known.flush_ms if known else None} if frozen else {}),
    }
