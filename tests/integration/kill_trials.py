# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a killed run has to leave, and how tests kill one.

A trial runs a task in `kill_harness.py`, which dies at a point or at a time, and then holds the
world against what the same task leaves when it is not killed.
"""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
from kill_stage import contents, needs_recovery
from lab import VM
from lab.modules import ModuleRun, start_module
from lab.vm import wait_until
from story import Modules, folder

HARNESS = Path(__file__).with_name("kill_harness.py")
THAWED_WITHIN = 2.0
NOTED = re.compile(r"interrupted run|left alone what could not be merged|thawed the guest")
TAKING = ("vm_snapshot", "vm_storage_snapshot")
# A call that takes longer (seconds) is also killed in its middle.
LONG_CALL = 0.02
# A draft of the journal beside the journal changes nothing once there is one.
DRAFT_AGAIN = re.compile(r"create \S+\.json\.new #")


class Broken(AssertionError):
    """What a killed run left does not keep the promise."""


def must(condition: object, what: str) -> None:
    if not condition:
        raise Broken(what)


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of a playbook: module, VMs, parameters."""

    module: str
    vms: tuple[VM, ...]
    params: dict[str, Any]

    def __str__(self) -> str:
        words = " ".join(f"{key}={value}" for key, value in self.params.items())
        return f"{self.module} {'+'.join(vm.name for vm in self.vms)} {words}".rstrip()

    @property
    def freezes(self) -> bool:
        """Whether the agent may be asked to freeze a guest."""
        taking = self.module in TAKING and self.params.get("state", "present") == "present"
        return taking and not self.params.get("memory")

    @property
    def gives_up(self) -> bool:
        """Whether what was written last is to be given up."""
        return self.params.get("state") == "reverted"


@dataclasses.dataclass(frozen=True)
class Point:
    """A moment in a run. `seconds` since its start; `effect`: the call changes something."""

    name: str
    seconds: float
    effect: bool


class Killer:
    """Runs tasks in the harness; its files are kept in `scratch`."""

    def __init__(self, modules: Modules, scratch: Path) -> None:
        self.modules = modules
        self.log = scratch / "points.log"

    def start(self, task: Task, *, check: bool = False, **settings: Any) -> ModuleRun:
        """Start the task under the harness with these settings (see there)."""
        self.log.unlink(missing_ok=True)
        names = {vm.uuid: vm.name for vm in task.vms}
        told = {"log": str(self.log), "names": names, **settings}
        return start_module(
            task.module,
            self.modules.params(list(task.vms), **task.params),
            check=check,
            env={"VMKEEP_HARNESS": json.dumps(told)},
            runner=HARNESS,
        )

    def run(self, task: Task, **settings: Any) -> dict[str, Any]:
        """The task to its end."""
        return self.start(task, **settings).result()

    def plain(self, task: Task) -> dict[str, Any]:
        """The task without the harness."""
        return self.modules.attempt(task.module, list(task.vms), **task.params)

    def points(self) -> list[Point]:
        """The points that the last run passed, in order."""
        complete = self.log.read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in complete.splitlines()]
        return [
            Point(line["point"], line["seconds"], line["effect"])
            for line in lines
            if "point" in line
        ]

    def reaches(self, point: str, timeout: float = 60) -> None:
        """Return when the run under way has passed a point."""
        wait_until(lambda: point in self._passed(), timeout, f"the run passes {point}")

    def _passed(self) -> set[str]:
        return {point.name for point in self.points()} if self.log.exists() else set()

    def left(self) -> list[Path]:
        """The journals that a dead run left."""
        return [path for path in self.journals() if path.suffix == ".json"]

    def journals(self) -> list[Path]:
        """What stands in the directory of journals, drafts included."""
        return sorted(self.modules.state_dir.glob("journal/*"))


def moments(points: list[Point]) -> list[dict[str, Any]]:
    """Settings for one kill in each state that the world passes through.

    Between two effects nothing changes outside of the process, so that one kill there stands
    for all. A call with an effect that takes long is also killed in its middle.
    """
    chosen: list[dict[str, Any]] = []
    began: dict[str, float] = {}
    last = ""
    for point in points:
        moment, _sep, label = point.name.partition(" ")
        if not point.effect or DRAFT_AGAIN.search(label):
            continue
        if moment == "before":
            if not last.startswith("before"):
                chosen.append({"kill": point.name})
            began[label] = point.seconds
        elif point.seconds - began.get(label, point.seconds) > LONG_CALL:
            delay = (point.seconds - began[label]) / 2
            chosen.append({"kill": f"during {label}", "delay": delay})
        last = point.name
    return [*chosen, *([{"kill": last}] if last else [])]


def spread(settings: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many of them, as far from each other as can be, the first and the last included."""
    if len(settings) <= count:
        return settings
    last = len(settings) - 1
    return [settings[round(n * last / (count - 1))] for n in range(count)]


def every_point(points: list[Point]) -> list[dict[str, Any]]:
    """Settings for one kill at each named point."""
    calls = [setting for setting in moments(points) if setting["kill"].startswith("during")]
    return [*({"kill": point.name} for point in points), *calls]


# --- what has to hold ---


def thawed(vm: VM, deadline: float) -> None:
    """Return when the agent says so and every mount takes a write; Broken at the deadline."""
    status = "no answer"
    while time.monotonic() < deadline:
        try:
            status = str(vm.agent("guest-fsfreeze-status", timeout=1))
        except libvirt.libvirtError as error:
            status = str(error)
        if status == "thawed":
            break
        time.sleep(0.02)
    must(status == "thawed", f"{vm.name} {THAWED_WITHIN} s after the kill: {status}")
    stalled = vm.stalled(max(0.3, deadline - time.monotonic()))
    must(not stalled, f"{vm.name} {THAWED_WITHIN} s after the kill: no writes to {stalled}")


def portrait(modules: Modules, vms: tuple[VM, ...]) -> dict[str, Any]:
    """The VMs as they are to be compared: state, chains, snapshots, and every file."""
    found = modules.run("vm_snapshot_info", list(vms))["vms"]
    for name, entry in found.items():
        must(not entry["disagreements"], f"{name} disagrees: {entry['disagreements']}")
        truthful(entry)
    return {
        vm.name: {
            "state": found[vm.name]["state"],
            "tree": found[vm.name]["tree"],
            "snapshots": [
                {key: value for key, value in snapshot.items() if key != "created"}
                for snapshot in found[vm.name]["snapshots"]
            ],
            "disks": {
                target: [disk["source"], disk["persistent"], [i["filename"] for i in disk["chain"]]]
                for target, disk in found[vm.name]["disks"].items()
            },
            "files": files(vm),
        }
        for vm in vms
    }


def files(vm: VM) -> list[str]:
    """Everything beside the images of a VM, and these."""
    return sorted(str(path) for path in folder(vm).iterdir())


def difference(found: Any, wanted: Any, path: str = "") -> list[str]:
    """Where two portraits differ, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            text
            for key in sorted({*found, *wanted})
            for text in difference(found.get(key), wanted.get(key), f"{path}/{key}")
        ]
    return [] if found == wanted else [f"{path[1:]} is {found!r}, not {wanted!r}"]


def truthful(entry: dict[str, Any]) -> None:
    """A snapshot that is said to be consistent holds file systems that a freeze has closed."""
    for snapshot in entry["snapshots"]:
        if snapshot["consistency"] == "filesystem":
            for target, disk in snapshot["disks"].items():
                must(
                    not needs_recovery(disk["image"]),
                    f"{snapshot['name']} of {target} claims to be quiesced, but was written to",
                )


@dataclasses.dataclass
class Trial:
    """One kill and what came of it. `middle`: it left a journal."""

    died: bool = False
    middle: bool = False
    notes: tuple[str, ...] = ()


def trial(
    killer: Killer,
    task: Task,
    compare: Callable[[], None],
    settings: dict[str, Any],
    *,
    when: Callable[[ModuleRun], None] | None = None,
    again: Callable[[Task], dict[str, Any]] | None = None,
) -> Trial:
    """Kill the task, run it again, and hold both to the promises; raises Broken.

    `settings` tell the harness when to die; or `when` returns at the moment to do it.
    `compare` holds what there is in the end against what the task leaves without a kill;
    `again` runs the task the second time (by default just so).
    """
    before = {vm.name: contents(vm) for vm in task.vms}
    run = killer.start(task, **settings)
    if when:
        when(run)
        run.send_signal(signal.SIGKILL)
    status = run.wait()
    gone = time.monotonic()
    found = Trial(died=status == -signal.SIGKILL, middle=bool(killer.left()))
    # Where libvirt was left in the middle of a call, the next run comes at once. (A call that
    # was quicker this time may have ended before.)
    at_once = str(settings.get("kill", "")).startswith("during")
    must(found.died or at_once or "kill" not in settings, "the run did not get to that point")
    if task.freezes and not at_once:
        for vm in task.vms:
            if vm.active():
                thawed(vm, gone + THAWED_WITHIN)
    _finish(killer, task, found, again or killer.plain)
    compare()
    for vm in task.vms:
        if task.gives_up:
            before[vm.name].pop("", None)
        _kept(vm, before[vm.name])
    return found


def _finish(
    killer: Killer, task: Task, found: Trial, again: Callable[[Task], dict[str, Any]]
) -> None:
    """The same task again finishes or undoes, says so, and leaves nothing to do."""
    second = again(task)
    must(not second["failed"], f"the next run failed: {second.get('msg')}")
    found.notes = tuple(second["notes"])
    noted = any(NOTED.search(note) for note in found.notes)
    must(noted or not found.middle, f"a journal was left, and the notes are {found.notes}")
    third = killer.plain(task)
    must(not third["failed"], f"the third run failed: {third.get('msg')}")
    must(not third["changed"], f"the third run still had to do: {third['plan']}")
    must(not killer.journals(), f"left in the state directory: {killer.journals()}")


def _kept(vm: VM, before: dict[str, str]) -> None:
    """Nothing that the guest wrote is lost, neither now nor in the snapshots."""
    after = contents(vm)
    for name in before.keys() & after.keys():
        must(after[name] == before[name], f"{vm.name}: {name or 'its content'} has changed")
    if vm.active():
        stalled = vm.stalled()
        must(not stalled, f"{vm.name}: no writes to {stalled}")
        lost = vm.lost_records()
        must(not lost, f"{vm.name} lost {len(lost)} records: {lost[:3]}")
