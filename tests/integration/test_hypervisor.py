# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""hypervisor_info, and what the role hypervisor makes of it, on a lab with real VMs.

That the role installs packages is proved by ``bin/test molecule``: here it never may.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import VM, Disk, Lab
from lab.modules import run_module
from lab.playbooks import Controller, PlaybookRun
from story import folder, world

BLANK = Disk(size=1, content="blank")
ROLE = str(Path(__file__).with_name("role_hypervisor.yml"))


@pytest.fixture
def vms(make_vm: Callable[..., VM]) -> list[VM]:
    """One VM of each kind: with an agent, without a channel for one, and off."""
    return [
        make_vm("quiet"),
        make_vm("mute", disks=[BLANK], agent=False, paused=True, running=False),
        make_vm("off", disks=[BLANK], running=False),
    ]


def info(lab: Lab, **params: object) -> dict:
    return run_module("hypervisor_info", {"uri": lab.uri, **params})


def test_it_tells_what_is_there(lab_session: Lab, vms: list[VM]) -> None:
    before = [world(vm) for vm in vms]
    found = info(lab_session)
    assert not found["failed"] and not found["changed"]
    usual = {"title": "", "persistent": True, "copy_of": None, "trouble": ""}
    assert found["vms"] == {
        vm.name: {"active": vm.active(), "agent": agent, "uuid": vm.uuid, **usual}
        for vm, agent in zip(vms, ("connected", "absent", "disconnected"))
    }
    words = ["virsh", "-c", lab_session.uri, "version"]
    shown = subprocess.run(words, check=True, capture_output=True)
    for version in found["versions"].values():
        assert version.encode() in shown.stdout
    assert found["qemu_img"] == shutil.which("qemu-img")
    assert [world(vm) for vm in vms] == before


def test_it_measures_where_the_images_lie(lab_session: Lab, vms: list[VM]) -> None:
    found = info(lab_session, directory=["/nowhere"])["directories"]
    assert set(found) == {"/nowhere", *(str(folder(vm)) for vm in vms)}
    assert found["/nowhere"]["trouble"] == "does not exist"
    here, space = found[str(folder(vms[0]))], os.statvfs(folder(vms[0]))
    assert here["trouble"] == "" and here["size"] == space.f_blocks * space.f_frsize
    assert 0 < here["free_percent"] == here["free"] * 100 // here["size"] <= 100


def play(lab: Lab, *options: str, **variables: object) -> PlaybookRun:
    """A run of the role that only checks, with a package that is always there."""
    usual = {"hypervisor_install": False, "hypervisor_packages": ["libvirt-clients"]}
    given = {"hypervisor_uri": lab.uri, **usual, **variables}
    return Controller(lab).play(ROLE, {}, "--extra-vars", json.dumps(given), *options)


def test_the_role_is_content_and_changes_nothing(lab_session: Lab, vms: list[VM]) -> None:
    before = [world(vm) for vm in vms]
    run = play(lab_session)
    assert (run.status, run.changed) == (0, 0), run.output
    assert "No guest agent is connected to mute:" in run.output
    assert [world(vm) for vm in vms] == before


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"hypervisor_agent": "required"}, "No guest agent is connected to mute:"),
        ({"hypervisor_agent": "perhaps"}, "value of hypervisor_agent must be one of"),
        ({"hypervisor_min_free_percent": 101}, "101 % of its"),
        ({"hypervisor_directories": ["/nowhere"]}, "/nowhere does not exist"),
        ({"hypervisor_packages": ["no-such-package"]}, "lab lacks no-such-package. Install that"),
        ({"hypervisor_uri": "qemu:///session?socket=/nowhere"}, "cannot be reached"),
    ],
)
def test_the_role_refuses(
    lab_session: Lab, make_vm: Callable[..., VM], variables: dict, message: str
) -> None:
    make_vm("mute", disks=[BLANK], agent=False, paused=True, running=False)
    run = play(lab_session, **variables)
    assert run.status == 2, run.output
    assert message in " ".join(run.output.split())


def test_check_mode_says_what_would_be_installed(lab_session: Lab) -> None:
    wanted = {"hypervisor_packages": ["no-such-package"], "hypervisor_install": True}
    run = play(lab_session, "--check", **wanted)
    assert (run.status, run.changed) == (0, 1), run.output
    assert "no-such-package would be installed first" in run.output


def test_a_phase_runs_alone(lab_session: Lab) -> None:
    run = play(lab_session, "--tags=hypervisor_check")
    assert run.status == 0, run.output
    actions = {task.get("action") for task in run.tasks}
    assert "vmkeep.libvirt.hypervisor_info" in actions and "ansible.builtin.apt" not in actions
