# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points as they are returned: what C(vm_backup_info) does.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ._flow.stock_look import Look, look
from ._model.problem import BadInput
from ._repository import check_ids, now_of
from ._repository_operation import RepositoryOperation


def info_operation(params: Mapping[str, Any]) -> RepositoryOperation:
    """What the module vm_backup_info is to do. Raises BadInput."""
    points = params["verify_points"]
    if points is not None:
        check_ids("verify_points", points)
    if params["parallel"] < 1:
        raise BadInput(
            f"parallel is {params['parallel']}", wanted="at least 1 file", todo="correct it"
        )
    how = Look(
        now=now_of(params),
        verify=params["verify"] or points is not None,
        points=None if points is None else tuple(points),
        parallel=params["parallel"],
    )
    return RepositoryOperation(partial(look, how))
