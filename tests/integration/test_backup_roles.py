# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles backup_rotation and restore_drill, by their playbooks, on simulated days."""

from __future__ import annotations

from backup_story import Repository, disks_of, paused
from lab import Disk
from role_stage import results

BLANK = Disk(content="blank", size=16)


class Days:
    """Runs of backup.yml, a day after another."""

    def __init__(self, roles, repository: Repository, **usual) -> None:
        self.roles = roles
        self.repository = repository
        self.usual = usual

    def variables(self, **more):
        files = {
            "metrics": str(self.roles.folder / "vmkeep.prom"),
            "report_text": str(self.roles.folder / "report.txt"),
            "report_html": str(self.roles.folder / "report.html"),
        }
        return {**self.repository.params(), **files, **self.usual, **more}

    def next(self, *options, **more):
        self.repository.later()
        return self.roles.succeed("backup", *options, **self.variables(**more))


def test_a_week(roles, modules, make_vm, tmp_path) -> None:
    vm = make_vm("db01", disks=[Disk(), BLANK])
    make_vm("app01", disks=[BLANK], agent=False, running=False)
    repository = Repository(tmp_path / "backup", modules)
    days = Days(roles, repository, keep_daily=3, keep_weekly=2, quiesce="never")
    contents = {}
    for day in range(7):
        vm.write(f"/mnt/vda/day{day}", b"content " * 1000)
        vm.run("sync")
        with paused(vm):
            run = days.next()
            contents[repository.ids(vm)[-1]] = disks_of(vm)
        print(
            day, run.seconds, results(run, "vm_backup")[-1]["vms"]["db01"]["restore_point"]["type"]
        )
        print(run.output)
    assert 0
