# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transient VMs: what libvirt forgets when they stop is there again when they are back."""

from __future__ import annotations

import signal
import xml.etree.ElementTree as ET

import pytest
from kill_trials import Killer, Task
from lab import VM
from story import Modules, chain, sources


@pytest.fixture
def passing(make_vm) -> VM:
    return make_vm("passing", disks=2, transient=True)


def begin_again(vm: VM, *, disks: dict[str, str] | None = None) -> None:
    """Stop it, which makes libvirt forget it, and start it from the same definition."""
    root = vm.xml()
    for node in root.iterfind("devices/disk"):
        for backing in node.findall("backingStore"):
            node.remove(backing)
        if disks:
            node.find("source").set("file", disks[node.find("target").get("dev")])
    root.attrib.pop("id", None)
    vm.destroy()
    again = vm.lab.connection.createXML(ET.tostring(root, encoding="unicode"), 0)
    assert again.listAllSnapshots() == [], "libvirt has dropped them"
    vm.wait_ready()


def names(vm: VM) -> list[str]:
    return sorted(found.getName() for found in vm.domain.listAllSnapshots())


def test_snapshots_and_checkpoints_are_there_again(passing: VM, modules: Modules) -> None:
    vm = passing
    vm.write("/mnt/vda/file", b"before")
    bases = sources(vm)
    modules.change("vm_snapshot", vm, name="s1")
    vm.write("/mnt/vda/file", b"after")
    modules.change("vm_checkpoint", vm, name="c1")
    begin_again(vm)
    kinds = {entry["kind"] for entry in modules.info(vm)["disagreements"]}
    assert "snapshot_dropped" in kinds
    result = modules.change("vm_snapshot", vm, name="s2")
    steps = [(step["step"], step.get("name")) for step in result["plan"]]
    assert steps[:2] == [("define_snapshot", "s1"), ("define_snapshot", "c1")]
    assert any("defined c1, s1 again" in note for note in result["notes"])
    assert names(vm) == ["c1", "s1", "s2"]
    assert modules.info(vm)["disagreements"] == []
    assert vm.domain.snapshotCurrent(0).getName() == "s2"
    found = modules.run("vm_checkpoint_info", vm)["vms"]["passing"]["checkpoints"]
    assert [(entry["name"], entry["parent"], entry["children"]) for entry in found] == [
        ("c1", "s1", ["s2"])
    ]
    for module, name in (("vm_checkpoint", "c1"), ("vm_snapshot", "s1"), ("vm_snapshot", "s2")):
        modules.change(module, vm, name=name, state="absent")
    assert sources(vm) == bases and chain(bases["vda"]) == [bases["vda"]]
    assert vm.read("/mnt/vda/file") == b"after"
    assert not list(modules.state_dir.glob("snapshots/*"))


def test_a_run_without_another_wish_defines_them_too(passing: VM, modules: Modules) -> None:
    vm = passing
    modules.run("vm_snapshot", vm, name="s1")
    begin_again(vm)
    result = modules.change("vm_snapshot", vm, name="s1")
    assert [step["step"] for step in result["plan"]] == ["define_snapshot"]
    assert names(vm) == ["s1"]


def test_one_whose_image_is_written_to_is_not(passing: VM, modules: Modules) -> None:
    vm = passing
    bases = sources(vm)
    modules.run("vm_snapshot", vm, name="s1")
    begin_again(vm, disks=bases)
    result = modules.run("vm_snapshot", vm, name="s2")
    spoilt = f"s1 was not defined again: the VM writes to its image {bases['vda']}"
    assert any(spoilt in note for note in result["notes"]), result["notes"]
    assert names(vm) == ["s2"]


def test_a_save_of_the_memory_in_between(passing: VM, modules: Modules) -> None:
    """libvirt forgets the whole VM, and lets it go on without its snapshots."""
    vm = passing
    modules.run("vm_snapshot", vm, name="s1")
    path = str(vm.folder / "memory.save")
    modules.change("vm_memory", vm, state="saved", path=path)
    modules.run("vm_memory", vm, state="running", path=path)
    assert names(vm) == []
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    assert names(vm) == [] and len(chain(sources(vm)["vda"])) == 1


def test_what_was_deleted_by_hand_stays_deleted(passing: VM, modules: Modules) -> None:
    vm = passing
    modules.run("vm_snapshot", vm, name="s1")
    modules.run("vm_snapshot", vm, name="s2")
    vm.domain.snapshotLookupByName("s2").delete(2)  # metadata only
    modules.run("vm_snapshot", vm, name="s3")
    assert names(vm) == ["s1", "s3"]


def test_killed_while_it_defines_them(passing: VM, modules: Modules, tmp_path) -> None:
    vm = passing
    for name in ("s1", "s2"):
        modules.run("vm_snapshot", vm, name=name)
    killer = Killer(modules, tmp_path)
    task = Task("vm_snapshot", (vm,), {"name": "s2"})
    for moment in ("before", "after"):
        begin_again(vm)
        run = killer.start(task, kill=f"{moment} libvirt snapshotCreateXML passing")
        assert run.wait() == -signal.SIGKILL
        assert names(vm) == ([] if moment == "before" else ["s1"])
        assert not modules.run("vm_snapshot", vm, name="s2")["failed"]
        assert names(vm) == ["s1", "s2"]
        assert not modules.run("vm_snapshot", vm, name="s2")["changed"]
