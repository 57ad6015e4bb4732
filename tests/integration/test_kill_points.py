# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL at named points of every operation, and what the next run makes of it.

The points are not listed here. Each operation runs once without a kill and tells the points that
it passes; then it is killed at each state that the world was in on the way. Steps that are added
to an operation are covered by that.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from kill_fixtures import Chooser
from kill_stage import LAYERS, Stage, contents
from kill_trials import (
    THAWED_WITHIN,
    Broken,
    Killer,
    Point,
    Task,
    difference,
    every_point,
    moments,
    must,
    portrait,
    thawed,
    trial,
)
from lab import VM
from lab.programs import LabError


@dataclass(frozen=True)
class Scene:
    """An operation and the state that it starts from: the snapshots of a running machine, oldest
    first; one that is off always has three."""

    name: str
    module: str
    params: dict
    snapshots: tuple[str, ...] = ()
    machines: tuple[str, ...] = ("db01",)
    off: bool = False

    def machine(self, stage: Stage, name: str) -> VM:
        return stage.off(name) if self.off else stage.running(name, *self.snapshots)

    def prepare(self, stage: Stage) -> Task:
        """The machines in that state, and what is to be done to them."""
        vms = tuple(self.machine(stage, name) for name in self.machines)
        return Task(self.module, vms, self.params)


def present(name: str, **params: object) -> Scene:
    return Scene(name, "vm_snapshot", {"name": "new", **params})


def absent(name: str, snapshot: str) -> Scene:
    return Scene(name, "vm_snapshot", {"name": snapshot, "state": "absent"}, LAYERS)


def reverted(name: str, snapshot: str, **params: object) -> Scene:
    return Scene(name, "vm_snapshot", {"name": snapshot, "state": "reverted", **params}, LAYERS)


def commit(name: str, **params: object) -> Scene:
    return Scene(name, "vm_blockcommit", dict(params), LAYERS)


def pull(name: str, **params: object) -> Scene:
    return Scene(name, "vm_blockpull", dict(params), LAYERS)


def off(scene: Scene) -> Scene:
    return replace(scene, name=f"off-{scene.name}", machines=("off01",), off=True)


RUNNING = [
    present("present", quiesce="required"),
    present("present-memory", memory=True),
    present("present-internal", mode="internal"),
    absent("absent-newest", "s3"),
    absent("absent-middle", "s2"),
    absent("absent-oldest", "s1"),
    replace(absent("absent-internal", "internal"), snapshots=("internal",)),
    replace(commit("commit-active"), snapshots=LAYERS[:2]),
    commit("commit-middle", max_depth=2),
    replace(pull("pull"), snapshots=LAYERS[:2]),
    pull("pull-down", max_depth=2),
]
OFF = [
    off(present("present")),
    off(absent("absent-newest", "s3")),
    off(absent("absent-middle", "s2")),
    off(absent("absent-oldest", "s1")),
    off(commit("commit-all")),
    off(commit("commit-middle", max_depth=2)),
    off(pull("pull")),
    off(pull("pull-down", max_depth=3)),
    off(reverted("reverted", "s1")),
    off(reverted("reverted-keeping", "s2", keep_current="kept")),
]
GROUP = replace(
    present("group", quiesce="required", consistent_group=True),
    machines=("db01", "app01"),
)
SCENES = [*OFF, *RUNNING, GROUP]
BY_NAME = {scene.name: scene for scene in SCENES}
# Different enough to pass through every kind of step; the others come with all kills.
USUAL = (
    "present", "commit-active", "pull-down", "off-absent-middle", "off-reverted-keeping", "group"
)  # fmt: skip


def kill_everywhere(
    stage: Stage, killer: Killer, scene: Scene, choose: Callable, first: str = ""
) -> None:
    """Run the scene, then kill it at each chosen point; all broken promises are told at once.

    With `first` each run is killed there, and the points are those of the run that follows.
    """
    task = scene.prepare(stage)
    wanted, settings = _unkilled(killer, task, choose)
    if first:
        task = scene.prepare(stage)
        killer.start(task, kill=first).wait()
        # libvirt may have finished what the dead run had asked for: then there is only to tell.
        settings = _unkilled(killer, task, choose, changes=False)[1]
    broken = []
    middle = 0
    for setting in settings:
        task = scene.prepare(stage)
        compare = partial(_as_wanted, killer, task, wanted)
        again = partial(_killed_again, killer, setting) if first else None
        try:
            found = trial(killer, task, compare, {"kill": first} if first else setting, again=again)
            middle += found.middle
            print(f"  {setting['kill']}: {'; '.join(found.notes) or '-'}")
        except (Broken, LabError) as problem:
            broken.append(f"{scene.name}, killed {setting['kill']}: {problem}")
            _clear(killer, task)
    print(f"{scene.name}: {len(settings)} kills, {middle} of them left a journal")
    assert not broken, f"{len(broken)} of {len(settings)}:\n" + "\n".join(broken)
    assert middle, "no kill left anything to bring in order"
    _after_a_power_cut(task)


def _unkilled(
    killer: Killer, task: Task, choose: Callable, *, changes: bool = True
) -> tuple[dict, list[dict]]:
    """What the task leaves without a kill, and where it can be killed."""
    result = killer.run(task)
    assert not result["failed"] and (result["changed"] or not changes), result
    return portrait(killer.modules, task.vms), choose(killer.points())


def _killed_again(killer: Killer, setting: dict, task: Task) -> dict:
    """The run that brings things in order is killed as well; the next one does it."""
    killer.start(task, **setting).wait()
    gone = time.monotonic()
    for vm in task.vms:
        if task.freezes and vm.active():
            thawed(vm, gone + THAWED_WITHIN)
    left = bool(killer.left())
    answer = killer.plain(task)
    # Where the second run got to the end of it, nothing is left to tell.
    notes = answer["notes"] if left else [*answer["notes"], "interrupted run: in order before"]
    return {**answer, "notes": notes}


def _as_wanted(killer: Killer, task: Task, wanted: dict) -> None:
    unlike = difference(portrait(killer.modules, task.vms), wanted)
    must(not unlike, "; ".join(unlike))


def _clear(killer: Killer, task: Task) -> None:
    """After a promise was broken: nothing of it may reach the next trial."""
    for path in killer.journals():
        path.unlink()
    for vm in task.vms:
        vm.destroy()


def _after_a_power_cut(task: Task) -> None:
    for vm in task.vms:
        vm.destroy()
        vm.start()
        assert task.gives_up or vm.lost_records() == []
        if task.vms[0].name.startswith("off"):
            vm.destroy()


@pytest.mark.kills
@pytest.mark.parametrize(
    "scene", [scene for scene in SCENES if scene.name in USUAL], ids=lambda scene: scene.name
)
def test_killed_in_each_state_of_the_world(
    stage: Stage, killer: Killer, scene: Scene, some: Chooser
) -> None:
    kill_everywhere(stage, killer, scene, lambda points: some(moments(points)))


@pytest.mark.kills_all
@pytest.mark.parametrize(
    "scene", [scene for scene in SCENES if scene.name not in USUAL], ids=lambda scene: scene.name
)
def test_other_scenes_killed_in_each_state(stage: Stage, killer: Killer, scene: Scene) -> None:
    kill_everywhere(stage, killer, scene, moments)


@pytest.mark.kills_all
@pytest.mark.parametrize("name", ["present", "group", "commit-active", "off-absent-middle"])
def test_killed_at_every_named_point(stage: Stage, killer: Killer, name: str) -> None:
    kill_everywhere(stage, killer, BY_NAME[name], every_point)


TWICE = [("present", "before journal done 2 db01.json")]
ALL_TWICE = [
    ("off-absent-middle", "before qemu_img rebase_unsafe off01.vda.s3.qcow2"),
    ("present-memory", "during libvirt snapshotCreateXML db01"),
    ("absent-oldest", "before libvirt snapshotCreateXML db01"),
    ("commit-active", "before journal mark pivot vda db01.json"),
    ("off-present", "before libvirt snapshotCreateXML off01"),
    ("off-commit-middle", "before libvirt defineXML"),
    ("pull-down", "before libvirt suspend db01"),
    ("pull", "after libvirt suspend db01"),
    ("off-pull", "after qemu_img pull off01.vda.s3.qcow2"),
    ("group", "after libvirt snapshotCreateXML app01"),
]


@pytest.mark.kills
@pytest.mark.parametrize(("name", "first"), TWICE, ids=[name for name, _first in TWICE])
def test_killed_twice(stage: Stage, killer: Killer, name: str, first: str, some: Chooser) -> None:
    """What brings things in order can die at any point, too."""
    choose = partial(_up_to_order, some=some)
    kill_everywhere(stage, killer, BY_NAME[name], choose, first)


@pytest.mark.kills_all
@pytest.mark.parametrize(("name", "first"), ALL_TWICE, ids=[name for name, _first in ALL_TWICE])
def test_killed_twice_elsewhere(stage: Stage, killer: Killer, name: str, first: str) -> None:
    kill_everywhere(stage, killer, BY_NAME[name], _up_to_order, first)


def _up_to_order(points: list[Point], some: Chooser = list) -> list[dict]:
    """The moments until the journals of the first run are closed."""
    closed = [n for n, point in enumerate(points) if point.name.startswith("after journal close")]
    return some(moments(points[: closed[0] + 1]))


def test_qemu_img_dies_with_its_run(stage: Stage, killer: Killer) -> None:
    """Else it would go on to write while the next run repairs what it takes for interrupted."""
    vm = stage.off("off01")
    top = vm.source("vda")
    fill = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 8M 4M", top]
    subprocess.run(fill, check=True, capture_output=True)
    before = contents(vm)[""]
    task = Task("vm_blockcommit", (vm,), {"bandwidth": 1})
    killer.start(task, kill=f"during qemu_img commit {Path(top).name}", delay=1.0).wait()
    result = killer.plain(task)
    assert not result["failed"], result["msg"]
    assert "finished what an interrupted run had begun" in result["notes"][0]
    assert vm.source("vda") == vm.disks["vda"].path and contents(vm)[""] == before
