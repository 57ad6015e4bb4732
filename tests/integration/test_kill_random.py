# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL at random times, on a random walk through the operations.

Machines go from state to state by tasks that are chosen at random. Before each one, check mode
tells what the machines will be afterwards; that, every promise of `kill_trials.trial`, and the
absence of any other file is what the trials are held against. Three controls go with them: the
same walk without kills passes; and with the freeze guard or the recovery taken out of the code,
the same checks have to fail.

``KILL_SEED`` in the environment repeats a walk.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from kill_stage import Stage
from kill_trials import Broken, Killer, Task, Trial, files, must, thawed, trial
from lab import VM
from lab.modules import ModuleRun

ALL = 120
SAMPLE = 6
MOST_SNAPSHOTS = 4
# Of the kills, how many come while the module still starts, and how many hit the recovery, too.
EARLY, TWICE = 0.1, 0.2
# Seconds that a task works, until the walk knows better.
USUAL = 0.5


@dataclass
class Walk:
    """A random walk over the states of two machines, and what became of its trials."""

    stage: Stage
    killer: Killer
    seed: int
    kill: bool = True
    counts: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.vms = [self.stage.running(name) for name in ("db01", "app01")]
        self.seconds: dict[str, float] = {}
        self.number = 0

    # -- what to do ------------------------------------------------------------------------

    def step(self) -> None:
        """One task, killed and repeated; now and then a machine is switched off or on."""
        if self.random.random() < 0.08:
            self._toggle(self.random.choice(self.vms))
        kind, task = self._task()
        wanted = self._foreseen(task)
        self.kinds[kind] += 1
        if self.kill:
            found = self._killed(kind, task, wanted)
            self._count(found)
        else:
            self._control(kind, task, wanted)

    def _toggle(self, vm: VM) -> None:
        if vm.active():
            vm.destroy()
        else:
            vm.start()
            must(vm.lost_records() == [], f"{vm.name} lost records over a power cut")
            vm.start_writer(0.03)

    def _task(self) -> tuple[str, Task]:
        """A task that has something to do, and its kind."""
        vms = self.random.choice([self.vms[:1], self.vms[1:], self.vms])
        names = sorted({name for vm in vms for name in self._snapshots(vm)})
        kinds = ["present"] if len(names) < MOST_SNAPSHOTS else []
        kinds += ["absent", "commit"] if names else []
        depth = max(len(self._snapshots(vm)) for vm in vms)
        kinds += ["pull"] if depth > 1 else []
        kind = self.random.choice([*kinds, *kinds[:1]])
        if kind == "present":
            return self._present(tuple(vms))
        if kind == "absent":
            params = {"name": self.random.choice(names), "state": "absent"}
            return self._kind("absent", vms), Task("vm_snapshot", tuple(vms), params)
        # The first images stay in the chains.
        params = {"max_depth": self.random.randint(2 if kind == "pull" else 1, depth)}
        if kind == "pull":
            return self._kind("pull", vms), Task("vm_blockpull", tuple(vms), params)
        return self._kind("commit", vms), Task("vm_blockcommit", tuple(vms), params)

    def _present(self, vms: tuple[VM, ...]) -> tuple[str, Task]:
        self.number += 1
        params: dict = {"name": f"n{self.number:03}"}
        running = all(vm.active() for vm in vms)
        if running and self.random.random() < 0.2:
            return "present memory", Task("vm_snapshot", vms[:1], {**params, "memory": True})
        if running:
            params["quiesce"] = "required"
        if len(vms) > 1:
            params["consistent_group"] = True
            return self._kind("present group", vms), Task("vm_snapshot", vms, params)
        return self._kind("present", vms), Task("vm_snapshot", vms, params)

    @staticmethod
    def _kind(kind: str, vms: list[VM] | tuple[VM, ...]) -> str:
        return kind if all(vm.active() for vm in vms) else f"{kind} off"

    @staticmethod
    def _snapshots(vm: VM) -> list[str]:
        return [snapshot.getName() for snapshot in vm.domain.listAllSnapshots()]

    # -- what has to come of it ------------------------------------------------------------

    def _foreseen(self, task: Task) -> dict[str, str]:
        """Each machine after the task, as check mode draws it."""
        names = [vm.name for vm in task.vms]
        answer = self.killer.modules.run(task.module, list(task.vms), check=True, **task.params)
        drawn = answer["diff"]["after"].split("VM ")[1:]
        after = {text.partition("\n")[0]: f"VM {text}".strip() for text in drawn}
        return {name: after.get(name) or self._drawn(name) for name in names}

    def _drawn(self, name: str) -> str:
        """A machine as it is, drawn in the same way."""
        vm = next(vm for vm in self.vms if vm.name == name)
        info = self.killer.modules.info(vm)
        lines = [f"VM {name}"]
        for target, disk in info["disks"].items():
            chain = " <- ".join(image["filename"] for image in reversed(disk["chain"]))
            lines.append(f"  {target}: {chain}")
        lines.append("  snapshots:" if info["tree"] else "  snapshots: none")
        lines += [f"    {line}" for line in info["tree"].splitlines()]
        return "\n".join(line.rstrip() for line in lines)

    def _compare(self, task: Task, wanted: dict[str, str]) -> None:
        for vm in task.vms:
            drawn = self._drawn(vm.name)
            expected = "\n".join(line.rstrip() for line in wanted[vm.name].splitlines())
            must(drawn == expected, f"is\n{drawn}\nnot\n{expected}")
            info = self.killer.modules.info(vm)
            must(not info["disagreements"], f"{vm.name} disagrees: {info['disagreements']}")
            _no_other_files(vm, info)
            _worth(vm, info, task)

    # -- killing ---------------------------------------------------------------------------

    def _killed(self, kind: str, task: Task, wanted: dict[str, str]) -> Trial:
        again = self._again if self.random.random() < TWICE else None
        return trial(
            self.killer,
            task,
            lambda: self._compare(task, wanted),
            {},
            when=lambda run: self._moment(kind, run),
            again=again,
        )

    def _moment(self, kind: str, run: ModuleRun) -> None:
        """Wait for a random time: while the module starts, or from its first effect on."""
        early = self.random.random() < EARLY
        share = self.random.random()
        if early:
            time.sleep(share * 0.3)
            return
        while not (self.killer.log.exists() and self.killer.points()) and run.poll() is None:
            time.sleep(0.002)
        time.sleep(share * self.seconds.get(kind, USUAL))

    def _again(self, task: Task) -> dict:
        """The second run is killed as well, and a third one goes on from there."""
        run = self.killer.start(task)
        self._moment("recovery", run)
        run.kill()
        self.counts["killed twice"] += 1
        gone = time.monotonic()
        for vm in task.vms:
            if task.freezes and vm.active():
                thawed(vm, gone + 2)
        answer = self.killer.plain(task)
        # What the second run had finished, only it could have told.
        return {**answer, "notes": [*answer["notes"], "db01: interrupted run, killed twice"]}

    def _count(self, found: Trial) -> None:
        self.counts["trials"] += 1
        self.counts["in the middle"] += found.middle
        self.counts["after the end"] += not found.died
        notes = " ".join(found.notes)
        self.counts["finished"] += found.middle and "finished what" in notes
        self.counts["undone"] += found.middle and "undid" in notes
        self.counts["complete"] += found.middle and "is complete" in notes

    def _control(self, kind: str, task: Task, wanted: dict[str, str]) -> None:
        """The same without a kill."""
        result = self.killer.run(task)
        must(not result["failed"], f"{task} failed: {result.get('msg')}")
        points = self.killer.points()
        if points:
            self.seconds[kind] = points[-1].seconds - points[0].seconds
        must(not self.killer.plain(task)["changed"], f"{task} changes twice")
        must(not self.killer.journals(), "a journal was left")
        self._compare(task, wanted)
        for vm in task.vms:
            must(not vm.active() or vm.lost_records() == [], f"{vm.name} lost records")
        self.counts["trials"] += 1

    def end(self) -> None:
        """A power cut at the end: everything that was acknowledged is there."""
        for vm in self.vms:
            vm.destroy()
            self._toggle(vm)


def _no_other_files(vm: VM, info: dict) -> None:
    known = {image["filename"] for disk in info["disks"].values() for image in disk["chain"]}
    known |= {snapshot["memory_file"] for snapshot in info["snapshots"]}
    left = [path for path in files(vm) if path.endswith((".qcow2", ".save")) and path not in known]
    must(not left, f"{vm.name}: files left over: {left}")


def _worth(vm: VM, info: dict, task: Task) -> None:
    """A snapshot that this task took is worth what the task asked for."""
    for snapshot in info["snapshots"]:
        if task.module != "vm_snapshot" or snapshot["name"] != task.params["name"]:
            continue
        quiesced = task.params.get("quiesce") == "required"
        wanted = "memory" if task.params.get("memory") else "filesystem" if quiesced else None
        if wanted and vm.active():
            must(snapshot["consistency"] == wanted, f"{vm.name}: {snapshot['consistency']}")


def walk(
    stage: Stage, killer: Killer, steps: int, *, kill: bool, known: dict | None = None
) -> Walk:
    """A walk of so many steps; a broken promise is told with the seed and the step."""
    seed = int(os.environ.get("KILL_SEED") or random.randrange(2**32))
    walk = Walk(stage, killer, seed, kill)
    walk.seconds.update(known or {})
    for number in range(steps):
        try:
            walk.step()
        except Broken as problem:
            raise AssertionError(f"KILL_SEED={seed}, step {number}: {problem}") from problem
    walk.end()
    arm = "killed" if kill else "control"
    print(f"\n{arm}: seed {seed}, {dict(walk.counts)}, {dict(walk.kinds)}")
    return walk


def faulty(stage: Stage, killer: Killer, fault: str, trials: int) -> int:
    """How many of the trials notice a fault that was built into the code that is killed."""
    chance = random.Random(1)
    noticed = 0
    for _number in range(trials):
        vm = stage.running("db01")
        task = Task("vm_snapshot", (vm,), {"name": "new", "quiesce": "required"})
        settings = {"mutate": [fault]}
        try:
            trial(
                killer,
                task,
                lambda: None,
                settings,
                when=lambda run: _first_effect(killer, run, chance.random() * USUAL),
                again=lambda task: killer.run(task, mutate=[fault]),
            )
        except Broken:
            noticed += 1
        for path in killer.journals():
            path.unlink()
        vm.destroy()
    print(f"\n{fault}: noticed by {noticed} of {trials} kills")
    return noticed


def _first_effect(killer: Killer, run: ModuleRun, more: float) -> None:
    while not (killer.log.exists() and killer.points()) and run.poll() is None:
        time.sleep(0.002)
    time.sleep(more)


def test_a_sample_of_random_kills(stage: Stage, killer: Killer) -> None:
    found = walk(stage, killer, SAMPLE, kill=True)
    assert found.counts["trials"] == SAMPLE


@pytest.mark.parametrize(
    ("fault", "point"),
    [
        ("no_guard", "before libvirt snapshotCreateXML db01"),
        ("no_recovery", "before libvirt snapshotCreateXML db01"),
    ],
)
def test_a_fault_is_noticed(stage: Stage, killer: Killer, fault: str, point: str) -> None:
    """The checks can fail: without the guard, or without the recovery, they do."""
    vm = stage.running("db01")
    task = Task("vm_snapshot", (vm,), {"name": "new", "quiesce": "required"})
    with pytest.raises(Broken) as problem:
        trial(
            killer,
            task,
            lambda: None,
            {"kill": point, "mutate": [fault]},
            again=lambda task: killer.run(task, mutate=[fault]),
        )
    assert ("frozen" if fault == "no_guard" else "the next run failed") in str(problem.value)
    vm.destroy()


@pytest.mark.kills_all
def test_all_random_kills(stage: Stage, killer: Killer) -> None:
    control = walk(stage, killer, ALL // 4, kill=False)
    killed = walk(stage, killer, ALL, kill=True, known=control.seconds)
    assert killed.counts["trials"] == ALL >= 100
    # Kills that miss prove nothing.
    assert killed.counts["in the middle"] >= ALL // 3
    assert killed.counts["finished"] and killed.counts["undone"]


@pytest.mark.kills_all
@pytest.mark.parametrize("fault", ["no_guard", "no_recovery"])
def test_random_kills_notice_a_fault(stage: Stage, killer: Killer, fault: str) -> None:
    assert faulty(stage, killer, fault, 12)
