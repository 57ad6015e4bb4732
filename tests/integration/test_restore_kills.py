# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL in every restore: between all effects of a run, in its long calls, and at random times.

The points are not listed here: a run tells the points that it passes (see kill_harness.py). After
each kill the VM is what it was or what was asked for, never anything between; the same task then
gets to where a run without a kill does, and leaves nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.uses import read_uses
from kill_fixtures import Chooser
from kill_trials import HARNESS, Point, moments
from lab import VM, Disk, Lab
from lab.modules import ModuleRun, start_module
from lab.vm import wait_until
from stock_story import Repository, copy, same, write
from story import Modules, chain, folder, sources

SIZE = 16
SAMPLE, RANDOM = 3, 40


@dataclass(frozen=True)
class Scene:
    """A restore, and how the VM is before it."""

    name: str
    params: dict[str, Any]
    running: bool = False

    @property
    def target(self) -> str:
        return str(self.params.get("as", "db01"))


SCENES = [
    Scene("itself", {"delete_replaced": True}),
    Scene("another-name", {"as": "copy"}),
    Scene("force", {"force": True, "start": True}, running=True),
    Scene("instant", {"instant": True, "start": True}),
]


BY_NAME = {scene.name: scene for scene in SCENES}


@dataclass
class Theatre:
    """A machine with two restore points, brought back to how it was for each kill."""

    vm: VM
    modules: Modules
    repository: Repository
    scratch: Path
    wanted: dict[str, Path] = field(default_factory=dict)
    counts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        vm = self.vm
        self.repository.keep(vm)
        write(vm.source("vda"), "-P 7 512k 1M", "-z 4M 512k")
        self.repository.keep(vm)
        for target in vm.disks:
            self.wanted[target] = copy(vm.source(target), self.scratch / f"{target}.then")
        write(vm.source("vda"), "-P 9 0 2M")
        self.first = {path: copy(path, self.scratch / path.name) for path in folder(vm).iterdir()}
        self.xml = vm.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        self.sources = sources(vm)
        self.stored = self._stored()

    def _stored(self) -> dict[str, str]:
        """What the repository holds, but for locks and records of what stood on it for a while."""
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.repository.path.rglob("*"))
            if path.is_file() and path.suffix != ".lock" and path.parent.name != "uses"
        }

    def reset(self, scene: Scene) -> None:
        connection = self.vm.lab.connection
        for domain in connection.listAllDomains():
            if domain.name() == "copy":
                domain.undefine()
        self.vm.destroy()
        connection.defineXML(self.xml)
        for path in folder(self.vm).iterdir():
            if path.suffix in (".qcow2", ".raw") or path.name.startswith("."):
                path.unlink()
        for path, kept in self.first.items():
            if path.suffix in (".qcow2", ".raw"):
                copy(kept, path)
        for path in self.modules.state_dir.glob("journal/*"):
            path.unlink()
        if scene.running:
            self.vm.start(wait=False)

    def start(self, scene: Scene, **settings: Any) -> ModuleRun:
        log = self.scratch / "points"
        log.unlink(missing_ok=True)
        told = {"log": str(log), "names": {self.vm.uuid: "db01"}, **settings}
        task = {"repository": str(self.repository.path), **scene.params}
        params = self.modules.params(self.vm, **task)
        return start_module(
            "vm_restore", params, env={"VMKEEP_HARNESS": json.dumps(told)}, runner=HARNESS
        )

    def points(self) -> list[Point]:
        log = self.scratch / "points"
        lines = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
        found = [json.loads(line) for line in lines]
        return [Point(f["point"], f["seconds"], f["effect"]) for f in found if "point" in f]

    def again(self, scene: Scene) -> dict[str, Any]:
        task = {"repository": str(self.repository.path), **scene.params}
        return self.modules.run("vm_restore", self.vm, **task)

    # -- what has to hold ------------------------------------------------------------------

    def whole(self, scene: Scene) -> None:
        """Right after the kill: defined on what it had, which is untouched, or on the point."""
        assert self._stored() == self.stored, "the repository was changed"
        now = sources(self.vm, inactive=True)
        if now == self.sources:
            if not scene.running:
                for path, kept in self.first.items():
                    if path.suffix == ".qcow2":
                        assert same(path, "qcow2", kept, "qcow2"), "an image was written to"
            return
        assert scene.target == "db01"
        self._is_then(now, alive=self.vm.active())

    def _is_then(self, files: dict[str, str], *, alive: bool) -> None:
        for target, file in files.items():
            form = "raw" if file.endswith(".raw") else "qcow2"
            # A guest that boots may write to its disks, if only to replay a journal.
            assert alive or same(file, form, self.wanted[target], _form(self.vm, target)), file

    def finished(self, scene: Scene) -> None:
        """After the next run: what was asked for, and nothing else."""
        third = self.again(scene)
        assert not third["changed"], third["plan"]
        domain = self.vm.lab.connection.lookupByName(scene.target)
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE
        root = ET.fromstring(domain.XMLDesc(flags))
        found = {
            node.find("target").get("dev"): node.find("source").get("file")
            for node in root.iterfind("devices/disk")
        }
        assert all(chain(path) == [path] for path in found.values())
        self._is_then(found, alive=bool(domain.isActive()))
        gone = set(self.sources.values()) if scene.params.get("delete_replaced") else set()
        wanted = ({str(path) for path in self.first if path.suffix != ""} - gone) | {
            *found.values()
        }
        there = {
            str(path)
            for path in folder(self.vm).iterdir()
            if path.suffix in (".qcow2", ".raw") or path.name.startswith(".vmkeep")
        }
        assert there == {path for path in wanted if path.endswith((".qcow2", ".raw"))}
        assert not list(self.modules.state_dir.glob("journal/*"))
        assert self._stored() == self.stored
        assert not read_uses(str(self.repository.folder(self.vm))), "nothing stands on it any more"

    def trial(self, scene: Scene, run: ModuleRun) -> bool:
        """What holds for a run that may have been killed; whether it was."""
        died = run.wait() == -signal.SIGKILL
        self.whole(scene)
        self.again(scene)
        self.finished(scene)
        return died


def _form(vm: VM, target: str) -> str:
    return vm.disks[target].spec.format


@pytest.fixture(scope="module")
def theatre(lab_session: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    scratch = tmp_path_factory.mktemp("theatre")
    disks = [Disk(size=SIZE, content="blank"), Disk(size=SIZE, content="blank", format="raw")]
    vm = lab_session.vm("db01", disks=disks, running=False)
    write(vm.source("vda"), "-P 1 0 1M", "-P 2 4M 1M")
    write(vm.source("vdb"), "-P 3 0 1M", form="raw")
    repository = Repository(scratch / "backup")
    yield Theatre(vm, Modules(lab_session, scratch / "state"), repository, scratch)
    for name in ("copy", "db01"):
        lab_session.remove(name)


by_scene = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)


def settings_of(theatre: Theatre, scene: Scene) -> list[dict[str, Any]]:
    """A kill in each state that the world passes through."""
    theatre.reset(scene)
    run = theatre.start(scene)
    assert run.wait() == 0, run.stderr()
    theatre.finished(scene)
    return moments(theatre.points())


def killed(theatre: Theatre, scene: Scene, settings: list[dict[str, Any]]) -> None:
    for setting in settings:
        theatre.reset(scene)
        died = theatre.trial(scene, theatre.start(scene, **setting))
        print(f"  {scene.name}: {setting['kill']}: {'killed' if died else 'had ended'}")
        assert died or setting["kill"].startswith("during"), setting


@pytest.mark.kills
@by_scene
def test_killed_in_each_state_of_the_world(theatre: Theatre, scene: Scene, some: Chooser) -> None:
    settings = settings_of(theatre, scene)
    assert len(settings) >= 10
    killed(theatre, scene, some(settings, SAMPLE))


@pytest.mark.kills_all
@by_scene
def test_killed_at_random(theatre: Theatre, scene: Scene) -> None:
    chance = random.Random(os.environ.get("KILL_SEED", time.time()))
    theatre.reset(scene)
    began = time.monotonic()
    theatre.start(scene).wait()
    whole, count = time.monotonic() - began, 0
    for _number in range(RANDOM // len(SCENES)):
        theatre.reset(scene)
        run = theatre.start(scene)
        time.sleep(chance.uniform(0.2, 1) * whole)
        run.send_signal(signal.SIGKILL)
        count += theatre.trial(scene, run)
    print(f"  {scene.name}: {count} kills")
    assert count


@pytest.mark.parametrize(
    "point", ["before libvirt defineXML", "before libvirt createWithFlags db01"]
)
def test_whatever_runs_next_lets_it_run_again(theatre: Theatre, point: str) -> None:
    """On what it had, or on what was restored, as a machine that is to be up does."""
    scene = BY_NAME["force"]
    theatre.reset(scene)
    died = theatre.start(scene, kill=point)
    assert died.wait() == -signal.SIGKILL and not theatre.vm.active()
    other = {"name": "nosuch", "state": "absent"}
    foreseen = theatre.modules.run("vm_snapshot", theatre.vm, check=True, **other)
    assert [step["step"] for step in foreseen["plan"]] == ["start_vm"]
    assert not theatre.vm.active()
    done = theatre.modules.run("vm_snapshot", theatre.vm, **other)
    assert [step["step"] for step in done["plan"]] == ["start_vm"] and theatre.vm.active()
    restored = point.endswith("createWithFlags db01")
    assert (sources(theatre.vm) != theatre.sources) == restored
    word = "has restored it" if restored else "has not restored it"
    assert any(word in note for note in done["notes"]), done["notes"]
    theatre.again(scene)
    theatre.finished(scene)


@pytest.mark.parametrize("point", ["before stop", "before libvirt defineXML"])
def test_the_daemon_restarts(theatre: Theatre, point: str) -> None:
    """The run finds it again, and begins anew."""
    scene = BY_NAME["force" if "stop" in point else "itself"]
    name = "before quit db01" if "stop" in point else point
    theatre.reset(scene)
    run = theatre.start(scene, hold={name: 3})
    wait_until(lambda: name in [found.name for found in theatre.points()], 30, "it gets there")
    theatre.vm.lab.daemon.restart(crash=True)
    result = run.result()
    assert not result["failed"], result["msg"]
    assert "found again" in " ".join(result["notes"])
    theatre.finished(scene)


def test_two_at_once(theatre: Theatre) -> None:
    """The second waits, and finds nothing to do."""
    scene = SCENES[0]
    theatre.reset(scene)
    runs = [theatre.start(scene) for _number in range(2)]
    results = [run.result() for run in runs]
    assert [result["failed"] for result in results] == [False, False], results
    assert sorted(result["changed"] for result in results) == [False, True]
    theatre.finished(scene)
