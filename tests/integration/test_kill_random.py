# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs killed at random times, a control arm without kills, and faults that must be seen."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from kill_stage import Stage
from kill_trials import Broken, Killer, Task, difference, must, portrait, trial
from lab.modules import ModuleRun
from test_kill_points import RUNNING, SCENES, Scene, _as_wanted, _clear

SEED = int(os.environ.get("VMKEEP_SEED", "20261122"))
WANTED = 100
SAMPLE = 10
QUICK = ("present", "absent-middle", "commit-active", "off-present")


@dataclass
class Counts:
    """What the trials of one test came to."""

    trials: int = 0
    died: int = 0
    middle: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = ", ".join(f"{count} x {note}" for note, count in sorted(self.notes.items()))
        return (
            f"{self.trials} trials, {self.died} killed, {self.middle} of these left a journal"
            f" ({found or 'no notes'}), {len(self.broken)} broken promises"
        )


class Known:
    """How each scene ends and how long it takes without a kill: the control arm."""

    def __init__(self, stage: Stage, killer: Killer) -> None:
        self._stage, self._killer = stage, killer
        self._found: dict[str, tuple[dict, float, float]] = {}

    def of(self, scene: Scene) -> tuple[dict, float, float]:
        """(the portrait that has to come out, seconds to its first effect and to its end)"""
        if scene.name not in self._found:
            task = scene.prepare(self._stage)
            result = self._killer.run(task)
            assert not result["failed"] and result["changed"], result
            points = self._killer.points()
            first = next(point.seconds for point in points if point.effect)
            ending = portrait(self._killer.modules, task.vms)
            self._found[scene.name] = ending, first, points[-1].seconds
            task = scene.prepare(self._stage)
            control = trial(self._killer, task, _compare(self._killer, task, self.of(scene)[0]), {})
            assert not control.died and not control.notes
        return self._found[scene.name]

    def __len__(self) -> int:
        return len(self._found)


def _compare(killer: Killer, task: Task, wanted: dict) -> Callable[[], None]:
    return lambda: _as_wanted(killer, task, wanted)


def kill_at_random(
    stage: Stage, killer: Killer, scenes: list[Scene], kills: int, seed: int, **settings: object
) -> Counts:
    """Trials until so many runs were killed before their end."""
    chance, known, counts = random.Random(seed), Known(stage, killer), Counts()
    while counts.died < kills and counts.trials < 3 * kills:
        scene = chance.choice(scenes)
        wanted, first, last = known.of(scene)
        moment = chance.uniform(0, last - first)
        task = scene.prepare(stage)
        counts.trials += 1
        try:
            found = trial(
                killer,
                task,
                _compare(killer, task, wanted),
                dict(settings),
                when=lambda run, moment=moment: _after_the_first_effect(killer, run, moment),
            )
        except Broken as problem:
            counts.broken.append(f"{scene.name} after {moment:.3f} s: {problem}")
            _clear(killer, task)
            continue
        counts.died += found.died
        counts.middle += found.middle
        for note in found.notes:
            words = note.partition(": ")[2].replace(" new ", " ")
            counts.notes[words] = counts.notes.get(words, 0) + 1
    print(f"\nseed {seed}: {counts}; control arm: {len(known)} scenes without a kill")
    return counts


def _after_the_first_effect(killer: Killer, run: ModuleRun, moment: float) -> None:
    """Before that, nothing can be left behind."""
    while run.poll() is None and not (
        killer.log.exists() and any(point.effect for point in killer.points())
    ):
        time.sleep(0.005)
    time.sleep(moment)


def test_a_sample_of_random_kills(stage: Stage, killer: Killer) -> None:
    scenes = [scene for scene in SCENES if scene.name in QUICK]
    counts = kill_at_random(stage, killer, scenes, SAMPLE, SEED)
    assert not counts.broken, "\n".join(counts.broken)
    assert counts.died >= SAMPLE and counts.middle


@pytest.mark.kills_all
def test_a_hundred_random_kills(stage: Stage, killer: Killer) -> None:
    counts = kill_at_random(stage, killer, SCENES, WANTED, SEED + 1)
    assert not counts.broken, "\n".join(counts.broken)
    assert counts.died >= WANTED and counts.middle >= WANTED // 4


def test_a_run_without_recovery_would_be_noticed(stage: Stage, killer: Killer) -> None:
    """The checks can fail: a second run that does not look at the journal is caught."""
    (scene,) = [scene for scene in RUNNING if scene.name == "absent-middle"]
    task = scene.prepare(stage)
    killer.run(task)
    wanted = portrait(killer.modules, task.vms)
    point = [point.name for point in killer.points() if "forget" in point.name][-1]
    task = scene.prepare(stage)
    with pytest.raises(Broken):
        trial(
            killer,
            task,
            _compare(killer, task, wanted),
            {"kill": point},
            again=lambda again: killer.run(again, mutate=["no_recovery"]),
        )
    _clear(killer, task)


def test_a_run_without_a_guard_would_be_noticed(stage: Stage, killer: Killer) -> None:
    """The checks can fail: killed while frozen and with nobody to thaw, the guest stays frozen."""
    (scene,) = [scene for scene in RUNNING if scene.name == "present"]
    task = scene.prepare(stage)
    killer.run(task)
    point = next(point.name for point in killer.points() if "before snapshot of" in point.name)
    task = scene.prepare(stage)
    with pytest.raises(Broken, match=r"2\.0 s after the kill"):
        trial(killer, task, lambda: None, {"kill": point, "mutate": ["no_guard"]})
    for vm in task.vms:
        vm.agent("guest-fsfreeze-thaw")
    _clear(killer, task)


def test_differences_are_seen() -> None:
    """The comparison can fail."""
    assert difference({"a": 1}, {"a": 2}) == ["a is 1, not 2"]
    with pytest.raises(Broken):
        must(False, "nothing")
