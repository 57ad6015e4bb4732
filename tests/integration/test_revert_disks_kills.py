# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL on the way back to other disks: undone or finished, and no image goes or is changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from kill_stage import Stage, Template
from kill_trials import Task, difference, moments, portrait
from lab import VM
from story import Modules, folder, sources
from test_kill_points import kill_everywhere
from test_revert_disks import attach, detach, exchange, holds, image


@dataclass(frozen=True)
class Exchanged:
    """A VM that is off, one of whose disks came, one went and one was exchanged since s1."""

    name: str
    template: Template

    def prepare(self, _stage: Stage) -> Task:
        self.template.restore()
        return Task("vm_snapshot", (self.template.vm,), {"name": "s1", "state": "reverted"})


def exchanged(vm: VM, modules: Modules, how: dict, store: Path) -> Exchanged:
    if how:
        vm.start()
    modules.run("vm_snapshot", vm, name="s1", **how)
    vm.destroy()
    detach(vm, "vdb")
    exchange(vm, "vdc", image(vm, "other", "o"))
    attach(vm, image(vm, "came", "c"), "vdd")
    return Exchanged("off-disks", Template(vm, store))


def whole(vm: VM) -> None:
    """It has the disks of then, and the others have kept what they hold."""
    assert set(sources(vm)) == {"vda", "vdb", "vdc"}
    for name in ("came", "other"):
        assert holds(str(folder(vm) / f"{name}.qcow2"), name[0]), name


@pytest.mark.kills
def test_while_off(stage, killer, make_vm, tmp_path, some) -> None:
    vm = make_vm("off02", disks=3, running=False)
    scene = exchanged(vm, killer.modules, {}, tmp_path / "store")
    kill_everywhere(stage, killer, scene, lambda points: some(moments(points), 5))
    whole(vm)


@pytest.mark.kills_all
@pytest.mark.parametrize(
    "how", [{"memory": True}, {"mode": "internal"}], ids=["memory", "internal"]
)
def test_with_memory(stage, killer, make_vm, tmp_path, how: dict) -> None:
    """It runs afterwards, so that each further task would bring it back once more."""
    vm = make_vm("off03", disks=3, running=False)
    scene = exchanged(vm, killer.modules, how, tmp_path / "store")
    assert not killer.run(scene.prepare(stage))["failed"]
    wanted = portrait(killer.modules, (vm,))
    for setting in moments(killer.points()):
        task = scene.prepare(stage)
        killer.start(task, **setting).wait()
        was_over = vm.active() and not killer.left()
        result = killer.plain(task)
        assert not result["failed"], (setting, result["msg"])
        unlike = difference(portrait(killer.modules, (vm,)), wanted)
        assert was_over or not unlike, (setting, unlike)
        assert vm.active() and not killer.journals(), setting
        vm.disconnect()
        vm.wait_ready()
        whole(vm)
