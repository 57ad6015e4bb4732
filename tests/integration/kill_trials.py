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
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import libvirt
from lab import VM
from lab.modules import ModuleRun, start_module
from story import Modules, folder

HARNESS = Path(__file__).with_name("kill_harness.py")
THAWED_WITHIN = 2.0
NOTED = re.compile(r"interrupted run|left alone what could not be merged|thawed the guest")
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
        taking = self.module == "vm_snapshot" and self.params.get("state") != "absent"
        return taking and not self.params.get("memory")


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

    def start(self, task: Task, **settings: Any) -> ModuleRun:
        """Start the task under the harness with these settings (see there)."""
        self.log.unlink(missing_ok=True)
        names = {vm.uuid: vm.name for vm in task.vms}
        told = {"log": str(self.log), "names": names, **settings}
        return start_module(
            task.module,
            self.modules.params(list(task.vms), **task.params),
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
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [
            Point(line["point"], line["seconds"], line["effect"])
            for line in lines
            if "point" in line
        ]

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
        moment, _, label = point.name.partition(" ")
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
            "files": sorted(str(path) for path in folder(vm).iterdir()),
        }
        for vm in vms
    }


def difference(found: Any, wanted: Any, path: str = "") -> list[str]:
    """Where two portraits differ, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            text
            for key in sorted({*found, *wanted})
            for text in difference(found.get(key), wanted.get(key), f"{path}/{key}")
        ]
    return [] if found == wanted else [f"{path[1:]} is {found!r}, not {wanted!r}"]


@dataclasses.dataclass
class Trial:
    """One kill and what came of it."""

    died: bool = False
    middle: bool = False
    notes: tuple[str, ...] = ()


def trial(
    killer: Killer, task: Task, wanted: dict[str, Any], settings: dict[str, Any], after: float = 0
) -> Trial:
    """Kill the task (at a point, or `after` seconds), run it again, and hold it to the promise.

    Raises Broken.
    """
    run = killer.start(task, **settings)
    if after:
        time.sleep(after)
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
    status = run.wait()
    gone = time.monotonic()
    found = Trial(died=status == -signal.SIGKILL, middle=bool(killer.left()))
    must(found.died or "kill" not in settings, "the run did not get to that point")
    at_once = str(settings.get("kill", "")).startswith("during")
    if task.freezes and not at_once:
        for vm in task.vms:
            if vm.active():
                thawed(vm, gone + THAWED_WITHIN)
    return finished(killer, task, wanted, found)


def finished(killer: Killer, task: Task, wanted: dict[str, Any], found: Trial) -> Trial:
    """The same task again has to finish or undo, say so, and leave what it always leaves."""
    again = killer.plain(task)
    must(not again["failed"], f"the next run failed: {again.get('msg')}")
    found.notes = tuple(again["notes"])
    noted = any(NOTED.search(note) for note in found.notes)
    must(noted or not found.middle, f"a journal was left, and the notes are {found.notes}")
    third = killer.plain(task)
    must(not third["failed"], f"the third run failed: {third.get('msg')}")
    must(not third["changed"], f"the third run still had to do: {third['plan']}")
    must(not killer.journals(), f"left in the state directory: {killer.journals()}")
    unlike = difference(portrait(killer.modules, task.vms), wanted)
    must(not unlike, "; ".join(unlike))
    for vm in task.vms:
        if vm.active():
            stalled = vm.stalled()
            must(not stalled, f"{vm.name}: no writes to {stalled}")
            lost = vm.lost_records()
            must(not lost, f"{vm.name} lost {len(lost)} records: {lost[:3]}")
    return found


# --- bringing machines into a known state, without our code ---


def grow(vm: VM, *names: str) -> None:
    """Take external snapshots of all disks by libvirt, in the form that ours have."""
    for name in names:
        vm.domain.snapshotCreateXML(_snapshot_xml(vm, name), 16 if vm.active() else 0)


def _snapshot_xml(vm: VM, name: str) -> str:
    disks = "".join(
        f"<disk name='{target}' snapshot='external'><driver type='qcow2'/>"
        f"<source file='{overlay(vm, target, name)}'/></disk>"
        for target in vm.disks
    )
    worth = "crash" if vm.active() else "offline"
    return (
        f"<domainsnapshot><name>{name}</name><description>vmkeep: consistency={worth}"
        f"</description><disks>{disks}</disks></domainsnapshot>"
    )


def overlay(vm: VM, target: str, name: str) -> str:
    """Where the overlay of a snapshot stands."""
    return str(folder(vm) / f"{vm.name}.{target}.{name}.qcow2")


def collapse(vm: VM) -> None:
    """Merge all overlays of a running VM into the first images, forget snapshots, remove files."""
    domain = vm.domain
    for target, disk in vm.disks.items():
        if vm.source(target) == disk.path:
            continue
        domain.blockCommit(target, disk.path, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
        while not _ready(vm, target):
            time.sleep(0.01)
        domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    forget(vm)
    kept = {disk.path for disk in vm.disks.values()}
    for path in folder(vm).iterdir():
        if path.suffix in (".qcow2", ".save") and str(path) not in kept:
            path.unlink()


def _ready(vm: VM, target: str) -> bool:
    disk = next(
        node
        for node in vm.xml().iterfind("devices/disk")
        if node.find(f"target[@dev='{target}']") is not None
    )
    return disk.find("mirror[@ready='yes']") is not None


def forget(vm: VM) -> None:
    """Let libvirt forget all snapshots."""
    for snapshot in vm.domain.listAllSnapshots():
        snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


class Template:
    """A VM that is off, with its images and snapshots as they were when this was made."""

    def __init__(self, vm: VM, store: Path) -> None:
        self.vm = vm
        self._store = store
        store.mkdir()
        self._xml = vm.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        self._snapshots = _snapshots_of(vm)
        for path in folder(vm).glob("*.qcow2"):
            _copy(path, store / path.name)

    def restore(self) -> None:
        """Bring all of it back."""
        self.vm.destroy()
        forget(self.vm)
        for path in folder(self.vm).iterdir():
            if path.suffix in (".qcow2", ".save"):
                path.unlink()
        for path in self._store.iterdir():
            _copy(path, folder(self.vm) / path.name)
        self.vm.lab.connection.defineXML(self._xml)
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
        for xml, current in self._snapshots:
            more = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT if current else 0
            self.vm.domain.snapshotCreateXML(xml, flags | more)


def _snapshots_of(vm: VM) -> list[tuple[str, bool]]:
    found = vm.domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
    secure = libvirt.VIR_DOMAIN_XML_SECURE
    return [(each.getXMLDesc(secure), bool(each.isCurrent())) for each in found]


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)


def contents(vm: VM) -> dict[str, str]:
    """What each snapshot goes back to, and for a VM that is off also what it would boot with.

    `snapshot target` to the digest of the content that a guest would see there.
    """
    points = {f"now {t}": vm.source(t) for t in vm.disks} if not vm.active() else {}
    for snapshot in vm.domain.listAllSnapshots():
        for node in _disks_of(snapshot):
            points[f"{snapshot.getName()} {node[0]}"] = node[1]
    return {name: _digest(path) for name, path in points.items()}


def _disks_of(snapshot: libvirt.virDomainSnapshot) -> list[tuple[str, str]]:
    import xml.etree.ElementTree as ET

    root = ET.fromstring(snapshot.getXMLDesc())
    taken = {disk.get("name") for disk in root.iterfind("disks/disk[@snapshot='external']")}
    return [
        (node.find("target").get("dev"), node.find("source").get("file"))
        for node in root.iterfind("domain/devices/disk")
        if node.find("target").get("dev") in taken
    ]


def _digest(path: str) -> str:
    """Digest of the content of a chain, its holes left out."""
    raw = f"/dev/shm/vmkeep-{os.getpid()}.raw"
    try:
        command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", path, raw]
        subprocess.run(command, check=True, capture_output=True)
        summed = subprocess.run(["sha1sum", raw], check=True, capture_output=True, text=True)
        return summed.stdout.split()[0]
    finally:
        Path(raw).unlink(missing_ok=True)
