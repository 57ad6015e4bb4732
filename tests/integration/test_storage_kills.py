# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL of vm_storage_snapshot in each state that the world passes through.

As in test_kill_points.py the points are not listed here: each operation runs once without a kill
and tells them. What is held against the promises here besides is what the copies hold, and that a
VM whose disks are on their way back either cannot start or has all of them old or all of them new.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import libvirt
import pytest
from kill_fixtures import Chooser
from kill_stage import PAUSE, collapse, forget, needs_recovery
from kill_trials import (
    Broken,
    Killer,
    Task,
    difference,
    moments,
    must,
    portrait,
    trial,
)
from lab import VM, Disk
from lab.programs import LabError
from storage_stage import Storage, digest, run
from story import Modules, folder, sources

MODULE = "vm_storage_snapshot"
SIZE = 16


@dataclass(frozen=True)
class Scene:
    """An operation on a VM whose images lie on a file system of this kind."""

    name: str
    kind: str
    params: dict
    running: bool = False
    taken: bool = False


def scene(name: str, kind: str, state: str, **more: object) -> Scene:
    backend = {} if kind == "xfs" or state != "present" else {"backend": "btrfs"}
    params = {"name": "s1", "state": state, **backend}
    if more.get("running"):
        params["quiesce"] = "required"
    return Scene(name, kind, params, taken=state != "present", **more)


SCENES = [
    scene("running-present", "xfs", "present", running=True),
    scene("off-present", "xfs", "present"),
    scene("off-present-subvolume", "btrfs", "present"),
    scene("absent", "xfs", "absent"),
    scene("absent-subvolume", "btrfs", "absent"),
    scene("running-present-subvolume", "btrfs", "present", running=True),
]
REVERTS = [scene("reverted", "xfs", "reverted"), scene("reverted-subvolume", "btrfs", "reverted")]


class StoredStage:
    """Two machines, one on each kind of file system, brought back into a known state each time."""

    def __init__(self, storage: Storage, scratch: Path) -> None:
        self.storage, self.lab = storage, storage.lab
        self.state_dir = scratch / "state"
        self._vms: dict[str, VM] = {}

    def prepared(self, modules: Modules, scene: Scene) -> Task:
        """The machine as the scene begins, and its task."""
        vm = self._machine(scene.kind)
        if not (scene.running and vm.active()):
            self._restore(vm)
        if scene.running:
            self._running(vm)
        self._clear(vm)
        if scene.taken:
            backend = "btrfs" if scene.kind == "btrfs" else "auto"
            result = modules.attempt(MODULE, vm, name="s1", backend=backend)
            must(not result["failed"], f"preparing: {result.get('msg')}")
            for path in sources(vm).values():
                run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 1M", path)
        return Task(MODULE, (vm,), scene.params)

    def _machine(self, kind: str) -> VM:
        if kind not in self._vms:
            vm = self.storage.vm(kind, f"kill-{kind}", [Disk(size=SIZE)] * 2, running=False)
            store = self._store(vm)
            shutil.rmtree(store, ignore_errors=True)
            store.mkdir()
            for path in sources(vm).values():
                shutil.copy(path, store)
            self._vms[kind] = vm
        return self._vms[kind]

    def _store(self, vm: VM) -> Path:
        return folder(vm).with_name(f"{vm.name}-store")

    def _restore(self, vm: VM) -> None:
        """Off, with the images as they were at first."""
        vm.destroy()
        forget(vm)
        for target, disk in vm.disks.items():
            if vm.source(target) != disk.path:
                raise LabError(f"{vm.name} is not on its first images")
            Path(disk.path).unlink(missing_ok=True)
            shutil.copy(self._store(vm) / Path(disk.path).name, disk.path)

    def _running(self, vm: VM) -> None:
        if not vm.active():
            vm.start()
        if not vm.writing():
            vm.start_writer(PAUSE)
        collapse(vm)

    def _clear(self, vm: VM) -> None:
        """Nothing beside the images, nothing on record."""
        shutil.rmtree(self.state_dir / "storage", ignore_errors=True)
        kept = {Path(disk.path).name for disk in vm.disks.values()}
        for path in folder(vm).iterdir():
            if path.name == ".vmkeep":
                for each in path.iterdir():
                    run("btrfs", "subvolume", "delete", str(each))
                path.rmdir()
            elif path.name not in kept:
                path.unlink()

    def close(self) -> None:
        for vm in self._vms.values():
            self.lab.remove(vm)


@pytest.fixture(scope="module")
def stage(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredStage]:
    stage = StoredStage(storage, tmp_path_factory.mktemp("stored"))
    yield stage
    stage.close()


@pytest.fixture
def killer(stage: StoredStage, tmp_path: Path) -> Iterator[Killer]:
    modules = Modules(stage.lab, stage.state_dir)
    killer = Killer(modules, tmp_path)
    yield killer
    for path in killer.journals():
        path.unlink()


def points_of(killer: Killer, task: Task) -> list[dict]:
    """Run it without a kill; where it can be killed."""
    result = killer.run(task)
    assert not result["failed"] and result["changed"], result
    return moments(killer.points())


def report(name: str, settings: list[dict], broken: list[str], middle: int) -> None:
    print(f"{name}: {len(settings)} kills, {middle} of them left a journal")
    assert not broken, f"{len(broken)} of {len(settings)}:\n" + "\n".join(broken)
    assert middle, "no kill left anything to bring in order"


def held(vm: VM) -> dict[str, str]:
    """target -> digest of what its copy s1 holds, as far as there is one."""
    found = {}
    for target, disk in vm.disks.items():
        path = Path(disk.path)
        sub = path.parent / ".vmkeep" / f"{vm.name}@s1" / path.name
        for copy in (path.with_name(f"{path.name}@s1"), sub):
            if copy.exists():
                found[target] = digest(str(copy))
    return found


# --- taking and removing ---


@pytest.mark.kills
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_killed_in_each_state(
    stage: StoredStage, killer: Killer, scene: Scene, some: Chooser
) -> None:
    task = stage.prepared(killer.modules, scene)
    settings = some(points_of(killer, task))
    wanted = portrait(killer.modules, task.vms)
    broken, middle = [], 0
    for setting in settings:
        task = stage.prepared(killer.modules, scene)
        before = held(task.vms[0])
        compare = partial(_as_wanted, killer, task, wanted, before)
        try:
            middle += trial(killer, task, compare, setting).middle
        except (Broken, LabError) as problem:
            broken.append(f"{scene.name}, killed {setting['kill']}: {problem}")
            _clear_up(killer, task)
    report(scene.name, settings, broken, middle)
    if scene.running:
        vm = task.vms[0]
        vm.destroy()
        vm.start()
        assert vm.lost_records() == []


def _as_wanted(killer: Killer, task: Task, wanted: dict, before: dict) -> None:
    unlike = difference(portrait(killer.modules, task.vms), wanted)
    must(not unlike, "; ".join(unlike))
    (vm,) = task.vms
    if task.params["state"] == "absent":
        must(not held(vm), f"copies are left: {held(vm)}")
        return
    del before
    answer = killer.plain(task)["vms"][vm.name]["snapshot"]
    files = {target: disk["file"] for target, disk in answer["disks"].items()}
    if vm.active():
        must(answer["consistency"] == "filesystem", f"it is {answer['consistency']}")
        for target, file in files.items():
            must(not needs_recovery(file), f"the copy of {target} was not frozen")
    else:
        for target, file in files.items():
            same = digest(file) == digest(vm.disks[target].path)
            must(same, f"the copy of {target} is not what the image is")


def _clear_up(killer: Killer, task: Task) -> None:
    for path in killer.journals():
        path.unlink()
    for vm in task.vms:
        if vm.active():
            collapse(vm)


# --- going back ---


@pytest.mark.parametrize("scene", REVERTS, ids=lambda scene: scene.name)
def test_killed_on_the_way_back(stage: StoredStage, killer: Killer, scene: Scene) -> None:
    task = stage.prepared(killer.modules, scene)
    settings = points_of(killer, task)
    broken, middle, missing = [], 0, 0
    for setting in settings:
        task = stage.prepared(killer.modules, scene)
        try:
            found = _back(killer, task, setting)
            middle, missing = middle + found[0], missing + found[1]
        except (Broken, LabError) as problem:
            broken.append(f"{scene.name}, killed {setting['kill']}: {problem}")
            _clear_up(killer, task)
    report(scene.name, settings, broken, middle)
    assert missing, "with two disks there is a moment in which one image is out of the way"


def _back(killer: Killer, task: Task, setting: dict) -> tuple[bool, bool]:
    """Whether a journal was left, and whether an image was out of the way."""
    (vm,) = task.vms
    copies = held(vm)
    old = {target: digest(disk.path) for target, disk in vm.disks.items()}
    killer.start(task, **setting).wait()
    middle = bool(killer.left())
    there = {t: digest(d.path) for t, d in vm.disks.items() if Path(d.path).exists()}
    whole = there in (old, copies)
    must(whole or len(there) < 2, "some disks are back, others are not, and the VM could start")
    must(held(vm) == copies, "the copies have changed")
    if len(there) < 2:
        _cannot_start(vm)
    second = killer.plain(task)
    must(not second["failed"], f"the next run failed: {second.get('msg')}")
    must(not middle or "interrupted run" in second["notes"][0], f"notes are {second['notes']}")
    third = killer.plain(task)
    must(not third["failed"] and not third["changed"], f"the third run: {third}")
    must({t: digest(d.path) for t, d in vm.disks.items()} == copies, "the disks are not back")
    must(held(vm) == copies, "the copies have changed")
    must(not killer.journals(), "a journal was left")
    rest = [path.name for path in folder(vm).iterdir() if ".vmkeep-" in path.name]
    must(not rest, f"left: {rest}")
    return middle, len(there) < 2


def _cannot_start(vm: VM) -> None:
    try:
        vm.domain.create()
    except libvirt.libvirtError:
        return
    vm.destroy()
    raise Broken("it could be started though an image is not in its place")


def test_a_vm_that_ran_after_a_kill_keeps_what_it_wrote(stage: StoredStage, killer: Killer) -> None:
    """Before the first disk is replaced the present state is all there, so it may go on."""
    scene = REVERTS[0]
    task = stage.prepared(killer.modules, scene)
    (vm,) = task.vms
    killer.start(task, kill="after link vda.qcow2.vmkeep-new").wait()
    assert [p for p in folder(vm).iterdir() if p.name.endswith(".vmkeep-new")]
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 2M 1M", vm.disks["vda"].path)
    kept = digest(vm.disks["vda"].path)
    # Any other task brings it in order.
    result = killer.modules.attempt(MODULE, vm, name="never", state="absent")
    assert not result["failed"] and digest(vm.disks["vda"].path) == kept
    assert not [p for p in folder(vm).iterdir() if ".vmkeep-" in p.name]


# --- others meanwhile ---


def test_a_vm_cannot_start_while_its_images_are_copied(stage: StoredStage, killer: Killer) -> None:
    scene = SCENES[1]
    task = stage.prepared(killer.modules, scene)
    (vm,) = task.vms
    name = f"{Path(vm.disks['vdb'].path).name}@s1"
    with killer.start(task, hold={f"before link {name}": 6}) as under_way:
        killer.reaches(f"before link {name}")
        with pytest.raises(libvirt.libvirtError, match='"write" lock'):
            vm.domain.create()
        result = under_way.result()
    assert not result["failed"], result["msg"]
    vm.domain.create()
    time.sleep(0.5)
    vm.destroy()
    assert held(vm).keys() == {"vda", "vdb"}
