# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL while an internal snapshot is deleted from images below others, or beside them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from kill_stage import Stage, Template
from kill_trials import Task, moments
from test_kill_points import kill_everywhere
from test_snapshot_absent import take


@dataclass(frozen=True)
class Below:
    """A VM that is off, with an internal snapshot in the images that s2 goes back to."""

    name: str
    template: Template

    def prepare(self, _stage: Stage) -> Task:
        self.template.restore()
        return Task("vm_snapshot", (self.template.vm,), {"name": "inside", "state": "absent"})


@pytest.mark.kills
def test_deleted_while_off(stage, killer, make_vm, tmp_path, some) -> None:
    vm = make_vm("off04", disks=2, running=False)
    take(killer.modules, vm, "s1")
    killer.modules.run("vm_snapshot", vm, name="inside", mode="internal")
    killer.modules.run("vm_snapshot", vm, name="s2")
    scene = Below("off-internal-below", Template(vm, tmp_path / "store"))
    kill_everywhere(stage, killer, scene, lambda points: some(moments(points), 4))
    assert killer.modules.whole(vm) == {"s1", "s2"}


@pytest.mark.kills
def test_deleted_beside(stage, killer, make_vm, tmp_path, some) -> None:
    """Of vdb libvirt deletes it from the present image, and of vda qemu-img from one beside."""
    vm = make_vm("off05", disks=2, running=False)
    killer.modules.run("vm_snapshot", vm, name="s1", disks=["vda"])
    killer.modules.run("vm_snapshot", vm, name="inside", mode="internal")
    killer.modules.run("vm_snapshot", vm, name="s2", disks=["vda"])
    killer.modules.run("vm_snapshot", vm, name="s1", state="reverted")
    scene = Below("off-internal-beside", Template(vm, tmp_path / "store"))
    kill_everywhere(stage, killer, scene, lambda points: some(moments(points), 4))
    assert killer.modules.whole(vm) == {"s1", "s2"}
