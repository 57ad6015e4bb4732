# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block pulls as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ._commit import absolute, chains_result, check_limits
from ._host.observe import with_stacks
from ._model.state import VmState
from ._operation import Operation
from ._plan.own import images_left
from ._plan.pull import PullWish, plan_pull

if TYPE_CHECKING:
    from ._host.libvirt_dep import Domain
    from ._host.observe import Host


def pull_operation(params: Mapping[str, Any]) -> Operation:
    """What the module vm_blockpull is to do. Raises BadInput."""
    check_limits(params, "base")
    wish = PullWish(
        disks=tuple(dict.fromkeys(params["disks"] or ())),
        base=absolute("base", params["base"]),
        max_depth=params["max_depth"] or 0,
        delete_merged=params["delete_merged"],
        bandwidth=params["bandwidth"],
    )
    return Operation(
        lambda vm: plan_pull(wish, vm),
        lambda before, after, _report: chains_result(wish.disks, before, after),
        also=partial(_look_below, wish),
    )


def _look_below(wish: PullWish, _host: Host, dom: Domain, vm: VmState) -> VmState:
    """The VM with what tells its own disk from a template, where that matters."""
    below = any(images_left(vm, disk) < len(disk.chain) for disk in vm.writable)
    return with_stacks(dom, vm) if wish.max_depth and below else vm
