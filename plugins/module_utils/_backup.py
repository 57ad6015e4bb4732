# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ._argspec import flush_seconds
from ._flow.backing_up import backing_up
from ._host.backups import look_at_backups
from ._model.backup import RestorePoint
from ._model.problem import BadInput
from ._model.state import VmState
from ._operation import Operation
from ._plan.backup import BackupWish, left_to_do, plan_backup
from ._repository import now_of, repository_of

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MOST_PARALLEL = 64
# QEMU strings the relative names of a chain together, and no path may have more than 4095 bytes.
_MOST_INCREMENTS = 100
_DURATION = re.compile(r"(\d{1,9})([smhdw]?)\Z")


def backup_operation(params: Mapping[str, Any]) -> Operation:
    """What the module vm_backup is to do. Raises BadInput."""
    repository = repository_of(params)
    now = now_of(params)
    _within(params, "parallel", 1, _MOST_PARALLEL)
    _within(params, "max_increments", 0, _MOST_INCREMENTS)
    wish = BackupWish(
        type=params["type"],
        max_age=duration("max_age", params["max_age"]),
        max_increments=params["max_increments"],
        disks=tuple(dict.fromkeys(params["disks"] or ())),
        protected=params["protected"],
        quiesce=params["quiesce"],
        freeze_timeout=params["freeze_timeout"],
        flush_timeout=flush_seconds(params),
        without=tuple(dict.fromkeys(params["without"])),
    )
    return Operation(
        lambda vm: plan_backup(wish, vm),
        lambda _before, after, _report: _result(after),
        proof=left_to_do,
        also=look_at_backups(repository, now),
        change=backing_up(repository, now, params["parallel"]),
    )


def duration(option: str, text: str | None) -> int | None:
    """Seconds, from a number of them or one with a unit such as 12h. Raises BadInput."""
    if text is None:
        return None
    found = _DURATION.match(text)
    if not found:
        raise BadInput(
            f"{option} is {text!r}",
            wanted="a number of seconds, or one with s, m, h, d or w behind it, such as 24h",
            todo="correct it",
        )
    return int(found.group(1)) * _UNITS[found.group(2)]


def _within(params: Mapping[str, Any], option: str, least: int, most: int) -> None:
    if not least <= params[option] <= most:
        raise BadInput(
            f"{option} is {params[option]}", wanted=f"{least} to {most}", todo="correct it"
        )


def _result(vm: VmState) -> dict[str, Any]:
    stock = vm.backups.stock if vm.backups else None
    newest = stock.good[-1] if stock and stock.good else None
    if stock is None or newest is None:
        return {"restore_point": None}
    path = os.path.join(stock.directory, newest.id)
    depth = len(stock.lineage(newest))
    return {"restore_point": {**_shown(newest), "path": path, "depth": depth}}


def _shown(point: RestorePoint) -> dict[str, Any]:
    """A restore point as a result; what cannot be foreseen is None."""
    made = point.made
    return {
        "id": point.id,
        "type": point.type,
        "reason": point.reason,
        "parent": point.parent.id if point.parent else None,
        "time": point.time,
        "consistency": point.consistency if made else None,
        "bytes": point.bytes if made else None,
        "seconds": point.seconds if made else None,
        "frozen_ms": point.frozen_ms if made else None,
        "flush_ms": point.flush_ms if made else None,
        "disks": {disk.target: {"file": disk.file, "type": disk.type} for disk in point.disks},
        "left_out": dict(point.left_out),
        "protected": point.protected,
    }
