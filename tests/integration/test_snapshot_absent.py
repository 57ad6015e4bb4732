# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_snapshot state=absent on real guests: nothing that was written since is lost."""

from __future__ import annotations

import os
import subprocess

import pytest
from story import chain, folder, sources, world


def take(modules, vm, *names, **params):
    """Snapshots one after the other, with a file written on each disk between them."""
    for name in names:
        modules.run("vm_snapshot", vm, name=name, **params)
        if vm.active():
            for target in vm.disks:
                vm.write(f"/mnt/{target}/since-{name}", name.encode() * 1000)


def assert_kept(vm, *names):
    """Every file that was written after a snapshot is there, on each disk."""
    for name in names:
        for target in vm.disks:
            assert vm.read(f"/mnt/{target}/since-{name}") == name.encode() * 1000


def overlay(vm, target, name):
    return str(folder(vm) / f"{vm.name}.{target}.{name}.qcow2")


@pytest.mark.parametrize("name", ["s1", "s2", "s3"])
def test_oldest_middle_and_newest_while_running(vm, modules, name):
    vm.start_writer()
    bases = sources(vm)
    take(modules, vm, "s1", "s2", "s3")
    left = [other for other in ("s1", "s2", "s3") if other != name]

    modules.change("vm_snapshot", vm, name=name, state="absent")

    for target, base in bases.items():
        wanted = [overlay(vm, target, other) for other in reversed(left)] + [base]
        assert chain(sources(vm)[target]) == wanted
        assert sources(vm, inactive=True)[target] == wanted[0]
        assert not os.path.exists(overlay(vm, target, name))
    vm.destroy()
    vm.start()
    assert vm.lost_records() == []
    info = modules.info(vm)
    assert [snapshot["name"] for snapshot in info["snapshots"]] == left
    assert info["disagreements"] == []
    # what is left is still recorded right: its points are the images that hold them now
    for snapshot in info["snapshots"]:
        for disk in snapshot["disks"].values():
            assert chain(disk["file"])[1] == disk["image"]
    for other in left:
        modules.change("vm_snapshot", vm, name=other, state="absent")
    assert sources(vm) == bases
    assert_kept(vm, "s1", "s2", "s3")


@pytest.mark.parametrize("name", ["s1", "s2", "s3"])
def test_oldest_middle_and_newest_while_off(vm, modules, name):
    bases = sources(vm)
    take(modules, vm, "s1", "s2", "s3")
    vm.shutdown()
    modules.change("vm_snapshot", vm, name=name, state="absent")
    assert modules.info(vm)["disagreements"] == []
    assert not os.path.exists(overlay(vm, "vda", name))
    left = [other for other in ("s1", "s2", "s3") if other != name]
    for target, base in bases.items():
        wanted = [overlay(vm, target, other) for other in reversed(left)] + [base]
        assert chain(sources(vm, inactive=True)[target]) == wanted
    vm.start()
    assert_kept(vm, "s1", "s2", "s3")
    modules.change("vm_blockcommit", vm)
    assert_kept(vm, "s1", "s2", "s3")
    assert modules.info(vm)["snapshots"] == []


def test_a_subtree_goes_in_one_merge(vm, modules):
    bases = sources(vm)
    take(modules, vm, "s1", "s2", "s3")
    result = modules.change("vm_snapshot", vm, name="s2", state="absent", subtree=True)
    merges = [step for step in result["plan"] if step["step"] == "commit"]
    assert len(merges) == 2 and all(len(step["merged"]) == 2 for step in merges)
    for target, base in bases.items():
        assert chain(sources(vm)[target]) == [overlay(vm, target, "s1"), base]
    assert modules.info(vm)["tree"] == "s1 *"
    assert_kept(vm, "s1", "s2", "s3")


def test_metadata_only_touches_no_image(vm, modules):
    """tp-libvirt 14."""
    take(modules, vm, "s1", "s2")
    before = {target: chain(path) for target, path in sources(vm).items()}
    modules.change("vm_snapshot", vm, name="s1", state="absent", metadata_only=True)
    assert {target: chain(path) for target, path in sources(vm).items()} == before
    info = modules.info(vm)
    assert info["tree"] == "s2 *"
    kinds = {(entry["kind"], entry["disk"]) for entry in info["disagreements"]}
    assert kinds == {("overlay_without_snapshot", "vda"), ("overlay_without_snapshot", "vdb")}


def test_after_one_disk_was_committed_by_hand(vm, modules):
    """libvirt 9.0 and 11.3 themselves fail here: they do not find a parent's disk in the chain."""
    bases = sources(vm)
    take(modules, vm, "s1")
    command = ["virsh", "-c", modules.lab.uri, "blockcommit", "db01", "vda"]
    subprocess.run([*command, "--active", "--pivot", "--wait"], check=True, capture_output=True)
    kinds = [(entry["kind"], entry["disk"]) for entry in modules.info(vm)["disagreements"]]
    assert kinds == [("snapshot_without_overlay", "vda")]
    assert "no longer in the chain of vda" in modules.refused("vm_snapshot", vm, name="s1")

    modules.change("vm_snapshot", vm, name="s1", state="absent")

    assert sources(vm) == bases and modules.info(vm)["disagreements"] == []
    assert world(vm)["files"] == sorted(bases.values())
    assert_kept(vm, "s1")


def test_a_snapshot_taken_by_virsh_is_removed_like_our_own(vm, modules):
    bases = sources(vm)
    command = ["virsh", "-c", modules.lab.uri, "snapshot-create-as", "db01", "byhand"]
    subprocess.run([*command, "--disk-only", "--atomic"], check=True, capture_output=True)
    snapshot = modules.info(vm)["snapshots"][0]
    assert snapshot["consistency"] == "crash" and snapshot["mode"] == "external"
    modules.change("vm_snapshot", vm, name="byhand", state="absent")
    assert sources(vm) == bases and world(vm)["files"] == sorted(bases.values())


def test_a_branch_that_stands_on_the_base_is_not_corrupted(vm, modules):
    """tp-libvirt 9 and 11: another overlay on the same base holds another history.

    Merging would destroy it.
    """
    base = sources(vm)["vda"]
    take(modules, vm, "s1")
    other = str(folder(vm) / "other-branch.qcow2")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, other], check=True
    )
    message = modules.refused("vm_snapshot", vm, name="s1", state="absent")
    assert base in message and other in message
    os.unlink(other)
    modules.change("vm_snapshot", vm, name="s1", state="absent")


def test_an_internal_snapshot_in_a_merged_image_is_not_lost(make_vm, modules):
    vm = make_vm("deep", disks=1, running=False)
    take(modules, vm, "s1")
    modules.run("vm_snapshot", vm, name="inside", mode="internal")
    message = modules.refused("vm_snapshot", vm, name="s1", state="absent")
    assert "inside" in message and "internal" in message
    modules.change("vm_snapshot", vm, name="inside", state="absent")
    modules.change("vm_snapshot", vm, name="s1", state="absent")


def test_absent_snapshots_need_nothing(vm, modules):
    result = modules.run("vm_snapshot", vm, name="never-there", state="absent")
    assert not result["changed"] and result["vms"]["db01"]["snapshot"] is None


def test_a_transient_vm(make_vm, modules):
    vm = make_vm("passing", disks=2, transient=True)
    vm.start_writer()
    bases = sources(vm)
    take(modules, vm, "s1", "s2")
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    modules.change("vm_snapshot", vm, name="s2", state="absent")
    assert sources(vm) == bases
    vm.stop_writer()
    assert vm.lost_records() == []


@pytest.mark.parametrize("first", ["one", "both"])
def test_a_disk_that_one_of_them_left_out(vm, modules, first):
    """tp-libvirt 7."""
    bases = sources(vm)
    modules.run("vm_snapshot", vm, name="one", disks=["vda"])
    vm.write("/mnt/vda/since-one", b"one" * 1000)
    vm.write("/mnt/vdb/since-one", b"one" * 1000)
    take(modules, vm, "both")
    for name in (first, *{"one", "both"} - {first}):
        modules.change("vm_snapshot", vm, name=name, state="absent")
        assert_kept(vm, "one", "both")
    assert sources(vm) == bases
