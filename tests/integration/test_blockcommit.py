# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_blockcommit on real guests: active and mid-chain, running and off."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_file import read_image
from images import corpus
from lab import Disk
from lab.vm import wait_until
from story import chain, folder, name_relatively, qemu_img, sources, world
from test_snapshot_absent import assert_kept, overlay, take


def test_everything_into_the_bases_with_the_metadata(vm, modules):
    vm.start_writer()
    bases = sources(vm)
    take(modules, vm, "s1", "s2")
    result = modules.change("vm_blockcommit", vm)
    entry = result["vms"]["db01"]
    assert sorted(entry["snapshots_removed"]) == ["s1", "s2"]
    for target, base in bases.items():
        disk = entry["disks"][target]
        assert disk["after"] == [base]
        assert disk["merged"] == [overlay(vm, target, "s2"), overlay(vm, target, "s1")]
        assert disk["before"] == [*disk["merged"], base] and disk["bytes"] > 0
    assert sources(vm) == sources(vm, inactive=True) == bases
    assert world(vm)["files"] == sorted(bases.values())
    info = modules.info(vm)
    assert info["snapshots"] == [] and info["disagreements"] == []
    vm.stop_writer()
    vm.destroy()
    vm.start()
    assert vm.lost_records() == []
    assert_kept(vm, "s1", "s2")


def test_max_depth_keeps_the_newest(vm, modules):
    bases = sources(vm)
    take(modules, vm, "s1", "s2", "s3", "s4")
    modules.change("vm_blockcommit", vm, max_depth=3)
    for target, base in bases.items():
        wanted = [overlay(vm, target, "s4"), overlay(vm, target, "s3"), base]
        assert chain(sources(vm)[target]) == wanted
    assert modules.info(vm)["tree"].split() == ["s3", "|", "+-", "s4", "*"]
    assert modules.info(vm)["disagreements"] == []
    assert_kept(vm, "s1", "s2", "s3", "s4")


def test_base_and_top_in_the_middle(vm, modules):
    """tp-libvirt 18 and 19, in the middle of a chain."""
    base = sources(vm)["vda"]
    take(modules, vm, "s1", "s2", "s3")
    modules.change(
        "vm_blockcommit",
        vm,
        disks=["vda"],
        top=overlay(vm, "vda", "s2"),
        base=overlay(vm, "vda", "s1"),
    )
    assert chain(sources(vm)["vda"]) == [overlay(vm, "vda", "s3"), overlay(vm, "vda", "s1"), base]
    assert len(chain(sources(vm)["vdb"])) == 4
    # s2 still is a snapshot of vdb, and says so
    info = modules.info(vm)
    (s2,) = [snapshot for snapshot in info["snapshots"] if snapshot["name"] == "s2"]
    assert list(s2["disks"]) == ["vdb"] and info["disagreements"] == []
    modules.change("vm_snapshot", vm, name="s2", state="absent")
    assert len(chain(sources(vm)["vdb"])) == 3
    assert_kept(vm, "s1", "s2", "s3")


def test_offline_active_and_middle(vm, modules):
    """tp-libvirt 18 and 19, from the top down to the base."""
    bases = sources(vm)
    take(modules, vm, "s1", "s2", "s3")
    vm.shutdown()
    modules.change("vm_blockcommit", vm, max_depth=3, disks=["vda"])
    modules.change("vm_blockcommit", vm)
    assert sources(vm, inactive=True) == bases
    assert world(vm)["files"] == sorted(bases.values()) and world(vm)["snapshots"] == []
    vm.start()
    assert_kept(vm, "s1", "s2", "s3")


def test_a_bitmap_that_is_unusable_in_the_base_stays_so(vm, modules):
    """Whoever dies while an image is open leaves it so. What is above then counts for nothing."""
    bases = sources(vm)
    vm.domain.checkpointCreateXML("<domaincheckpoint><name>c1</name></domaincheckpoint>")
    take(modules, vm, "s1")
    vm.shutdown()
    corpus.killed("write -P 7 63M 64k")(Path(bases["vda"]))
    modules.change("vm_blockcommit", vm)
    for target, base in bases.items():
        [bitmap] = read_image(base, format="qcow2").bitmaps
        assert bitmap.inconsistent == (target == "vda")


@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("module", ["vm_blockcommit", "vm_blockpull"])
def test_relative_names_stay_relative(make_vm, modules, module, off):
    """tp-libvirt 19: a chain that is made to be moved."""
    vm = make_vm("db01")
    take(modules, vm, "s1", "s2", "s3")
    vm.shutdown()
    active, first, second, base = files = chain(sources(vm, inactive=True)["vda"])
    name_relatively(files)
    if not off:
        vm.start()
    top = {"top": first} if module == "vm_blockcommit" else {}
    modules.change(module, vm, base=second, **top)
    layers = qemu_img("info", "-U", "--backing-chain", active)
    names = [os.path.basename(path) for path in (second, base)]
    assert [layer.get("backing-filename") for layer in layers] == [*names, None]
    if off:
        vm.start()
    assert chain(sources(vm)["vda"]) == [active, second, base]
    assert modules.info(vm)["disagreements"] == []
    assert_kept(vm, "s1", "s2", "s3")


def test_a_vm_that_is_paused_since_its_memory_was_loaded(vm, modules):
    take(modules, vm, "s1", memory=True)
    modules.run("vm_snapshot", vm, name="s1", state="reverted", run_after="paused")
    before = world(vm)
    result = modules.attempt("vm_blockcommit", vm)
    if result["failed"]:  # with QEMU 10
        assert "let it go on" in result["msg"] and world(vm) == before
        assert not list(modules.state_dir.glob("journal/*"))
        vm.domain.resume()
        modules.change("vm_blockcommit", vm)
    assert [len(chain(path)) for path in sources(vm).values()] == [1, 1]
    assert modules.info(vm)["disagreements"] == []


def test_merged_files_can_be_kept(vm, modules):
    take(modules, vm, "s1")
    result = modules.run("vm_blockcommit", vm, delete_merged=False)
    assert result["changed"]
    assert os.path.exists(overlay(vm, "vda", "s1"))
    assert len(chain(sources(vm)["vda"])) == 1
    assert not modules.run("vm_blockcommit", vm, delete_merged=False)["changed"]


def test_overlays_without_a_snapshot_are_merged_too(vm, modules):
    command = ["virsh", "-c", modules.lab.uri, "snapshot-create-as", "db01", "loose"]
    subprocess.run([*command, "--disk-only", "--no-metadata"], check=True, capture_output=True)
    kinds = {entry["kind"] for entry in modules.info(vm)["disagreements"]}
    assert kinds == {"overlay_without_snapshot"}
    modules.change("vm_blockcommit", vm)
    assert modules.info(vm)["disagreements"] == []


def test_a_base_that_another_vm_or_image_uses_is_not_written(make_vm, modules, tmp_path):
    template = str(tmp_path / "template.qcow2")
    donor = make_vm("donor", disks=1, running=False)
    subprocess.run(
        ["qemu-img", "convert", "-O", "qcow2", donor.disks["vda"].path, template], check=True
    )
    clone = make_vm("clone", disks=[Disk(backing=template)])
    twin = make_vm("twin", disks=[Disk(backing=template)], running=False)
    message = modules.refused("vm_blockcommit", clone, base=template)
    assert template in message and "twin" in message

    take(modules, clone, "s1")
    own = chain(sources(clone)["vda"])[1]
    modules.change("vm_blockcommit", clone)
    assert chain(sources(clone)["vda"]) == [own, template]
    assert_kept(clone, "s1")
    assert twin.domain.name() == "twin"


def test_two_disks_of_one_vm_on_the_same_base(make_vm, modules, tmp_path):
    template = str(tmp_path / "template.qcow2")
    donor = make_vm("donor", disks=1, running=False)
    subprocess.run(
        ["qemu-img", "convert", "-O", "qcow2", donor.disks["vda"].path, template], check=True
    )
    vm = make_vm("both", disks=[Disk(backing=template), Disk(backing=template)], running=False)
    message = modules.refused("vm_blockcommit", vm, disks=["vda"], base=template)
    assert template in message and "its disk vdb" in message


def test_other_block_jobs_are_left_alone(vm, modules):
    """tp-libvirt 23."""
    take(modules, vm, "s1")
    copy = str(folder(vm) / "copy.img")
    virsh = ["virsh", "-c", modules.lab.uri]
    subprocess.run(
        [*virsh, "blockcopy", "db01", "vda", copy, "--transient-job"],
        check=True,
        capture_output=True,
    )
    for task in (
        lambda: modules.attempt("vm_blockcommit", vm),
        lambda: modules.attempt("vm_snapshot", vm, name="s2"),
    ):
        result = task()
        assert result["failed"] and "block job (copy)" in result["msg"] and "vda" in result["msg"]
    assert vm.domain.blockJobInfo("vda", 0)["type"] == 2, "the copy is still there"
    subprocess.run([*virsh, "blockjob", "db01", "vda", "--abort"], check=True)
    modules.change("vm_blockcommit", vm)


def test_a_top_that_is_not_there_is_said(vm, modules):
    result = modules.run("vm_blockcommit", vm, disks=["vda"], top="/nowhere/x.qcow2")
    assert not result["changed"] and "/nowhere/x.qcow2" in result["notes"][0]


def test_with_a_bandwidth(vm, modules):
    take(modules, vm, "s1")
    modules.change("vm_blockcommit", vm, bandwidth=50)


def test_around_a_checkpoint_and_a_kill(vm, modules):
    bases = sources(vm)
    take(modules, vm, "s1")
    vm.run("dd if=/dev/urandom of=/mnt/vda/big bs=1M count=20 conv=fsync", timeout=60)
    digest = vm.sha256("/mnt/vda/big")
    modules.run("vm_checkpoint", vm, name="c1")
    take(modules, vm, "s2")
    assert "c1" in modules.refused("vm_blockcommit", vm, max_depth=2)
    assert "'base' or 'top'" in modules.refused("vm_blockcommit", vm, top="/x", needed="keep")
    around = {"max_depth": 2, "needed": "keep"}
    # below the checkpoint first, then above it; it dies in the first of these
    with modules.start("vm_blockcommit", vm, **around, bandwidth=1):
        wait_until(lambda: bool(vm.domain.blockJobInfo("vda")), 60, "the job runs")
    vm.domain.blockJobSetSpeed("vda", 0)
    result = modules.run("vm_blockcommit", vm, **around)
    assert result["notes"] == ["db01: finished what an interrupted run had begun"]
    assert {target: chain(path) for target, path in sources(vm).items()} == {
        target: [overlay(vm, target, "c1"), base] for target, base in bases.items()
    }
    assert not modules.run("vm_blockcommit", vm, **around)["changed"]
    assert modules.info(vm)["disagreements"] == []
    assert_kept(vm, "s1", "s2")
    # off, with snapshots above it again
    take(modules, vm, "s3")
    vm.shutdown()
    modules.change("vm_blockcommit", vm, **around)
    vm.start()
    assert_kept(vm, "s1", "s2", "s3")
    modules.run("vm_checkpoint", vm, name="c1", state="restored")
    vm.disconnect()
    vm.wait_ready()
    assert vm.sha256("/mnt/vda/big") == digest
    assert vm.run("ls /mnt/vda").split() == ["big", "lost+found", "since-s1"]
