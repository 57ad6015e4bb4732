# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL of a whole play at any time: ansible-playbook, its workers and the module.

Modules are killed at every step in other tests. Here it is about what plays do between them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from backup_days import BLANK, MUTE, Days, days
from backup_story import checkpoints, disks_of, paused
from lab import VM, Disk
from lab.playbooks import PlaybookRun
from role_stage import Roles, results
from story import folder

__all__ = ["days"]

SAMPLE, ALL = 2, 40


class Nights:
    """A night after another, in which a play that backs up is killed and run again."""

    def __init__(self, days: Days, vm: VM, other: VM) -> None:
        self.days, self.vm, self.other = days, vm, other
        self.contents: dict[str, dict[str, str]] = {}
        days.usual.update(keep_last=2, keep_daily=0, keep_weekly=0, keep_monthly=0)

    def write(self, night: int) -> None:
        seek = f"seek={night % 200}"
        self.vm.run(f"yes {night} | head -c 65536 | dd of=/dev/vdb bs=64k {seek} conv=fsync; sync")

    def undisturbed(self) -> float:
        """A run to its end; the seconds that it takes."""
        with paused(self.vm):
            began = time.monotonic()
            self.days.next()
            seconds = time.monotonic() - began
            self.exact()
        return seconds

    def disturbed(self, seconds: float) -> bool:
        """A run that is killed after so long, and the next one; whether it was still at work."""
        with paused(self.vm):
            self.days.repository.later()
            died = self.days.roles.killed_after(seconds, "backup", **self.days.variables())
            self.exact()
            run = self.days.next()
            self.exact()
        self.in_order(run)
        return died

    def exact(self) -> None:
        """Every restore point with a manifest is right; those that are new hold what is there."""
        now = disks_of(self.vm)
        repository = self.days.repository
        for id in repository.ids(self.vm):
            repository.check(self.vm, id)
            known = self.contents.setdefault(id, now)
            assert repository.content(self.vm, id) == known

    def in_order(self, run: PlaybookRun) -> None:
        """The next run has done all that was to be done, and nothing is left behind."""
        for stock in results(run, "vm_backup_info")[-1]["vms"].values():
            assert all(point["good"] for point in stock["restore_points"]) and not stock["broken"]
        for vm in (self.vm, self.other):
            place = self.days.repository.folder(vm)
            assert len(self.days.repository.ids(vm)) == 2
            folders = {path.name for path in place.iterdir() if path.is_dir()}
            assert folders - {"uses"} == set(self.days.repository.ids(vm)), "debris is left"
            assert not list(place.glob("*/*.new"))
        assert len(checkpoints(self.vm)) == 1


@pytest.fixture
def nights(days: Days, make_vm: Callable[..., VM]) -> Nights:
    vm = make_vm("db01", disks=[Disk(size=16), BLANK])
    return Nights(days, vm, make_vm("app01", disks=[BLANK], **MUTE))


def killed_at_random(nights: Nights, count: int) -> int:
    """How many of the kills met a run at work."""
    chance, hits = random.Random(7), 0
    for night in range(2):
        nights.write(night)
        seconds = nights.undisturbed()
    for night in range(2, 2 + count):
        nights.write(night)
        hits += nights.disturbed(chance.uniform(0.2, 1) * seconds)
    return hits


def test_backups_that_are_killed(nights: Nights) -> None:
    assert killed_at_random(nights, SAMPLE) > 0


@pytest.mark.kills_all
def test_backups_that_are_killed_many_times(nights: Nights) -> None:
    assert killed_at_random(nights, ALL) > ALL / 2


def drills_that_are_killed(days: Days, roles: Roles, vm: VM, count: int) -> int:
    """A drill takes away what a dead one has left; the VM itself is not touched."""
    days.repository.back_up(vm, quiesce="never")
    state = days.folder / "state"
    usual: dict[str, Any] = {"vm": "db01", "repository": str(days.repository.path)}
    usual["state_dir"] = str(state)
    before = sorted(folder(vm).glob("*.qcow2*"))
    began = time.monotonic()
    roles.succeed("restore_drill", **usual)
    seconds = time.monotonic() - began
    chance, hits = random.Random(3), 0
    for _number in range(count):
        hits += roles.killed_after(chance.uniform(0.3, 1) * seconds, "restore_drill", **usual)
        roles.succeed("restore_drill", **usual)
        assert [dom.name() for dom in vm.lab.connection.listAllDomains()] == ["db01"]
        assert sorted(folder(vm).glob("*.qcow2*")) == before
        assert not list((state / "drills").iterdir())
        assert vm.active() and vm.lost_records() == []
    return hits


def test_drills_that_are_killed(days: Days, roles: Roles, make_vm: Callable[..., VM]) -> None:
    assert drills_that_are_killed(days, roles, make_vm("db01"), 2) > 0


@pytest.mark.kills_all
def test_drills_that_are_killed_many_times(
    days: Days, roles: Roles, make_vm: Callable[..., VM]
) -> None:
    assert drills_that_are_killed(days, roles, make_vm("db01"), 20) > 10
