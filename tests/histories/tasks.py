# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of our modules on the machine, each in a way that a history needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lab import Lab
from lab.forked import run_forked
from lab.modules import ModuleCrashed, ModuleRun, start_module

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

    def killed(self, module: str, at: int, of: str, **given: Any) -> bool:
        """A run that dies before its effect, or call, number `at`; False where it had fewer."""
        settings = {"log": str(self.lab.directory / "effects"), f"kill_{of}": at}
        try:
            run_forked(module, self.options(given), env={"VMKEEP_HARNESS": json.dumps(settings)})
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
