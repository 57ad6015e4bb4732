# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM that is backed up goes back and is killed on the way: no restore point is wrong after that.

Whether the same task is run again, or the next night comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from backup_story import Repository, checkpoints, disks_of, paused
from kill_fixtures import Chooser
from kill_trials import Killer, Task, moments
from lab import VM, Disk
from story import Modules, plain

METADATA = libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
KILLS = 3
# The VM is off there, and nothing has gone back yet.
TURN = "before libvirt revertToSnapshot"


class Scene:
    """A VM with a snapshot, a restore point that is newer, and something newer than that."""

    def __init__(self, vm: VM, modules: Modules, repository: Repository, mode: str) -> None:
        self.vm = vm
        self.modules = modules
        self.repository = repository
        self.lost = mode == "internal"
        self.back = {"name": "then", "state": "reverted"}
        modules.run("vm_snapshot", vm, name="then", mode=mode)

    def prepare(self) -> Task:
        """``lost``: libvirt has no record of the bitmap, so only a VM that is off lets it go."""
        self.up()
        self.night()
        if self.lost:
            for found in self.vm.domain.listAllCheckpoints():
                found.delete(METADATA)
            self.vm.shutdown()
            self.up()
        self.vm.write("/mnt/vda/now", b"now" * 5000)
        self.vm.run("sync")
        return Task("vm_snapshot", (self.vm,), self.back)

    def up(self) -> None:
        """As a VM that somebody uses."""
        if not self.vm.active():
            self.vm.start()
        self.vm.disconnect()
        self.vm.wait_ready()

    def night(self) -> str:
        """A restore point, which holds what the disks hold; of which type it is."""
        with paused(self.vm):
            point = self.repository.back_up(self.vm, quiesce="never")
            assert self.repository.content(self.vm, point["id"]) == disks_of(self.vm)
        return str(point["type"])

    def goes_back(self) -> None:
        """As foreseen, also after a run that died; and the restore points go on."""
        foreseen = self.modules.run("vm_snapshot", self.vm, check=True, **self.back)
        real = self.modules.run("vm_snapshot", self.vm, **self.back)
        assert plain(real["plan"]) == plain(foreseen["plan"])
        self.up()
        assert checkpoints(self.vm) == [] and self.vm.run("ls /mnt/vda/now || true") == ""

    def night_comes_first(self) -> None:
        """It finds a VM that runs, where it was or where it was to go, and is not wrong."""
        self.repository.later()
        params = self.repository.params(quiesce="never")
        self.modules.run("vm_backup", self.vm, **params)
        assert self.vm.active(), "nothing but the way back had switched it off"
        self.up()
        with paused(self.vm):
            self.repository.later()
            result = self.modules.run("vm_backup", self.vm, **self.repository.params())
            id = result["vms"][self.vm.name]["restore_point"]["id"]
            assert self.repository.content(self.vm, id) == disks_of(self.vm)


@pytest.mark.kills
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "mode", [pytest.param("external", marks=pytest.mark.kills_all), "internal"]
)
def test_killed_on_the_way_back(
    make_vm: Callable[..., VM], modules: Modules, tmp_path: Path, some: Chooser, mode: str
) -> None:
    vm = make_vm("db01", disks=[Disk()])
    scene = Scene(vm, modules, Repository(tmp_path / "backup", modules), mode)
    killer = Killer(modules, tmp_path)
    task = scene.prepare()
    steps = [step["step"] for step in killer.run(task)["plan"]]
    assert "give_up_checkpoints" in steps and ("stop_vm" in steps)
    scene.up()
    assert scene.night() == "full"
    settings = moments(killer.points())
    turns = [setting for setting in settings if TURN in str(setting["kill"])]
    others = [setting for setting in settings if setting not in turns]
    for number, setting in enumerate([*turns, *some(others, KILLS)]):
        print(mode, setting, flush=True)
        task = scene.prepare()
        killer.start(task, **setting).wait()
        if number % 2 == 0:
            scene.night_comes_first()
        scene.goes_back()
        assert scene.night() == "full" and scene.night() == "incremental"
        assert not killer.journals()
