# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of our modules on the machine, each in a way that a history needs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from lab import Lab
from lab.forked import run_forked
from lab.modules import ModuleCrashed, ModuleRun, start_module

from . import images
from .model import Content

NAME = "db01"
HARNESS = Path(__file__).parents[1] / "integration" / "kill_harness.py"
FULL_HARNESS = HARNESS.with_name("full_harness.py")
FILLER = "filler"  # as that harness calls it


class Tasks:
    """What is done with our modules, in one lab with one state directory and repository."""

    lab: Lab
    state_dir: Path
    repository: Path
    beside: Path  # for a machine that is restored beside ours

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        common = {"vm": [NAME], "uri": self.lab.uri, "state_dir": str(self.state_dir)}
        return {**common, **given}

    def attempt(self, module: str, *, check: bool = False, **given: Any) -> dict[str, Any]:
        """A run to its end, whatever comes of it."""
        return run_forked(module, self.options(given), check=check)

    def begin(self, module: str, **given: Any) -> ModuleRun:
        """A run that goes on beside others."""
        return start_module(module, self.options(given))

    def filling(self, module: str, env: dict[str, str], **given: Any) -> dict[str, Any]:
        """A run in the middle of which the file system of its records becomes full."""
        return start_module(module, self.options(given), env=env, runner=FULL_HARNESS).result()

    def killed(self, module: str, at: int, **given: Any) -> bool:
        """A run that dies before its effect number `at`; False where it had fewer."""
        settings = {"log": str(self.lab.directory / "effects"), "kill_effect": at}
        run = start_module(
            module,
            self.options(given),
            env={"VMKEEP_HARNESS": json.dumps(settings)},
            runner=HARNESS,
        )
        try:
            run.result()
        except ModuleCrashed:
            return True
        return False

    def told(self) -> dict[str, dict[str, Any]]:
        """Snapshots by name, as vm_snapshot_info has them."""
        result = self.attempt("vm_snapshot_info")
        return {found["name"]: found for found in result["vms"][NAME]["snapshots"]}

    def restore_points(self) -> list[str]:
        """Their ids in the order in which they were made, as vm_backup_info has them."""
        result = self.attempt("vm_backup_info", repository=str(self.repository))
        if result["failed"]:
            return []
        return [found["id"] for found in result["vms"][NAME]["restore_points"]]

    def look_beside(self, wanted: Content) -> None:
        """Compare a machine that was restored beside ours, and discard it."""
        other = ET.fromstring(self.lab.connection.lookupByName("beside").XMLDesc(0))
        for disk in other.iterfind("devices/disk"):
            target = disk.find("target").get("dev")
            if target not in wanted:  # one that was attached
                continue
            held = images.content(target, disk.find("source").get("file"))
            if held != wanted[target]:
                raise images.Stray(f"restored beside, {target} holds {held}, not {wanted[target]}")
        gone = run_forked("vm_discard", {**self.options({}), "vm": ["beside"]})
        if gone["failed"] or list(self.beside.iterdir()):
            left = sorted(map(str, self.beside.iterdir()))
            raise images.Stray(f"vm_discard: {gone.get('msg')}, left {left}")

    def clear_beside(self) -> None:
        """Take away what a run that died, or met another, may have restored beside."""
        if "beside" in {domain.name() for domain in self.lab.connection.listAllDomains()}:
            run_forked("vm_discard", {**self.options({}), "vm": ["beside"]})
        for path in self.beside.iterdir():
            path.unlink()
