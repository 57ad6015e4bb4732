# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks, run by ansible-playbook as a user runs them, on a guest that writes."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from lab import VM, Lab
from lab.playbooks import Controller, PlaybookRun
from story import Modules, chain, plain, world

MODULES = {"snapshot": "vm_snapshot", "commit": "vm_blockcommit", "inspect": "vm_snapshot_info"}
NAMED = {"vmkeep_name": "before-upgrade"}


@pytest.fixture
def controller(lab_session: Lab, vm: VM) -> Controller:
    """A controller whose inventory names the VM of the test."""
    assert vm.name in lab_session.vms
    return Controller(lab_session)


def played(controller: Controller, playbook: str, variables: dict[str, Any], *options: str) -> Any:
    """What the module of a playbook returned; the playbook has to succeed."""
    run = controller.play(playbook, variables, *options)
    assert run.status == 0, run.output
    return run.result(MODULES[playbook])


def refused(controller: Controller, playbook: str, variables: dict[str, Any]) -> PlaybookRun:
    run = controller.play(playbook, variables)
    assert run.status == 2, run.output
    return run


def change(controller: Controller, vm: VM, playbook: str, variables: dict[str, Any]) -> Any:
    """A change by a playbook: check mode touches nothing and foresees it, a second run is idle."""
    before = world(vm)
    foreseen = controller.play(playbook, variables, "--check", "--diff")
    assert foreseen.status == 0, foreseen.output
    assert world(vm) == before, "check mode changed something"
    assert foreseen.changed == 1
    real = controller.play(playbook, variables, "--diff")
    assert real.status == 0, real.output
    assert real.changed == 1
    results = foreseen.result(MODULES[playbook]), real.result(MODULES[playbook])
    assert plain(results[0]["plan"]) == plain(results[1]["plan"])
    assert differences(foreseen) == differences(real) != []
    again = controller.play(playbook, variables)
    assert (again.status, again.changed) == (0, 0), again.output
    assert again.result(MODULES[playbook])["plan"] == []
    return real


def differences(run: PlaybookRun) -> list[str]:
    """What --diff printed."""
    return [line for line in run.output.splitlines() if line.startswith(("+", "-"))]


def test_a_snapshot_is_taken_shown_and_removed(controller: Controller, vm: VM) -> None:
    vm.write("/mnt/vda/file", b"before")
    vm.start_writer()
    base = vm.source("vda")
    run = change(controller, vm, "snapshot", NAMED)
    entry = run.result("vm_snapshot")["vms"]["db01"]
    assert entry["snapshot"]["consistency"] == "filesystem"
    assert f"guest frozen for {entry['frozen_ms']} ms" in run.output
    assert chain(vm.source("vda")) == [entry["snapshot"]["disks"]["vda"]["file"], base]
    vm.write("/mnt/vda/file", b"after")

    found = played(controller, "inspect", {"vmkeep_strict": "true"})["vms"]["db01"]
    assert found["tree"] == "before-upgrade *"
    assert [image["filename"] for image in found["disks"]["vda"]["chain"]] == chain(
        vm.source("vda")
    )

    change(controller, vm, "snapshot", {**NAMED, "vmkeep_state": "absent"})
    assert vm.source("vda") == base
    assert vm.read("/mnt/vda/file") == b"after"
    assert vm.lost_records() == []


def test_chains_are_merged_and_the_content_is_kept(
    controller: Controller, modules: Modules, vm: VM
) -> None:
    vm.start_writer()
    bases = {target: vm.source(target) for target in ("vda", "vdb")}
    for name in ("one", "two"):
        modules.run("vm_snapshot", vm, name=name)
        vm.write(f"/mnt/vda/{name}", name.encode())

    run = change(controller, vm, "commit", {})
    assert run.result("vm_blockcommit")["vms"]["db01"]["snapshots_removed"] == ["one", "two"]
    assert {target: chain(vm.source(target)) for target in bases} == {
        target: [base] for target, base in bases.items()
    }
    vm.destroy()
    vm.start()
    assert [vm.read(f"/mnt/vda/{name}") for name in ("one", "two")] == [b"one", b"two"]
    assert vm.lost_records() == []


def test_inspect_tells_what_does_not_agree(
    controller: Controller, modules: Modules, vm: VM
) -> None:
    modules.run("vm_snapshot", vm, name="before-upgrade")
    forget = {**NAMED, "vmkeep_state": "absent", "vmkeep_metadata_only": "true"}
    played(controller, "snapshot", forget)
    before = world(vm)
    run = controller.play("inspect")
    assert (run.status, run.changed) == (0, 0)
    assert f"DISAGREEMENT: {vm.source('vda')} stands on" in run.output
    strict = refused(controller, "inspect", {"vmkeep_strict": "true"})
    assert "troubleshooting" in strict.output
    assert world(vm) == before


REFUSALS = (
    ("snapshot", {}, "-e vmkeep_vm=db01,app01 -e vmkeep_name=before-upgrade"),
    ("snapshot", {**NAMED, "vmkeep_vm": ""}, "Say which VMs and which snapshot"),
    ("inspect", {"vmkeep_vm": ""}, "Say which VMs"),
    ("commit", {"vmkeep_vm": ""}, "Say which VMs"),
    ("commit", {"vmkeep_base": "/nonsense"}, "image /nonsense is not in the chain of disk vda"),
    ("commit", {"vmkeep_max_dept": "2"}, "No playbook knows vmkeep_max_dept"),
    ("inspect", {"vmkeep_uri": "qemu+ssh://hv2/system"}, "points to another host, hv2"),
)


def test_a_refusal_says_what_to_do(controller: Controller, vm: VM) -> None:
    before = world(vm)
    for playbook, variables, message in REFUSALS:
        run = refused(controller, playbook, variables)
        assert message in run.output
        assert "Traceback" not in run.output
    assert world(vm) == before


def test_a_vm_that_fails_stands_beside_those_that_do_not(controller: Controller, vm: VM) -> None:
    run = refused(controller, "snapshot", {**NAMED, "vmkeep_vm": "nosuch,db01"})
    assert "nosuch: FAILED: there is no VM nosuch" in run.output
    assert "snapshot before-upgrade: external, consistency filesystem" in run.output
    assert vm.domain.snapshotListNames() == ["before-upgrade"]


def test_several_vms_at_one_point_in_time(controller: Controller, vm: VM, make_vm: Any) -> None:
    other = make_vm("app01")
    both = {"vmkeep_vm": "db01,app01", **NAMED, "vmkeep_consistent_group": "true"}
    result = played(controller, "snapshot", both)
    assert set(result["vms"]) == {"db01", "app01"}
    played(controller, "commit", {"vmkeep_vm": "db01,app01"})
    assert [machine.domain.snapshotListNames() for machine in (vm, other)] == [[], []]


def unpacked() -> set[Path]:
    """Where modules that are running, or were killed, have their code."""
    return set(Path(tempfile.gettempdir()).glob("ansible_vmkeep*"))


def test_a_run_that_is_given_up_leaves_no_process_and_can_be_repeated(
    controller: Controller, modules: Modules, vm: VM
) -> None:
    base = vm.source("vda")
    modules.run("vm_snapshot", vm, name="one")
    vm.run("dd if=/dev/urandom of=/mnt/vda/big bs=1M count=30 conv=fsync", timeout=60)
    digest = vm.sha256("/mnt/vda/big")
    before, began = unpacked(), time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        # The merge takes 30 s; a busy machine needs some for its start.
        controller.play("commit", {"vmkeep_bandwidth": "1"}, timeout=14)
    assert time.monotonic() - began < 28, "it was waited for"
    assert controller.descendants() == []
    assert unpacked() <= before
    assert vm.domain.blockJobInfo("vda"), "it was not in the middle"

    vm.domain.blockJobSetSpeed("vda", 0)
    done = played(controller, "commit", {})
    assert done["notes"] == ["db01: finished what an interrupted run had begun"]
    assert vm.source("vda") == base
    assert vm.sha256("/mnt/vda/big") == digest


def test_an_interrupt_while_a_run_is_being_started_leaves_no_process(
    controller: Controller, vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen.__init__

    def started_and_interrupted(*words: Any, **options: Any) -> None:
        start(*words, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "__init__", started_and_interrupted)
    with pytest.raises(KeyboardInterrupt):
        controller.play("snapshot", NAMED)
    assert controller.descendants() == []
    assert vm.domain.snapshotListNames() == []
