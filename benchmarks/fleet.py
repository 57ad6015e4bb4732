# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What 50 VMs cost in one call, against one VM and against one call for each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import Lab
from lab.playbooks import PROGRAM, Controller

from .pairs import Comparison, Goal, in_turns
from .programs import INSIDE, WHOLE, BenchmarkError, Timed, milliseconds, run_module, run_program
from .report import Part

MODULE = "vmkeep.libvirt.vm_snapshot"
NAME = "wanted"
ONE = "the same module with one VM"
LOOP_PAIRS = 7


class Fleet:
    """VMs that all have the wanted snapshot already."""

    def __init__(self, lab: Lab, count: int) -> None:
        self.lab = lab
        self.names = sorted(vm.name for vm in lab.many(count))
        first = self.run(self.names, audit=True)
        if not first.result["changed"]:
            raise BenchmarkError("the first run took no snapshot")
        self.spawned_by_a_change = len(first.spawned)

    def wish(self, names: Any) -> dict[str, Any]:
        state = str(self.lab.directory / "state")
        return {"vm": names, "name": NAME, "uri": self.lab.uri, "state_dir": state}

    def run(self, names: list[str], *, audit: bool = False) -> Timed:
        return run_module(self.lab.directory, "vm_snapshot", self.wish(names), audit=audit)

    def unchanged(self, names: list[str]) -> Timed:
        """A run that has nothing to do, and does nothing."""
        timed = self.run(names)
        if timed.result["changed"] or len(timed.result["vms"]) != len(names):
            raise BenchmarkError("the run was to find every VM as wanted")
        return timed


class Tasks:
    """The same by ansible-playbook: one task for all VMs, or a loop over them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._controller = Controller(fleet.lab)
        self._record = self._controller.folder / "times"
        at_once = {"name": "All at once", MODULE: fleet.wish(fleet.names)}
        each = {"name": "One by one", MODULE: fleet.wish(["{{ item }}"]), "loop": fleet.names}
        self._at_once = self._playbook("at-once", at_once)
        self._each = self._playbook("each", each)

    def _playbook(self, name: str, task: dict[str, Any]) -> Path:
        path = self._controller.folder / f"{name}.json"
        play = {"hosts": "hypervisors", "gather_facts": False, "tasks": [task]}
        path.write_text(json.dumps([play]))
        return path

    def payload(self, names: list[str]) -> Path:
        """The program that Ansible sends to a hypervisor and runs there: module and arguments."""
        playbook = self._playbook("payload", {"name": "Keep", MODULE: self._fleet.wish(names)})
        remote = self._controller.folder / "remote"
        before = set(remote.glob("*/AnsiballZ_*.py"))
        self._play(playbook, ANSIBLE_KEEP_REMOTE_FILES="1")
        [program] = set(remote.glob("*/AnsiballZ_*.py")) - before
        return program

    def at_once(self) -> tuple[float, float]:
        """Seconds of the task and of the whole ansible-playbook."""
        return self._play(self._at_once)

    def each(self) -> tuple[float, float]:
        return self._play(self._each)

    def _play(self, playbook: Path, **settings: str) -> tuple[float, float]:
        environment = {**self._controller.environment(), **settings}
        environment["ANSIBLE_CALLBACKS_ENABLED"] = "task_times"
        environment["ANSIBLE_CALLBACK_PLUGINS"] = str(Path(__file__).with_name("callbacks"))
        environment["VMKEEP_TASK_TIMES"] = str(self._record)
        words = [str(PROGRAM), str(playbook)]
        began = time.monotonic()
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        whole = time.monotonic() - began
        if done.returncode or b"changed=0" not in done.stdout:
            raise BenchmarkError(f"{playbook.name}: {(done.stdout + done.stderr).decode()}")
        return float(self._record.read_text()), whole


def measure(pairs: int, *, quick: bool) -> Part:
    count = 3 if quick else 50
    with Lab() as lab:
        fleet = Fleet(lab, count)
        tasks = Tasks(fleet)
        rows = [*as_ansible_runs_it(fleet, tasks, pairs), *bare(fleet, pairs)]
        spawned = fleet.run(fleet.names, audit=True).spawned
        rows += against_loop(fleet, tasks, min(pairs, LOOP_PAIRS))
    return Part("fleet", rows, [programs_started(count, len(spawned), fleet.spawned_by_a_change)])


def programs_started(count: int, unchanged: int, changing: int) -> str:
    return (
        f"Programs started by a no-change run over {count} VMs: {unchanged}"
        f" (counted by an audit hook, which saw {changing} when the snapshots were taken)."
    )


def as_ansible_runs_it(fleet: Fleet, tasks: Tasks, pairs: int) -> list[Comparison]:
    """The program that Ansible sends: it unpacks and compiles the module first."""
    programs = [str(tasks.payload(names)) for names in (fleet.names, fleet.names[:1])]
    runs = [lambda program=program: run_program(sys.executable, program) for program in programs]
    for run in runs:
        run()
    ours, peer = in_turns(pairs, *runs)
    what = f"no change, {len(fleet.names)} VMs against one: as Ansible runs it"
    times = [tuple(1000 * seconds for seconds in side) for side in (ours, peer)]
    return [Comparison(what, *times, ONE, Goal(1.15))]


def bare(fleet: Fleet, pairs: int) -> list[Comparison]:
    """The module alone, in a Python that has it compiled already."""
    one = fleet.names[:1]
    for names in (fleet.names, one):
        fleet.unchanged(names)
    ours, peer = in_turns(pairs, lambda: fleet.unchanged(fleet.names), lambda: fleet.unchanged(one))
    kinds: dict[str, Callable[[Timed], float]] = {
        WHOLE: lambda run: run.whole,
        INSIDE: lambda run: run.inside,
    }
    return [
        Comparison(
            f"no change, {len(fleet.names)} VMs against one: {kind}",
            milliseconds(ours, seconds),
            milliseconds(peer, seconds),
            ONE,
        )
        for kind, seconds in kinds.items()
    ]


def against_loop(fleet: Fleet, tasks: Tasks, pairs: int) -> list[Comparison]:
    tasks.at_once()  # the first playbook fills Ansible's caches
    ours, peer = in_turns(pairs, tasks.at_once, tasks.each)
    count = len(fleet.names)
    goals = (Goal(20, faster=True), None)
    return [
        Comparison(
            f"one task for {count} VMs against a loop: {kind}",
            tuple(1000 * taken[place] for taken in ours),
            tuple(1000 * taken[place] for taken in peer),
            f"a loop of the same task over {count} VMs",
            goals[place],
            faster=True,
        )
        for place, kind in enumerate(("the task", "the whole ansible-playbook"))
    ]
