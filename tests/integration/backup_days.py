# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of the playbook backup, a day after another, by a clock that is given."""

from __future__ import annotations

import re
from typing import Any

import pytest
from backup_story import Repository
from lab import Disk
from lab.playbooks import PlaybookRun
from role_stage import Roles
from story import Modules

BLANK = Disk(content="blank", size=16)
MUTE = {"agent": False, "running": False}


class Days:
    """Runs of backup.yml, a day after another, that write all files in ``folder``."""

    def __init__(self, roles: Roles, modules: Modules, **usual: Any) -> None:
        self.roles = roles
        self.folder = roles.folder
        self.repository = Repository(roles.folder / "backup", modules)
        self.usual = {"quiesce": "never", **usual}
        self.files = {
            "metrics": str(self.folder / "vmkeep.prom"),
            "report_text": str(self.folder / "report.txt"),
            "report_html": str(self.folder / "report.html"),
        }

    def variables(self, **more: Any) -> dict[str, Any]:
        return {**self.repository.params(), **self.usual, **more}

    def next(self, *options: str, **more: Any) -> PlaybookRun:
        self.repository.later()
        return self.roles.succeed("backup", *options, **self.variables(**more))

    def foresee(self, **more: Any) -> PlaybookRun:
        """What the next run would do, by check mode."""
        now = self.repository.now
        self.repository.later()
        run = self.roles.succeed("backup", "--check", **self.variables(**more))
        self.repository.now = now
        return run

    def refused(self, **more: Any) -> str:
        return self.roles.refused("backup", **self.variables(**more))

    def metrics(self) -> dict[str, dict[str, float]]:
        """metric -> VM -> value; every line has to be as Prometheus reads it."""
        found: dict[str, dict[str, float]] = {}
        for line in (self.folder / "vmkeep.prom").read_text().splitlines():
            if not re.fullmatch(r"# (HELP|TYPE) vmkeep_\w+ .+", line):
                shape = r'vmkeep_(?:backup|drill)_(\w+)\{(?:vm="(.*?)",)?repository="(.*?)"\} (\S+)'
                read = re.fullmatch(shape, line)
                assert read, line
                found.setdefault(read[1], {})[read[2] or ""] = float(read[4])
        return found


@pytest.fixture
def days(roles: Roles, modules: Modules) -> Days:
    return Days(roles, modules)
