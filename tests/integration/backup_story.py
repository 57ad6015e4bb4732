# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the tests of backups look at a repository: with stock tools, not with our code."""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from lab import VM
from story import Modules, qemu_img, sources

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
        return self.modules.run("vm_backup", vm, **self.params(**params))["vms"][vm.name][
            "restore_point"
        ]

    def folder(self, vm: VM) -> Path:
        return next(self.path.glob(f"*.{vm.uuid}"))

    def ids(self, vm: VM) -> list[str]:
        """The restore points that have a manifest, oldest first."""
        return sorted(path.parent.name for path in self.folder(vm).glob("*/manifest.json"))

    def manifest(self, vm: VM, id: str) -> dict[str, Any]:
        return json.loads((self.folder(vm) / id / "manifest.json").read_text())

    def image(self, vm: VM, id: str, target: str) -> str:
        return str(self.folder(vm) / id / f"{target}.qcow2")

    def content(self, vm: VM, id: str) -> dict[str, str]:
        """target -> SHA-256 of the whole disk, as qemu-img reads it from a restore point."""
        disks = self.manifest(vm, id)["disks"]
        return {d["target"]: sha256(self.image(vm, id, d["target"]), "qcow2") for d in disks}

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
    """target -> SHA-256 of what the disks of a paused VM, or of one that is off, hold now."""
    running = vm.active()
    if running and vm.domain.state()[0] == 1:
        vm.domain.suspend()
        try:
            return disks_of(vm)
        finally:
            vm.domain.resume()
    formats = {disk.target: disk.format for disk in vm.disks.values()}
    found = {}
    for target, path in sources(vm).items():
        kind = "raw" if path.endswith(".raw") else formats.get(target, "qcow2")
        found[target] = sha256(path, "qcow2" if path.endswith(".qcow2") else kind)
    return found


def sha256(path: str, image_format: str) -> str:
    """Of the content of a disk, read by qemu-img, from whatever chain."""
    raw = subprocess.run(
        ["qemu-img", "dd", "-U", "-f", image_format, "-O", "raw", f"if={path}", "of=/dev/stdout", "bs=1M"],
        capture_output=True,
    )
    return hashlib.sha256(raw.stdout).hexdigest()
