# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL while restore points are pruned: at each state of the world, and at random times.

After each kill every restore point with a manifest has its content, and none that is kept is
missing; the same task again brings all in order, and then rests. ``KILL_SEED`` repeats a series.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from image_story import content
from kill_fixtures import Chooser
from kill_trials import HARNESS, Point, moments
from lab.modules import start_module
from lab.vm import wait_until
from repository_stage import Depot, fingerprint

ALL, SAMPLE = 60, 5


@dataclass
class Scene:
    """A repository to begin with, a task on db01, and the points that it keeps."""

    store: Depot
    scratch: Path
    params: dict[str, Any]
    kept: list[str]

    def fresh(self) -> Depot:
        return self.store.copy(self.scratch / "backup")

    def kill(self, depot: Depot, **settings: Any) -> bool:
        """Run the task in kill_harness.py; whether it died."""
        log = self.scratch / "points.log"
        log.unlink(missing_ok=True)
        env = {"VMKEEP_HARNESS": json.dumps({"log": str(log), **settings})}
        params = depot.params(vm=["db01"], **self.params)
        run = start_module("vm_backup_prune", params, env=env, runner=HARNESS)
        return run.wait() == -signal.SIGKILL

    def points(self) -> list[Point]:
        """The points that the last run passed."""
        lines = (self.scratch / "points.log").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [Point(line["point"], line["seconds"], line["effect"]) for line in found]

    def holds(self, depot: Depot) -> None:
        """What a killed run leaves, before anybody repairs it."""
        stock = depot.stock()
        assert not stock.broken and set(self.kept) <= {point.id for point in stock.points}
        for point in stock.points:
            assert not stock.trouble_of(point), (point.id, stock.trouble_of(point))
            for file in [file for file in point.files if file.role == "image"]:
                path = depot.file(point.id, file.name)
                staged = depot.file(point.id, file.staged) if file.staged else path
                wanted = depot.contents["db01", point.id, path.stem]
                assert content(path) == wanted, path
                assert not staged.exists() or content(staged) == wanted, staged

    def converges(self, depot: Depot) -> None:
        """The same task again, and once more, which finds nothing to do."""
        depot.run("vm_backup_prune", vm=["db01"], **self.params)
        again = depot.run("vm_backup_prune", vm=["db01"], **self.params)
        assert not again["changed"], again["plan"]
        assert depot.ids() == self.kept
        stock = depot.stock()
        assert stock.debris == stock.staged == () and len(stock.good) == len(self.kept)
        depot.intact()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Depot]:
    """A chain of three, and one of seven with two disks and what dead runs have left."""
    short = Depot(tmp_path_factory.mktemp("short") / "backup")
    short.chain(3)
    long = Depot(tmp_path_factory.mktemp("long") / "backup")
    long.chain(4, disks=("vda", "vdb"))
    long.add(parent="last", disks=("vda", "vdb"), full=("vdb",))
    long.add(parent="last", disks=("vda", "vdb"))
    long.add(parent="last", disks=("vda", "vdb"))
    dead = long.folder() / "20261201T030000Z"
    dead.mkdir()
    (dead / "vda.qcow2").write_bytes(b"x")
    long.file(long.ids()[1], "vda.qcow2.merged").write_bytes(b"x")
    return {"short": short, "long": long}


@pytest.fixture
def short(stores: dict[str, Depot], fast: Path) -> Scene:
    """One merge, and the removal of what it makes free."""
    store = stores["short"]
    return Scene(store, fast, {"keep_last": 1}, store.ids()[2:])


@pytest.fixture
def long(stores: dict[str, Depot], fast: Path) -> Scene:
    """Two merges of two disks, removals before, between and after, debris."""
    store = stores["long"]
    ids = store.ids()
    params = {"keep_last": 2, "protect": [ids[2]]}
    return Scene(store, fast, params, [ids[2], *ids[5:]])


def killed_in_each_state(scene: Scene, some: Chooser = list) -> None:
    depot = scene.fresh()
    assert not scene.kill(depot)
    assert depot.ids() == scene.kept
    settings = moments(scene.points())
    assert len(settings) > 10
    settings = some(settings)
    middle = 0
    for setting in settings:
        depot = scene.fresh()
        died = scene.kill(depot, **setting)
        assert died or setting["kill"].startswith("during"), setting
        middle += depot.ids() != scene.kept or bool(depot.stock().debris)
        scene.holds(depot)
        scene.converges(depot)
    print(f"{len(settings)} kills, {middle} left something to do")
    assert middle > len(settings) / 2


def killed_at_random(scene: Scene, count: int) -> None:
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 10**9))
    print(f"KILL_SEED={seed}")
    dice = random.Random(seed)
    lasts, kills, changed = begun(scene, scene.fresh())(None), 0, 0
    while kills < count:
        depot = scene.fresh()
        before = fingerprint(depot.path)
        if begun(scene, depot)(dice.uniform(0, lasts)) is not None:
            lasts *= 0.95
            continue
        kills += 1
        changed += fingerprint(depot.path) != before
        scene.holds(depot)
        scene.converges(depot)
        depot.run("vm_backup_info", vm=["db01"], verify=True)
    print(f"{kills} kills, {changed} after the first change")
    assert changed > kills / 3


def begun(scene: Scene, depot: Depot) -> Callable[[float | None], float | None]:
    """A run that has the lock. The function kills it after some seconds, or lets it end.

    It returns the seconds that the run went on if it came to its end.
    """
    run = start_module("vm_backup_prune", depot.params(vm=["db01"], **scene.params))
    lock = depot.folder() / "writer.lock"
    wait_until(lambda: lock.exists() and lock.stat().st_size > 0, 60, "the run has the lock")
    begin = time.monotonic()

    def end(delay: float | None) -> float | None:
        if delay is not None:
            time.sleep(delay)
            run.send_signal(signal.SIGKILL)
        return None if run.wait() == -signal.SIGKILL else time.monotonic() - begin

    return end


@pytest.mark.kills
def test_killed_in_each_state_of_the_world(short: Scene, some: Chooser) -> None:
    killed_in_each_state(short, some)


@pytest.mark.kills_all
def test_killed_in_each_state_of_a_long_run(long: Scene) -> None:
    killed_in_each_state(long)


def test_killed_at_random(long: Scene) -> None:
    killed_at_random(long, SAMPLE)


@pytest.mark.kills_all
def test_killed_at_random_times_many_times(long: Scene) -> None:
    killed_at_random(long, ALL)
