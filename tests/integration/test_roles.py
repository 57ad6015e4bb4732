# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles consistent_checkpoint and chain_maintenance, by their playbooks, on real guests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import VM, Disk
from role_stage import FAILS, HANGS, Roles, in_the_guest, results
from story import Modules, chain, count, count_beyond, folder, sources, start_counting, world

BLANK = Disk(size=1, content="blank")
MUTE = {"disks": [BLANK], "agent": False}


@pytest.fixture
def standing(make_vm: Callable[..., VM]) -> VM:
    """A VM that was started and is paused: it has memory, and no guest has to boot."""
    return make_vm("db01", **MUTE, paused=True)


def names(vm: VM) -> list[str]:
    return sorted(vm.domain.snapshotListNames())


def test_checkpoints_between_hooks_are_kept_rotated_and_restored(
    roles: Roles, modules: Modules, vm: VM
) -> None:
    start_counting(vm)
    hooks = {
        "before": roles.tasks("before", roles.says("before"), in_the_guest("touch /mnt/vdb/quiet")),
        "after": roles.tasks("after", roles.says("after"), in_the_guest("rm -f /mnt/vdb/quiet")),
    }
    before = world(vm)
    foreseen = roles.succeed("checkpoint", "--check", stamp="today", **hooks)
    assert world(vm) == before and roles.said() == []
    run = roles.succeed("checkpoint", stamp="today", **hooks)
    assert roles.said() == ["before", "after"]
    plans = [results(each, "vm_checkpoint")[-1]["plan"] for each in (foreseen, run)]
    assert plans[0] == plans[1] != []
    assert names(vm) == ["regular-today"]
    reached = count(vm)
    again = roles.succeed("checkpoint", stamp="today", **hooks)
    assert again.changed == 0 and roles.said() == []

    # one that the role has not made is not counted, one of another series neither
    modules_of_lab = Modules(modules.lab, modules.lab.directory / "state")
    modules_of_lab.run("vm_checkpoint", vm, name="regular-by-hand")
    roles.succeed("checkpoint", name="weekly", series="weekly")
    foreseen = roles.succeed("checkpoint", "--check", stamp="tomorrow", keep=1)
    assert "checkpoint regular-today is not kept any more, check mode" in foreseen.output
    assert names(vm) == ["regular-by-hand", "regular-today", "weekly"]
    roles.succeed("checkpoint", stamp="next", keep=2)
    kept = roles.succeed("checkpoint", stamp="last", keep=2)
    assert "checkpoint regular-today is not kept any more:" in kept.output
    assert names(vm) == ["regular-by-hand", "regular-last", "regular-next", "weekly"]
    assert roles.succeed("checkpoint", stamp="last", keep=2).changed == 0

    goes_back(roles, vm, "regular-next", reached)
    roles.succeed("checkpoint", name="regular-last", state="absent")
    assert names(vm) == ["regular-by-hand", "regular-next", "weekly"]


def goes_back(roles: Roles, vm: VM, checkpoint: str, reached: int) -> None:
    """What was written since is gone, and the guest counts on from after ``reached``."""
    end = count_beyond(vm, count(vm) + 40)
    vm.write("/mnt/vdb/later", b"given up")
    roles.succeed("rollback", name=checkpoint)
    vm.disconnect()
    vm.wait_ready()
    assert reached < count(vm) < end
    assert vm.run("cd /mnt/vdb && ls").split() == ["lost+found"]


def test_a_group_has_one_point_in_time_and_goes_back_together(
    roles: Roles, make_vm: Callable[..., VM]
) -> None:
    guests = [make_vm("app01"), make_vm("db01")]
    for vm in guests:
        vm.write("/mnt/vda/file", b"before")
    run = roles.succeed("checkpoint", name="c1", vm="app01,db01")
    (made,) = (result for result in results(run, "vm_checkpoint") if result["changed"])
    taken = [step for step in made["plan"] if step["step"] == "take_snapshot"]
    assert [(step["vm"], step["pause"]) for step in taken] == [("app01", True), ("db01", True)]
    for vm in guests:
        vm.write("/mnt/vda/file", b"after")
    # none goes back if one of them cannot
    message = roles.refused("rollback", name="c1", vm=["app01", "db01", "nosuch"])
    assert "there is no VM nosuch" in message
    assert [vm.read("/mnt/vda/file") for vm in guests] == [b"after", b"after"]
    roles.succeed("rollback", name="c1", vm=["app01", "db01"])
    for vm in guests:
        vm.disconnect()
        vm.wait_ready()
    assert [vm.read("/mnt/vda/file") for vm in guests] == [b"before", b"before"]
    run = roles.succeed("checkpoint", name="c2", vm="app01, db01", keep=1)
    assert "app01, db01: checkpoint c1 is not kept any more" in run.output
    assert [names(vm) for vm in guests] == [["c2"], ["c2"]]
    # this phase alone makes none, so it leaves the one that is there
    only_rotate = ("--tags", "consistent_checkpoint_rotate")
    run = roles.succeed("checkpoint", *only_rotate, name="c3", vm="app01,db01", keep=1)
    assert run.changed == 0 and [names(vm) for vm in guests] == [["c2"], ["c2"]]


@pytest.mark.usefixtures("standing")
def test_restoring_ends_between_the_hooks(roles: Roles, tmp_path: Path) -> None:
    """What the hook before has done is part of the point, so the hook after runs again."""
    after = roles.tasks("after", roles.says("after"))
    roles.succeed("checkpoint", name="c1")
    play = tmp_path / "restore.yml"
    play.write_text(RESTORE.format(after=after))
    run = roles.controller.play(str(play), {})
    assert run.status == 0 and roles.said() == ["after"], run.output


RESTORE = """\
- hosts: hypervisors
  gather_facts: false
  roles:
    - role: vmkeep.libvirt.consistent_checkpoint
      vars:
        consistent_checkpoint_vm: "{{{{ vmkeep_vm }}}}"
        consistent_checkpoint_uri: "{{{{ vmkeep_uri }}}}"
        consistent_checkpoint_state_dir: "{{{{ vmkeep_state_dir }}}}"
        consistent_checkpoint_state: restored
        consistent_checkpoint_name: c1
        consistent_checkpoint_after: {after}
"""


def test_hooks_that_fail(roles: Roles, standing: VM) -> None:
    good = roles.tasks("good", roles.says("good"))
    bad = roles.tasks("bad", roles.says("bad"), FAILS)
    output = roles.refused("checkpoint", name="c1", before=bad, after=good)
    assert "it is broken" in output
    assert roles.said() == ["bad", "good"] and names(standing) == []
    # the point is good though what comes after it is not; that is tried again
    roles.refused("checkpoint", name="c1", before=good, after=bad)
    assert roles.said() == ["good", "bad"] and names(standing) == ["c1"]
    run = roles.succeed("checkpoint", name="c1", before=good, after=good)
    assert roles.said() == ["good"] and "died between its hooks" in run.output
    assert roles.succeed("checkpoint", name="c1", before=good, after=good).changed == 0
    assert roles.said() == []


def test_nothing_begins_where_there_is_no_way_back(roles: Roles, standing: VM) -> None:
    """No hook runs, and nothing is given up, whoever is in the way or whatever is gone."""
    good = roles.tasks("good", roles.says("good"))
    roles.succeed("checkpoint", name="c1")
    foreign = "<domaincheckpoint><name>monday</name></domaincheckpoint>"
    theirs = standing.domain.checkpointCreateXML(foreign)
    before = world(standing)
    said = roles.refused("checkpoint", name="c2", before=good, after=good)
    assert "could not go back afterwards" in said and "(monday)" in said
    assert "virsh checkpoint-delete db01 monday" in roles.refused("rollback", name="c1")
    assert world(standing) == before and roles.said() == []
    theirs.delete()
    [memory] = folder(standing).glob("*.save")
    kept = memory.rename(memory.with_suffix(".kept"))
    assert "cannot go back to snapshot c1" in roles.refused("rollback", name="c1")
    kept.rename(memory)
    assert world(standing) == before and standing.active()


def test_one_that_fails_where_they_are_no_group(roles: Roles, standing: VM) -> None:
    """The others have their checkpoints, between the hooks; of a group none has."""
    before, after = (roles.tasks(word, roles.says(word)) for word in ("before", "after"))
    wanted = {"vm": "nosuch,db01", "name": "c1", "before": before, "after": after}
    for check in ((), ("--check",)):
        assert "there is no VM nosuch" in roles.refused("checkpoint", *check, **wanted)
        assert names(standing) == [] and roles.said() == []
    said = roles.refused("checkpoint", "--check", **wanted, consistent_group=False)
    assert "there is no VM nosuch" in said and names(standing) == [] and roles.said() == []
    said = roles.refused("checkpoint", **wanted, consistent_group=False)
    assert "there is no VM nosuch" in said and names(standing) == ["c1"]
    assert roles.said() == ["before", "after"]
    roles.refused("checkpoint", **wanted, consistent_group=False)
    assert names(standing) == ["c1"] and roles.said() == []


@pytest.mark.usefixtures("standing")
def test_a_list_of_tasks_is_as_good_as_a_file(roles: Roles) -> None:
    say = {"name": "Say {{ inventory_hostname }}", "changed_when": False}
    listed = [{**say, "ansible.builtin.shell": f"echo {{{{ inventory_hostname }}}} >>{roles.log}"}]
    roles.succeed("checkpoint", name="c1", before=listed, after=listed)
    assert roles.said() == ["lab", "lab"]
    assert not list((roles.controller.folder / "tmp").glob("*.yml")), "a file was left"


def test_a_run_that_is_killed_between_its_hooks(roles: Roles, standing: VM) -> None:
    good = roles.tasks("good", roles.says("good"))
    hangs = roles.tasks("hangs", roles.says("began"), HANGS)
    # in the one before the point in time: all is done again
    roles.killed("began", "checkpoint", name="c1", before=hangs, after=good)
    assert roles.said() == ["began"]
    run = roles.succeed("checkpoint", name="c1", before=good, after=good)
    assert roles.said() == ["good", "good"] and "died between its hooks" in run.output
    # in the one after it: that is done again, and nothing else
    standing.domain.resume()  # QEMU 7.2 lets no memory be written twice while it is paused
    standing.domain.suspend()
    roles.killed("began", "checkpoint", name="c2", before=good, after=hangs)
    assert roles.said() == ["good", "began"]
    run = roles.succeed("checkpoint", name="c2", before=good, after=good)
    assert roles.said() == ["good"] and "died between its hooks" in run.output
    assert roles.succeed("checkpoint", name="c2", before=good, after=good).changed == 0


def test_what_is_refused(roles: Roles, make_vm: Callable[..., VM]) -> None:
    vm = make_vm("db01", **MUTE, running=False)
    marked = roles.tasks("marked", roles.says("marked"))
    before = world(vm)
    for playbook, variables, message in (
        ("checkpoint", {"vm": ""}, "Say which VMs"),
        ("checkpoint", {"state": "restored"}, "Say which VMs, and present or absent"),
        ("checkpoint", {"vm": ","}, "names no VM"),
        ("checkpoint", {"keep": -1}, "consistent_checkpoint_keep is -1. Wanted: how many"),
        ("checkpoint", {"keep": "many"}, "consistent_checkpoint_keep"),
        ("checkpoint", {"state": "absent"}, "needs the name of a checkpoint"),
        ("checkpoint", {"before": "nowhere.yml"}, "before is nowhere.yml. Wanted: a list of tasks"),
        ("checkpoint", {"after": ["shell"]}, "Wanted: a list of tasks, or the path"),
        ("checkpoint", {"name": "a/b", "before": marked}, "name 'a/b' is not allowed"),
        # a VM that is off has no memory; no hook has run when that is said
        ("checkpoint", {"before": marked}, "is off and has no memory to keep"),
        ("checkpoint", {"vm": "nosuch"}, "there is no VM nosuch"),
        ("maintain_chains", {"vm": ""}, "Say which VMs"),
        ("maintain_chains", {"max_depth": 0}, "chain_maintenance_max_depth is 0. Wanted"),
        ("maintain_chains", {"bandwidth": -1}, "chain_maintenance_bandwidth is -1"),
        ("maintain_chains", {"vm": "nosuch"}, "nosuch: FAILED: there is no VM nosuch"),
        ("rollback", {}, "Say which VMs and which checkpoint or snapshot"),
        ("rollback", {"name": "never"}, "has no snapshot 'never'"),
    ):
        assert message in roles.refused(playbook, **variables), (playbook, variables)
    assert world(vm) == before and roles.said() == []


def test_chains_are_kept_short_around_checkpoints(roles: Roles, modules: Modules, vm: VM) -> None:
    vm.start_writer()
    for module, name in (
        ("vm_snapshot", "s1"),
        ("vm_checkpoint", "c1"),
        ("vm_snapshot", "s2"),
        ("vm_snapshot", "s3"),
        ("vm_snapshot", "s4"),
    ):
        modules.run(module, vm, name=name)
        vm.write(f"/mnt/vda/{name}", name.encode())
    assert roles.succeed("maintain_chains", max_depth=6).changed == 0
    before = world(vm)
    foreseen = roles.succeed("maintain_chains", "--check", max_depth=3, strict=True)
    assert world(vm) == before and "6 images, then 3" in foreseen.output
    run = roles.succeed("maintain_chains", max_depth=3, strict=True)
    assert "snapshots that go with their overlays: s1, s2, s3" in run.output
    again = roles.succeed("maintain_chains", max_depth=3, strict=True)
    assert again.changed == 0 and "nothing to merge" in again.output
    left = [Path(path).name for path in chain(vm.source("vda"))]
    assert left == ["db01.vda.s4.qcow2", "db01.vda.c1.qcow2", "vda.qcow2"]
    assert names(vm) == ["c1", "s4"]
    info = modules.info(vm)
    assert info["disagreements"] == []

    message = roles.refused("maintain_chains", max_depth=1, strict=True)
    assert "2 images stay in the chain of vda: checkpoint c1 is kept" in message
    assert "db01 vda, db01 vdb has more than 1 images" in message
    assert roles.succeed("maintain_chains", max_depth=1).changed == 0
    assert vm.lost_records() == []
    contents = {name: name.encode() for name in ("s1", "c1", "s2", "s3", "s4")}
    assert {name: vm.read(f"/mnt/vda/{name}") for name in contents} == contents

    roles.succeed("rollback", name="c1")
    vm.disconnect()
    vm.wait_ready()
    assert vm.run("cd /mnt/vda && ls s1 c1 s2 2>/dev/null || true").split() == ["s1"]


def test_all_vms_but_some_and_what_others_stand_on(
    roles: Roles, modules: Modules, make_vm: Callable[..., VM], tmp_path: Path
) -> None:
    template = str(tmp_path / "template.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", template, "1M"], check=True)
    kept_out = make_vm("out", **MUTE, running=False)
    clones = [
        make_vm(name, disks=[Disk(backing=template)], agent=False, running=False)
        for name in ("one", "two")
    ]
    everyone: list[Any] = [kept_out, *clones]
    for name in ("s1", "s2", "s3"):
        modules.run("vm_snapshot", everyone, name=name)
    long = [len(chain(sources(vm)["vda"])) for vm in everyone]
    only_report = ("--tags", "chain_maintenance_report")
    told = roles.succeed("maintain_chains", *only_report, vm="all", exclude="out", max_depth=2)
    assert told.changed == 0 and "this would be merged" in told.output
    assert [len(chain(sources(vm)["vda"])) for vm in everyone] == long
    told = roles.play("maintain_chains", *only_report, vm="nosuch,one", max_depth=2)
    assert told.status == 2 and "one: this would be merged" in told.output
    assert "nosuch: FAILED: there is no VM nosuch" in told.output
    run = roles.succeed("maintain_chains", vm="all", exclude="out", max_depth=2)
    # counted down to the VM's own disk
    assert [len(chain(sources(vm)["vda"])) for vm in everyone] == [long[0], 3, 3]
    assert "out" not in results(run, "vm_blockcommit")[0]["vms"]
    roles.succeed("maintain_chains", vm="all", exclude=["out"], max_depth=1, strict=True)
    owned = {vm.name: chain(sources(vm)["vda"]) for vm in clones}
    assert owned == {vm.name: [vm.disks["vda"].path, template] for vm in clones}
    # something stands on the own disk of one
    modules.run("vm_snapshot", clones, name="s4")
    overlay = str(tmp_path / "other.qcow2")
    other = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]
    subprocess.run([*other, owned["one"][0], overlay], check=True)
    twin = make_vm("twin", disks=[Disk(path=overlay)], agent=False, running=False)
    run = roles.succeed("maintain_chains", vm="one,two", max_depth=1)
    assert f"something else stands on {owned['one'][0]}" in " ".join(run.output.split())
    assert [len(chain(sources(vm)["vda"])) for vm in (*clones, twin)] == [3, 2, 3]


def test_names_that_yaml_takes_for_numbers(make_vm, modules, roles: Roles, tmp_path: Path) -> None:
    """A VM is called 101 and a snapshot by its date; nobody thinks of the quotes."""
    vm = make_vm("101", agent=False, running=False)
    roles.succeed("snapshot", vm=101, name=20261129)
    assert modules.whole(vm) == {"20261129"}
    roles.succeed("backup", "--check", vm=101, exclude=102, repository=str(tmp_path))
