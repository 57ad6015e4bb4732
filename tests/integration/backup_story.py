# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the tests of backups look at a repository: with stock tools, not with our code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
from kill_trials import HARNESS
from lab import VM
from lab.modules import start_module
from lab.vm import wait_until
from story import Modules, qemu_img

BEGINNING = datetime(2026, 11, 2, 3, 0, tzinfo=timezone.utc)


class Repository:
    """A repository, and the clock by which its restore points are made."""

    def __init__(self, path: Path, modules: Modules) -> None:
        path.mkdir(exist_ok=True)
        self.path = path
        self.modules = modules
        self.now = BEGINNING

    def params(self, **params: Any) -> dict[str, Any]:
        return {"repository": str(self.path), "now": self.now.isoformat(), **params}

    def later(self, **time: float) -> None:
        self.now += timedelta(**(time or {"days": 1}))

    def back_up(self, vm: VM, **params: Any) -> dict[str, Any]:
        """Make a restore point, of a time that is a day later than the last."""
        self.later()
        result = self.modules.run("vm_backup", vm, **self.params(**params))
        return result["vms"][vm.name]["restore_point"]

    def refused(self, vm: VM, **params: Any) -> str:
        return self.modules.refused("vm_backup", vm, **self.params(**params))

    def folder(self, vm: VM) -> Path:
        return next(self.path.glob(f"*.{vm.uuid}"))

    def ids(self, vm: VM) -> list[str]:
        """The restore points that have a manifest, oldest first."""
        return sorted(path.parent.name for path in self.folder(vm).glob("*/manifest.json"))

    def manifest_text(self, vm: VM, id: str) -> str:
        return (self.folder(vm) / id / "manifest.json").read_text()

    def manifest(self, vm: VM, id: str) -> dict[str, Any]:
        return json.loads(self.manifest_text(vm, id))

    def image(self, vm: VM, id: str, target: str) -> str:
        return str(self.folder(vm) / id / f"{target}.qcow2")

    def content(self, vm: VM, id: str) -> dict[str, str]:
        """target -> SHA-256 of the whole disk, as qemu-img reads it from a restore point."""
        disks = self.manifest(vm, id)["disks"]
        return {d["target"]: sha256(self.image(vm, id, d["target"]), "qcow2") for d in disks}

    def compare(self, vm: VM, id: str) -> None:
        """It holds what the disks of a paused VM hold now."""
        for disk in self.manifest(vm, id)["disks"]:
            image, source = self.image(vm, id, disk["target"]), disk["source"]
            formats = ["-U", "-f", disk["format"], "-F", "qcow2"]
            subprocess.run(["qemu-img", "compare", *formats, source, image], check=True)

    def check(self, vm: VM, id: str) -> None:
        """Its files are as the manifest says, and it opens from anywhere."""
        manifest = self.manifest(vm, id)
        for file in manifest["files"]:
            content = (self.folder(vm) / id / file["name"]).read_bytes()
            assert len(content) == file["size"]
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
        for disk in manifest["disks"]:
            info = qemu_img("info", self.image(vm, id, disk["target"]))
            backing = info.get("backing-filename", "")
            assert (disk["type"] == "incremental") == bool(backing)
            assert not backing.startswith("/")


def disks_of(vm: VM) -> dict[str, str]:
    """target -> SHA-256 of what the disks hold, of a VM that is paused or off."""
    assert not vm.active() or vm.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    found = {}
    for disk in vm.xml().iterfind("devices/disk[@device='disk']"):
        kind = disk.find("driver").get("type")
        found[disk.find("target").get("dev")] = sha256(disk.find("source").get("file"), kind)
    return found


@contextlib.contextmanager
def paused(vm: VM) -> Iterator[None]:
    """The vCPUs stand still, so that the disks hold still as well."""
    vm.domain.suspend()
    try:
        yield
    finally:
        vm.domain.resume()


def sha256(path: str, image_format: str) -> str:
    """Of the content of a disk, read by qemu-img through whatever chain."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as raw:
        convert = [
            "qemu-img",
            "convert",
            "-U",
            "-f",
            image_format,
            "-O",
            "raw",
            "--",
            path,
            raw.name,
        ]
        subprocess.run(convert, check=True)
        with Path(raw.name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoints(vm: VM) -> list[str]:
    return sorted(found.getName() for found in vm.domain.listAllCheckpoints())


class SlowBackup:
    """A backup under way, which goes on slowly until it is let go."""

    def __init__(
        self, repository: Repository, vm: VM, log: Path, speed: int = 1 << 20, **params: Any
    ) -> None:
        repository.later()
        self.vm = vm
        self.run = start_module(
            "vm_backup",
            repository.modules.params(vm, **repository.params(type="full", **params)),
            env={"VMKEEP_HARNESS": json.dumps({"log": str(log), "slow": speed})},
            runner=HARNESS,
        )
        wait_until(lambda: "after slowing down" in log_text(log), 60, "it begins")

    def let_go(self) -> None:
        """Let it go on as fast as it can."""
        answer = self._monitor("query-jobs")
        for job in json.loads(answer)["return"]:
            self._monitor("block-job-set-speed", device=job["id"], speed=0)

    def _monitor(self, command: str, **arguments: Any) -> str:
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        return libvirt_qemu.qemuMonitorCommand(self.vm.domain, json.dumps(request), 0)


def log_text(log: Path) -> str:
    return log.read_text() if log.exists() else ""
