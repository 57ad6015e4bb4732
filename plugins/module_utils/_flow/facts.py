# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts that a plan is held against.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._host.agent_rpcs import agent_state
from .._host.backup_bitmaps import in_qemu
from .._host.backup_room import backup_rooms, held_by, left_to_guests
from .._host.clone import clone_trouble
from .._host.connection import call
from .._host.facts import (
    backup_checkpoints,
    block_jobs,
    directory_fact,
    dwellers,
    file_fact,
    image_uses,
    images_inactive,
    memory_held,
    memory_used,
    memory_written,
    on_read_only,
    takes_inside_flash,
)
from .._host.observe import Host
from .._host.quiesce import mount_points
from .._host.repository import stocked
from .._host.save_file import saved_elsewhere
from .._model.problem import Problem, Unreachable
from .._model.state import Facts, VmState
from .._model.step import Plan
from .._plan.barred import touches_disks
from .._plan.predict import predict
from .._plan.vet import needs, settle
from .._plan.way_back import no_way_back
from .._plan.written import merged_images

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain


def gather(host: Host, dom: Domain, vm: VmState, plan: Plan) -> Facts:
    """The facts for a plan; nothing is looked up for an empty one."""
    if not plan.steps:
        return Facts({}, {})
    wanted = needs(plan, vm)
    status, blocked = agent_state(dom) if wanted.agent else ("", ())
    return Facts(
        files={path: file_fact(path) for path in wanted.files},
        directories={path: directory_fact(path) for path in wanted.directories},
        uses=image_uses(host, vm, wanted.images, wanted.removed),
        jobs=block_jobs(dom, vm, wanted.targets),
        managed_save=vm.off and bool(call(f"VM {vm.name}", dom.hasManagedSaveImage, 0)),
        saved_to=saved_elsewhere(host, vm) if vm.off and touches_disks(plan) else "",
        read_only=tuple(path for path in wanted.written if on_read_only(path)),
        stocked=stocked(merged_images(plan)),
        held=memory_held(dom) if wanted.kept else (),
        agent=status,
        blocked=blocked,
        points=mount_points(dom, wanted.part) if wanted.part and status == "thawed" else None,
        memory=memory_used(dom) if wanted.memory else 0,
        clones={path: clone_trouble(path) for path in wanted.clones},
        dwellers=dwellers(host, vm, wanted.subvolumes),
        backups=backup_checkpoints(dom) if wanted.backups else (),
        bitmaps=tuple((held.image, held.name) for held in in_qemu(dom) if held.lasting)
        if wanted.bitmaps
        else (),
        rooms=backup_rooms(dom, vm, wanted.backup) if wanted.backup else {},
        left=left_to_guests(vm, wanted.backup.repository) if wanted.backup else 0,
        debris=held_by(wanted.debris) if wanted.backup else 0,
        flash=wanted.flash and takes_inside_flash(host, vm),
        memory_written=wanted.still and memory_written(dom),
        inactive=wanted.still and images_inactive(dom),
    )


def prove_way_back(host: Host, dom: Domain, vm: VmState, plan: Plan) -> None:
    """Hold the plan of the way back against the facts; raises Problem if that could not go."""
    if plan.back is None:
        return
    there = predict(vm, plan)
    try:
        settle(plan.back, there, gather(host, dom, there, plan.back))
    except Unreachable:
        raise
    except Problem as problem:
        raise no_way_back(vm, problem) from problem


def settled(host: Host, dom: Domain, vm: VmState, plan: Plan) -> Plan:
    """The plan held against the facts; raises Problem if it cannot go."""
    prove_way_back(host, dom, vm, plan)
    return settle(plan, vm, gather(host, dom, vm, plan))
