# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL while the record of a snapshot is removed that others were taken upon."""

from __future__ import annotations

import signal

import pytest
from kill_stage import Template
from kill_trials import Task, moments
from test_snapshot_absent import take


@pytest.mark.kills
def test_those_above_it_stay_whole(killer, make_vm, tmp_path) -> None:
    """libvirt 9.0 lets the second one name what the first one went back to."""
    vm = make_vm("off06", disks=2, running=False)
    modules = killer.modules
    take(modules, vm, "s1", "s2")
    template = Template(vm, tmp_path / "store")
    task = Task("vm_snapshot", (vm,), {"name": "s1", "state": "absent", "metadata_only": True})
    assert killer.run(task)["changed"]
    calls = ("delete", "snapshotCreateXML", "replace")
    settings = [
        each
        for each in moments(killer.points())
        if "delay" not in each and any(call in each["kill"] for call in calls)
    ]
    assert len(settings) >= 4, settings
    for setting in settings:
        template.restore()
        assert killer.start(task, **setting).wait() == -signal.SIGKILL, setting
        modules.run("vm_snapshot", vm, name="nosuch", state="absent")
        assert modules.whole(vm) in ({"s2"}, {"s1", "s2"}), setting
        assert not killer.left()
