# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block pulls as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._commit import absolute, chains_result, check_limits
from ._operation import Operation
from ._plan.pull import PullWish, plan_pull


def pull_operation(params: Mapping[str, Any]) -> Operation:
    """What the module vm_blockpull is to do. Raises BadInput."""
    check_limits(params, "base")
    wish = PullWish(
        disks=tuple(dict.fromkeys(params["disks"] or ())),
        base=absolute("base", params["base"]),
        max_depth=params["max_depth"],
        delete_merged=params["delete_merged"],
        bandwidth=params["bandwidth"],
    )
    return Operation(
        lambda vm: plan_pull(wish, vm),
        lambda before, after, _report: chains_result(wish.disks, before, after),
    )
