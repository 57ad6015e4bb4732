# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks patch_with_rollback and rollback, with tasks that change a guest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from backup_story import Repository, disks_of, paused
from lab import VM, Disk
from role_stage import FAILS, HANGS, Roles, in_the_guest
from story import Modules, count, count_beyond, sources, start_counting, world

BLANK = Disk(size=1, content="blank")
PATCH_IT = "echo patched >/mnt/vdb/state; echo >/run/patched; sync"
PATCH = in_the_guest(PATCH_IT)
AWAY = """\
- name: Go to a guest that is not there
  ansible.builtin.command: "true"
  changed_when: true
  delegate_to: nowhere.invalid
  vars: {ansible_connection: ssh}
"""


def state(vm: VM) -> list[str]:
    """What is on the disk and in the memory of a guest after a patch, the empty list before."""
    vm.disconnect()
    vm.wait_ready()
    return vm.run("cd / && ls mnt/vdb/state run/patched 2>/dev/null || true").split()


def test_it_goes_back_or_stays_patched(roles: Roles, vm: VM) -> None:
    start_counting(vm)
    bases = sources(vm)
    files = {
        "tasks": roles.tasks("tasks", roles.says("patching"), PATCH),
        "verify": roles.tasks("verify", roles.says("verifying")),
    }
    before = world(vm)
    foreseen = roles.succeed("patch_with_rollback", "--check", **files)
    assert "WOULD BE PATCHED: db01" in foreseen.output and "take snapshot patch" in foreseen.output
    assert world(vm) == before and roles.said() == []

    reached = count(vm)
    wrong = roles.tasks("wrong", roles.says("verifying"), FAILS)
    output = roles.refused("patch_with_rollback", tasks=files["tasks"], verify=wrong)
    assert "ROLLED BACK: db01" in output and "Break: it is broken" in output
    assert roles.said() == ["patching", "verifying"]
    # the file in memory is gone, and the process goes on: the guest has not been started anew
    assert state(vm) == []
    count_beyond(vm, max(reached, count(vm)))
    assert vm.domain.snapshotListNames() == [] and sources(vm) == bases

    # killed in the middle of the patch: the next run has the same way back
    hangs = roles.tasks("hangs", PATCH, roles.says("began"), HANGS)
    roles.killed("began", "patch_with_rollback", tasks=hangs, verify=files["verify"])
    assert vm.domain.snapshotListNames() == ["patch"] and roles.said() == ["began"]
    run = roles.succeed("patch_with_rollback", **files)
    assert "PATCHED: db01" in run.output and "an interrupted run, which this one" in run.output
    assert roles.said() == ["patching", "verifying"]
    assert state(vm) == ["mnt/vdb/state", "run/patched"]
    assert vm.domain.snapshotListNames() == [] and sources(vm) == bases
    vm.destroy()
    vm.start()
    assert vm.read("/mnt/vdb/state") == b"patched\n"


def test_two_vms_stay_patched_or_go_back_together(roles: Roles, make_vm: Callable[..., VM]) -> None:
    guests = [make_vm("app01", disks=2), make_vm("db01", disks=2)]
    bases = [sources(vm) for vm in guests]
    both = roles.tasks("both", *(in_the_guest(PATCH_IT, vm.name) for vm in guests))
    files = {"tasks": both, "verify": roles.tasks("wrong", FAILS)}
    output = roles.refused("patch_with_rollback", vm=["app01", "db01"], **files)
    assert "ROLLED BACK: app01, db01" in output
    assert [state(vm) for vm in guests] == [[], []]
    files["verify"] = roles.tasks("verify", roles.says("verifying"))
    run = roles.succeed("patch_with_rollback", vm="app01,db01", **files)
    assert "PATCHED: app01, db01" in run.output
    for vm, base in zip(guests, bases):
        assert state(vm) == ["mnt/vdb/state", "run/patched"]
        assert vm.domain.snapshotListNames() == [] and sources(vm) == base


def test_a_guest_out_of_reach_is_rolled_back_too(roles: Roles, make_vm: Callable[..., VM]) -> None:
    vm = make_vm("db01", disks=[BLANK], agent=False, wait=False)
    files = {"tasks": roles.tasks("away", AWAY), "verify": roles.tasks("verify")}
    run = roles.play("patch_with_rollback", **files)
    assert run.status != 0
    assert "ROLLED BACK: db01" in run.output and "could not be reached" in run.output
    assert vm.domain.snapshotListNames() == []

    # a checkpoint that is old is no way back of this change
    roles.succeed("checkpoint", name="patch", series="patch")
    old = roles.refused("patch_with_rollback", max_age=0, **files)
    assert "The checkpoint patch was made" in old and "To do: remove it" in old
    assert vm.domain.snapshotListNames() == ["patch"]


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "disks"])
def test_a_vm_that_is_backed_up_every_night(
    roles: Roles, modules: Modules, vm: VM, tmp_path: Path, memory: bool
) -> None:
    repository = Repository(tmp_path / "backup", modules)
    bases = sources(vm)
    files = {
        "tasks": roles.tasks("tasks", roles.says("patching"), PATCH),
        "verify": roles.tasks("verify", roles.says("verifying")),
        "memory": memory,
    }
    assert repository.back_up(vm)["type"] == "full"
    assert "WOULD BE PATCHED" in roles.succeed("patch_with_rollback", "--check", **files).output
    output = roles.refused("patch_with_rollback", **{**files, "verify": roles.tasks("w", FAILS)})
    assert "ROLLED BACK: db01" in output and roles.said() == ["patching"]
    assert state(vm) == [] and vm.domain.snapshotListNames() == [] and sources(vm) == bases
    with paused(vm):
        point = repository.back_up(vm, quiesce="never")
        assert point["type"] == "full" and "no checkpoint" in point["reason"]
        assert repository.content(vm, point["id"]) == disks_of(vm)

    assert "PATCHED: db01" in roles.succeed("patch_with_rollback", **files).output
    assert roles.said() == ["patching", "verifying"]
    assert state(vm) == ["mnt/vdb/state", "run/patched"] and sources(vm) == bases
    assert repository.back_up(vm)["type"] == "incremental"

    _nothing_begins_without_a_way_back(roles, modules, vm, files)
    assert roles.said() == [] and sources(vm) == bases


def _nothing_begins_without_a_way_back(
    roles: Roles, modules: Modules, vm: VM, files: dict[str, object]
) -> None:
    """Whether what is in the way was there before, or comes when there is something to go back to.

    What the run has made goes again; what an interrupted one has made stays its way back.
    """
    foreign = "<domaincheckpoint><name>monday</name></domaincheckpoint>"
    theirs = vm.domain.checkpointCreateXML(foreign)
    output = roles.refused("patch_with_rollback", **files)
    assert "could not go back afterwards" in output and "(monday)" in output
    assert "virsh checkpoint-delete db01 monday" in output
    assert vm.domain.snapshotListNames() == []
    theirs.delete()
    late = "The VMs could not go back, so nothing was changed"
    if files["memory"]:
        argv = ["virsh", "--connect={{ vmkeep_uri }}", "checkpoint-create-as", "db01", "monday"]
        task = {"name": "Come late", "ansible.builtin.command": {"argv": argv}}
        hook = roles.tasks("late", f"- {json.dumps({**task, 'changed_when': True})}\n")
        more = ("--extra-vars", json.dumps({"consistent_checkpoint_after": hook}))
        output = roles.refused("patch_with_rollback", *more, **files)
        assert late in output and "(monday)" in output and vm.domain.snapshotListNames() == []
    else:
        modules.run("vm_snapshot", vm, name="patch", mode="external")
        vm.domain.checkpointCreateXML(foreign)
        output = roles.refused("patch_with_rollback", **files)
        assert late in output and "(monday)" in output
        assert vm.domain.snapshotListNames() == ["patch"]
        modules.run("vm_snapshot", vm, name="patch", state="absent")


@pytest.mark.usefixtures("make_vm")
def test_what_is_refused(roles: Roles) -> None:
    there = roles.tasks("there")
    for variables, message in (
        ({"vm": "db01"}, "Say which VMs, what changes them and what verifies that"),
        ({"vm": "db01", "tasks": there, "verify": "no.yml"}, "task file no.yml is not there"),
        ({"vm": "no", "tasks": there, "verify": there}, "there is no VM no"),
    ):
        assert message in roles.refused("patch_with_rollback", **variables)


def test_rollback_to_a_snapshot_keeps_what_there_is(roles: Roles, modules: Modules, vm: VM) -> None:
    vm.write("/mnt/vdb/file", b"before")
    modules.run("vm_snapshot", vm, name="before-upgrade")
    vm.write("/mnt/vdb/file", b"after")
    before = world(vm)
    wanted = {"name": "before-upgrade", "keep_current": "failed-upgrade"}
    foreseen = roles.succeed("rollback", "--check", **wanted)
    assert world(vm) == before and "check mode, this would be done" in foreseen.output
    run = roles.succeed("rollback", **wanted)
    assert "back at before-upgrade, running" in run.output
    vm.disconnect()
    vm.wait_ready()
    assert vm.read("/mnt/vdb/file") == b"before"
    roles.succeed("rollback", name="failed-upgrade", run_after="running")
    vm.disconnect()
    vm.wait_ready()
    assert vm.read("/mnt/vdb/file") == b"after"
