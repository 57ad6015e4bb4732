# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the integration tests speak to the modules, with what must hold for each of them built in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from lab import VM, Lab
from lab.forked import run_forked
from lab.modules import ModuleRun, start_module
from lab.vm import wait_until

# Counts in memory and, durably, on a disk; what is read of it is always a whole number. It starts
# no program while it counts: that would cost an emulated guest more than all the rest.
_COUNTER = """n=0
mkfifo /run/tick
exec 8<>/run/tick
: >/mnt/vda/count
chattr +S /mnt/vda/count
while :; do
    n=$((n + 1))
    for file in /mnt/vda/count /run/count; do printf '%08d\\n' $n 1<>$file; done
    read -r -t 0.1 _ <&8
done"""


def start_counting(vm: VM) -> None:
    """Let a process count in the memory and on a disk of the guest."""
    vm.control().start(["sh", "-c", _COUNTER], capture=False)
    wait_until(lambda: vm.run("cat /run/count || true").strip() != "", 20, "the counter counts")


def count(vm: VM) -> int:
    """What the counter in the guest has come to, the same in memory and on the disk."""
    in_memory, on_disk = map(int, vm.run("cat /run/count /mnt/vda/count").split())
    assert abs(in_memory - on_disk) <= 5, "memory and disk are not of one point"
    return in_memory


def count_beyond(vm: VM, number: int) -> int:
    """Return once the counter has come beyond a number, with what it has come to."""
    wait_until(lambda: count(vm) > number, 60, f"the counter comes beyond {number}")
    return count(vm)


class Modules:
    """The modules of the collection against one lab, with a state directory of their own."""

    def __init__(self, lab: Lab, state_dir: Path) -> None:
        self.lab = lab
        self.state_dir = state_dir

    def run(self, module: str, vms: VM | list[VM], *, check: bool = False, **params: Any) -> dict:
        """One run that has to succeed."""
        result = self.attempt(module, vms, check=check, **params)
        assert not result["failed"], result["msg"]
        return result

    def attempt(
        self, module: str, vms: VM | list[VM], *, check: bool = False, **params: Any
    ) -> dict:
        """One run, whatever comes of it."""
        return run_forked(module, self.params(vms, **params), check=check)

    def start(self, module: str, vms: VM | list[VM], **params: Any) -> ModuleRun:
        """A run that goes on while the test does something else."""
        return start_module(module, self.params(vms, **params))

    def params(self, vms: VM | list[VM], **params: Any) -> dict:
        """A task's options for these VMs in this lab."""
        names = [vm.name for vm in (vms if isinstance(vms, list) else [vms])]
        return {"vm": names, "uri": self.lab.uri, "state_dir": str(self.state_dir), **params}

    def change(self, module: str, vms: VM | list[VM], **params: Any) -> dict:
        """A change, with the promises of every mutation.

        Check mode touches nothing and foresees the very plan and picture of the real run, a second
        run changes nothing, and no snapshot is damaged.
        """
        machines = vms if isinstance(vms, list) else [vms]
        before = [world(vm) for vm in machines]
        suffered = set().union(*(self.damaged(vm) for vm in machines))
        foreseen = self.run(module, vms, check=True, **params)
        assert [world(vm) for vm in machines] == before, "check mode changed something"
        real = self.run(module, vms, **params)
        assert real["changed"] and foreseen["changed"]
        assert plain(real["plan"]) == plain(foreseen["plan"])
        assert real["diff"] == foreseen["diff"]
        again = self.run(module, vms, **params)
        assert not again["changed"] and again["plan"] == []
        assert not list(self.state_dir.glob("journal/*")), "a journal was left"
        assert not [note for note in real["notes"] if "could not be recorded" in note]
        assert set().union(*(self.damaged(vm) for vm in machines)) <= suffered
        return real

    def refused(self, module: str, vms: VM | list[VM], **params: Any) -> str:
        """The message of a run that has to fail, in check mode and really, touching nothing."""
        machines = vms if isinstance(vms, list) else [vms]
        before = [world(vm) for vm in machines]
        foreseen = self.attempt(module, vms, check=True, **params)
        real = self.attempt(module, vms, **params)
        assert real["failed"] and foreseen["failed"]
        assert real["msg"] == foreseen["msg"]
        assert [world(vm) for vm in machines] == before, "a refused task changed something"
        return str(real["msg"])

    def info(self, vm: VM) -> dict:
        """What vm_snapshot_info says of one VM."""
        return self.run("vm_snapshot_info", vm)["vms"][vm.name]

    def whole(self, vm: VM) -> set[str]:
        """The snapshots that could be gone back to."""
        return {found["name"] for found in self.info(vm)["snapshots"] if not found["problems"]}

    def damaged(self, vm: VM) -> set[tuple[str, str]]:
        """(VM, snapshot) of those that could not; a VM may be gone."""
        vms = self.attempt("vm_snapshot_info", vm)["vms"]
        found = vms.get(vm.name, {}).get("snapshots", ())
        return {(vm.name, snapshot["name"]) for snapshot in found if snapshot["problems"]}


def plain(plan: list[dict]) -> list[dict]:
    """A plan without what a guest that writes changes between two looks."""
    return [{key: value for key, value in step.items() if key != "bytes"} for step in plan]


def world(vm: VM) -> dict:
    """What a change would show in: definitions, snapshots, files, seen without our code."""
    domain = vm.domain
    return {
        "live": sources(vm),
        "inactive": sources(vm, inactive=True) if domain.isPersistent() else None,
        "snapshots": sorted(found.getName() for found in domain.listAllSnapshots()),
        "files": sorted(str(path) for path in folder(vm).rglob("*.*") if _is_image(path)),
    }


IMAGES = (".qcow2", ".save", ".raw")


def _is_image(path: Path) -> bool:
    """Also one that storage has copied as IMAGE@NAME."""
    return Path(path.name.partition("@")[0]).suffix in IMAGES


def folder(vm: VM) -> Path:
    """Where the images of a VM stand."""
    return Path(next(iter(vm.disks.values())).path).parent if vm.disks else Path(vm.folder)


def sources(vm: VM, *, inactive: bool = False) -> dict[str, str]:
    """target -> path, as libvirt says."""
    return {
        node.find("target").get("dev"): node.find("source").get("file")
        for node in vm.xml(inactive=inactive).iterfind("devices/disk")
        if node.find("source") is not None
    }


def chain(path: str) -> list[str]:
    """The chain of an image as qemu-img tells it, active image first."""
    return [layer["filename"] for layer in qemu_img("info", "-U", "--backing-chain", path)]


def name_relatively(files: list[str]) -> None:
    """Let each image of a chain name the next one by what it is called beside it."""
    for upper, lower in zip(files, files[1:]):
        rebase = ["qemu-img", "rebase", "-u", "-F", "qcow2", "-b", Path(lower).name, upper]
        subprocess.run(rebase, check=True)


def qemu_img(command: str, *arguments: str) -> Any:
    """What qemu-img says in JSON."""
    line = ["qemu-img", command, "--output=json", *arguments]
    return json.loads(subprocess.run(line, check=True, capture_output=True).stdout)
