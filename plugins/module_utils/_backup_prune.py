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
from ._model.backup import in_utc
from ._model.problem import BadInput
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
    return RepositoryOperation(partial(prune, rules, in_utc(now_of(params))))
