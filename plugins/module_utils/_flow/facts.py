# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts that a plan is held against.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._host.clone import clone_trouble
from .._host.connection import call
from .._host.facts import (
    backup_checkpoints,
    block_jobs,
    directory_fact,
    dwellers,
    file_fact,
    image_uses,
    memory_used,
)
from .._host.freeze import freeze_status
from .._host.observe import Host
from .._model.state import Facts, VmState
from .._model.step import Plan
from .._plan.vet import needs, settle

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain


def gather(host: Host, dom: Domain, vm: VmState, plan: Plan) -> Facts:
    """The facts for a plan; nothing is looked up for an empty one."""
    if not plan.steps:
        return Facts({}, {})
    wanted = needs(plan, vm)
    return Facts(
        files={path: file_fact(path) for path in wanted.files},
        directories={path: directory_fact(path) for path in wanted.directories},
        uses=image_uses(host, vm, wanted.images, wanted.removed),
        jobs=block_jobs(dom, vm, wanted.targets),
        managed_save=vm.off and bool(call(f"VM {vm.name}", dom.hasManagedSaveImage, 0)),
        agent=freeze_status(dom) if wanted.agent else "",
        memory=memory_used(dom) if wanted.memory else 0,
        clones={path: clone_trouble(path) for path in wanted.clones},
        dwellers=dwellers(host, vm, wanted.subvolumes),
        backups=backup_checkpoints(dom) if wanted.backups else (),
    )


def settled(host: Host, dom: Domain, vm: VmState, plan: Plan) -> Plan:
    """The plan held against the facts; raises Problem if it cannot go."""
    return settle(plan, vm, gather(host, dom, vm, plan))
