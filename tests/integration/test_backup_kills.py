# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL in the middle of a backup: every restore point with a manifest is exact, always.

The points to be killed at are not listed here: a run without a kill tells which it passes. The
second disk has no file system, so that it holds exactly what the test wrote, whatever the guest
does with its caches.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from backup_story import Repository, checkpoints, disks_of, paused
from kill_fixtures import Chooser
from kill_trials import THAWED_WITHIN, Killer, Task, moments, thawed
from lab import VM, Disk
from lab.modules import ModuleCrashed
from lab.vm import wait_until
from story import Modules

RANDOM_SAMPLE, RANDOM_ALL = 3, 60


@dataclass
class Trials:
    """A VM, its repository, and what each restore point has to hold."""

    vm: VM
    repository: Repository
    killer: Killer
    contents: dict[str, dict[str, str]] = field(default_factory=dict)
    number: int = 0

    def task(self) -> Task:
        """A backup of what was just written to the second disk."""
        self.number += 1
        if self.vm.active():
            seek = f"seek={self.number % 200}"
            self.vm.run(
                f"yes {self.number} | head -c 65536 | dd of=/dev/vdb bs=64k {seek} conv=fsync"
            )
        self.repository.later()
        params = self.repository.params(max_increments=100)
        return Task("vm_backup", (self.vm,), params)

    def killed(self, **settings: Any) -> bool:
        """One kill, and all that has to hold after it; False where the run was over before."""
        run = self.killer.start(self.task(), **settings)
        try:
            run.result()
            died = False
        except ModuleCrashed:
            died = True
        self.hold(died)
        return died

    def hold(self, died: bool) -> None:
        if died and self.vm.active():
            thawed(self.vm, time.monotonic() + THAWED_WITHIN)
        self.exact()
        self.goes_on()

    def exact(self) -> None:
        """What has a manifest is right; a point that the killed run finished is new."""
        known = self.repository.ids(self.vm)
        assert set(self.contents) <= set(known), "a restore point is gone"
        for id in known:
            self.repository.check(self.vm, id)
        with self._still():
            now = disks_of(self.vm)["vdb"]
        for id in set(known) - set(self.contents):
            assert self.repository.content(self.vm, id)["vdb"] == now
            self.contents[id] = self.repository.content(self.vm, id)
        for id in known[-2:]:
            assert self.repository.content(self.vm, id) == self.contents[id]

    def goes_on(self) -> None:
        """The next run does what is to be done, and leaves nothing behind."""
        with self._still():
            point = self.repository.back_up(self.vm, quiesce="never", max_increments=100)
            self.contents[point["id"]] = disks_of(self.vm)
        self.repository.check(self.vm, point["id"])
        assert self.repository.content(self.vm, point["id"]) == self.contents[point["id"]]
        folders = {path.name for path in self.repository.folder(self.vm).iterdir() if path.is_dir()}
        assert folders == set(self.repository.ids(self.vm)), "debris is left"
        assert not list(self.repository.folder(self.vm).glob("*/*.new"))
        assert len(checkpoints(self.vm)) == (1 if self.vm.active() else 0)
        young = self.repository.modules.run(
            "vm_backup", self.vm, **self.repository.params(max_age="1h")
        )
        assert not young["changed"], young["plan"]

    def _still(self):
        return paused(self.vm)


@pytest.fixture
def trials(make_vm: Callable[..., VM], modules: Modules, tmp_path: Path) -> Trials:
    vm = make_vm("db01", disks=[Disk(size=16), Disk(size=16, content="blank")])
    repository = Repository(tmp_path / "backup", modules)
    return Trials(vm, repository, Killer(modules, tmp_path))


def states(trials: Trials) -> list[dict[str, Any]]:
    """One kill for each state that the world passes through in a backup, an increment."""
    trials.goes_on()
    result = trials.killer.run(trials.task())
    assert not result["failed"], result["msg"]
    chosen = moments(trials.killer.points())
    trials.exact()
    assert len(chosen) > 12, "the harness sees what a backup does"
    # What a file or a folder is called after the time is another one in the next run.
    id = result["vms"]["db01"]["restore_point"]["id"]
    return [setting for setting in chosen if id not in setting["kill"]]


def killed_at(trials: Trials, settings: list[dict[str, Any]]) -> None:
    for setting in settings:
        # Progress is told as time goes by: a quick run may end before it has anything to tell.
        by_time = "progress.json" in setting["kill"]
        assert trials.killed(**setting) or by_time, f"{setting} is not reached any more"


@pytest.mark.kills
def test_killed_in_each_state_of_the_world(trials: Trials, some: Chooser) -> None:
    killed_at(trials, some(states(trials)))


def at_random(trials: Trials, count: int) -> int:
    """Kills at random times, of runs and of the recovery; how many hit a run at work."""
    chance, hits = random.Random(11), 0
    trials.goes_on()
    for _number in range(count):
        run = trials.killer.start(trials.task())
        wait_until(lambda: bool(trials.killer.log.exists() and trials.killer.points()), 60, "begun")
        time.sleep(chance.uniform(0, 0.6))
        died = run.poll() is None
        run.kill()
        hits += died
        trials.hold(died)
    return hits


def test_a_sample_at_random(trials: Trials) -> None:
    at_random(trials, RANDOM_SAMPLE)


@pytest.mark.kills_all
def test_at_random(trials: Trials) -> None:
    assert at_random(trials, RANDOM_ALL) > RANDOM_ALL / 2
