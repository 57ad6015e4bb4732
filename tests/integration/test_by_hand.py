# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After somebody has committed, or gone back, by hand, there is always a task that leads on."""

from __future__ import annotations

import os
import re
import subprocess
import time

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_file import read_image
from image_story import Images
from lab import Disk
from story import chain, folder, sources, world
from test_snapshot_absent import assert_kept, overlay, take


def commit_by_hand(modules, vm, disk, *words):
    command = ["virsh", "-c", modules.lab.uri, "blockcommit", vm.name, disk, "--active", "--pivot"]
    subprocess.run([*command, "--wait", *words], check=True, capture_output=True)


def test_the_rest_is_merged_and_later_commits_go(vm, modules):
    bases = sources(vm)
    time.sleep(4)  # what happens while QEMU has just been started proves nothing
    take(modules, vm, "s1")
    commit_by_hand(modules, vm, "vda")
    vm.write("/mnt/vda/later", b"later" * 1000)
    result = modules.change("vm_blockcommit", vm)
    assert result["vms"]["db01"]["snapshots_removed"] == ["s1"]
    assert world(vm)["files"] == sorted(bases.values())
    take(modules, vm, "s2")
    modules.change("vm_blockcommit", vm)
    # of all disks, two snapshots deep; there is nothing left to merge
    take(modules, vm, "s3", "s4")
    for disk in bases:
        commit_by_hand(modules, vm, disk)
    assert sources(vm) == bases
    modules.change("vm_blockcommit", vm)
    assert sources(vm) == bases and world(vm)["files"] == sorted(bases.values())
    assert modules.info(vm)["disagreements"] == [] and modules.info(vm)["snapshots"] == []
    assert_kept(vm, "s1", "s2", "s3", "s4")

    # whoever tidies up removes what was committed by hand
    take(modules, vm, "s7", "s8")
    commit_by_hand(modules, vm, "vda")
    for name in ("s7", "s8"):
        os.unlink(overlay(vm, "vda", name))
    modules.change("vm_blockcommit", vm)
    assert modules.info(vm)["disagreements"] == [] and modules.info(vm)["snapshots"] == []
    assert_kept(vm, "s1", "s2", "s3", "s4", "s7", "s8")

    # only the upper one, of one disk: either can be removed first, as the message says
    take(modules, vm, "s5", "s6")
    commit_by_hand(modules, vm, "vda", "--shallow")
    message = modules.refused("vm_snapshot", vm, name="s5", state="absent")
    assert "remove snapshot s6 first" in message
    modules.change("vm_snapshot", vm, name="s6", state="absent")
    modules.change("vm_snapshot", vm, name="s5", state="absent")
    assert world(vm)["files"] == sorted(bases.values())
    assert_kept(vm, "s1", "s2", "s3", "s4", "s5", "s6")


def test_what_was_abandoned_by_hand_is_kept_until_it_is_named(make_vm, modules):
    vm = make_vm("db01", disks=1)
    bases = sources(vm)
    take(modules, vm, "s1")
    left = overlay(vm, "vda", "s1")
    vm.shutdown()
    xml = vm.domain.XMLDesc(0)
    head, mark, rest = xml.partition("<backingStore")
    tail = rest[rest.rindex("</backingStore>") + len("</backingStore>") :] if mark else ""
    modules.lab.connection.defineXML((head + tail).replace(left, bases["vda"]))
    vm.start()
    assert sources(vm) == bases
    result = modules.run("vm_blockcommit", vm)
    assert not result["changed"] and os.path.exists(left)
    (note,) = result["notes"]
    assert left in note and "remove snapshot s1 first (vm_snapshot with name s1" in note
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    assert world(vm)["files"] == sorted(bases.values())


def test_former_overlays_that_others_need_go_with_these(make_vm, modules):
    vm = make_vm("db01", disks=2, running=False)
    bases = sources(vm, inactive=True)
    for order in (("s2", "s3", "s1"), ("s3", "s2", "s1")):
        take(modules, vm, "s1", "s2", "s3")
        for name in ("s2", "s1"):
            modules.run("vm_snapshot", vm, name=name, state="reverted")
        for name in order:
            modules.change("vm_snapshot", vm, name=name, state="absent")
        assert sources(vm, inactive=True) == bases
        assert world(vm)["files"] == sorted(bases.values())


def test_snapshots_of_others_are_gone_back_to_twice(make_vm, modules, images):
    """What is left alone for that is named with the task that removes it."""
    vm = make_vm("db01", disks=1, running=False)
    bases = sources(vm, inactive=True)
    virsh = ["virsh", "-c", modules.lab.uri, "snapshot-create-as", vm.name, "theirs", "--disk-only"]
    subprocess.run(virsh, check=True, capture_output=True)
    take(modules, vm, "s1")
    for name in ("theirs", "theirs", "s1"):
        modules.run("vm_snapshot", vm, name=name, state="reverted")
        active = sources(vm, inactive=True)["vda"]
        subprocess.run(["qemu-io", "-c", "write 1M 64k", active], check=True, capture_output=True)
        assert [s["problems"] for s in modules.info(vm)["snapshots"]] == [[], []]
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    message = modules.refused("vm_snapshot", vm, name="theirs", state="absent")
    left = re.findall(r"qcow2_overlay with path ([^ ]+), state absent", message)
    assert len(left) == 2
    for file in left:
        images.change("qcow2_overlay", file, state="absent", allowed_roots=[str(folder(vm))])
    modules.change("vm_snapshot", vm, name="theirs", state="absent")
    assert sources(vm, inactive=True) == bases


def test_what_others_have_left_on_a_former_overlay_is_in_nobodys_way(make_vm, modules, tmp_path):
    """The last snapshot that needs the overlay goes, and with it all but what others have left."""
    vm = make_vm("db01", disks=1, running=False)
    bases = sources(vm, inactive=True)
    take(modules, vm, "s1")
    former = overlay(vm, "vda", "s1")
    virsh = ["virsh", "-c", modules.lab.uri, "snapshot-create-as", vm.name, "theirs", "--disk-only"]
    subprocess.run(virsh, check=True, capture_output=True)
    active = sources(vm, inactive=True)["vda"]
    subprocess.run(["qemu-io", "-c", "write 1M 64k", active], check=True, capture_output=True)
    modules.run("vm_snapshot", vm, name="theirs", state="reverted")
    between = sources(vm, inactive=True)["vda"]
    take(modules, vm, "s2")
    modules.run("vm_snapshot", vm, name="s1", state="reverted")
    modules.change("vm_blockpull", vm)
    now = sources(vm, inactive=True)["vda"]
    modules.change("vm_snapshot", vm, name="theirs", state="absent")
    assert modules.whole(vm) == {"s2"}
    images = Images(tmp_path, modules.lab.directory / "c")
    refused = images.refused("qcow2_overlay", between, state="absent")
    assert "snapshot s2 of VM db01" in refused
    result = modules.change("vm_snapshot", vm, name="s2", state="absent")
    nobodys, needed = sorted(result["notes"], key=lambda note: former in note)
    assert f"db01: {former} was kept, since image " in needed
    assert f"{between} was kept" in nobodys and f"qcow2_overlay with path {between}" in nobodys
    for path in (active, between, former):
        images.change("qcow2_overlay", path, state="absent")
    assert world(vm)["files"] == sorted([*bases.values(), now])


def test_an_internal_snapshot_beside_the_present_state(make_vm, modules):
    vm = make_vm("db01", disks=1, running=False)
    bases = sources(vm, inactive=True)
    for first in ("e", "i"):
        modules.run("vm_snapshot", vm, name="e")
        modules.run("vm_snapshot", vm, name="i", mode="internal")
        modules.run("vm_snapshot", vm, name="e", state="reverted")
        assert len(chain(sources(vm, inactive=True)["vda"])) == 2
        if first == "e":
            message = modules.refused("vm_snapshot", vm, name="e", state="absent")
            assert "remove snapshot i first (vm_snapshot with name i" in message
        modules.change("vm_snapshot", vm, name="i", state="absent")
        modules.change("vm_snapshot", vm, name="e", state="absent")
        assert sources(vm, inactive=True) == bases
        assert world(vm)["files"] == sorted(bases.values())


@pytest.mark.parametrize("running", [True, False])
def test_an_internal_snapshot_goes_from_an_image_beside_that_stays(make_vm, modules, running):
    """Nothing that is merged later holds a snapshot which nobody records."""
    vm = make_vm("db01", disks=2)
    bases = sources(vm)
    take(modules, vm, "s1")
    modules.run("vm_snapshot", vm, name="inside", mode="internal")
    take(modules, vm, "s2")
    modules.run("vm_snapshot", vm, name="s1", state="reverted", run_after="running")
    if not running:
        vm.shutdown()
    images = [overlay(vm, target, "s1") for target in vm.disks]
    assert not {vm.source(target, inactive=True) for target in vm.disks}.intersection(images)
    result = modules.change("vm_snapshot", vm, name="inside", state="absent")
    assert result["notes"] == [] and modules.whole(vm) == {"s1", "s2"}
    assert [read_image(path, format="qcow2").snapshots for path in images] == [(), ()]
    modules.run("vm_snapshot", vm, name="s2", state="reverted", run_after="running")
    for name in ("s2", "s1"):
        modules.change("vm_snapshot", vm, name=name, state="absent")
    assert sources(vm) == bases and world(vm)["files"] == sorted(bases.values())
    assert_kept(vm, "s1")


def test_an_internal_snapshot_that_nobody_records_is_deleted_as_advised(make_vm, modules, tmp_path):
    """Where others stand on its image, and the snapshots that do are as good as before."""
    vm = make_vm("db01", disks=1, running=False)
    bases = sources(vm, inactive=True)
    take(modules, vm, "s1")
    image = overlay(vm, "vda", "s1")
    subprocess.run(["qemu-img", "snapshot", "-c", "inside", image], check=True)
    take(modules, vm, "s2")
    message = modules.refused("vm_snapshot", vm, name="s1", state="absent")
    assert f"qcow2_snapshot with path {image}, name inside, state absent" in message
    images = Images(tmp_path, modules.lab.directory / "c")
    images.change("qcow2_snapshot", image, name="inside", state="absent")
    assert modules.whole(vm) == {"s1", "s2"}
    for name in ("s1", "s2"):
        modules.change("vm_snapshot", vm, name=name, state="absent")
    assert sources(vm, inactive=True) == bases


def test_an_image_with_a_snapshot_that_is_recorded_is_not_removed(make_vm, modules, tmp_path):
    """Beside the present state it is no disk of the VM."""
    vm = make_vm("db01", disks=1, running=False)
    take(modules, vm, "s1")
    image = overlay(vm, "vda", "s1")
    modules.run("vm_snapshot", vm, name="inside", mode="internal")
    modules.run("vm_snapshot", vm, name="s1", state="reverted")
    images = Images(tmp_path, modules.lab.directory / "c")
    message = images.refused("qcow2_overlay", image, state="absent")
    assert "holds snapshot inside of VM db01" in message
    message = images.refused("qcow2_snapshot", image, name="inside", state="absent")
    assert "recorded for snapshot inside of VM db01" in message


def test_an_internal_snapshot_in_an_image_beside_that_is_in_use(make_vm, modules):
    """The other VM goes on, and what is left is said with the task that deletes it."""
    vm = make_vm("db01", disks=1)
    take(modules, vm, "s1")
    modules.run("vm_snapshot", vm, name="inside", mode="internal")
    take(modules, vm, "s2")
    modules.run("vm_snapshot", vm, name="s1", state="reverted", run_after="running")
    image = overlay(vm, "vda", "s1")
    user = make_vm("user", disks=[Disk(backing=image)])
    result = modules.change("vm_snapshot", vm, name="inside", state="absent")
    (note,) = result["notes"]
    assert f"qcow2_snapshot with path {image}, name inside, state absent" in note
    user.destroy()
    assert modules.whole(vm) == {"s1", "s2"}


def test_an_internal_snapshot_below_overlays_goes_while_the_vm_is_off(make_vm, modules):
    """One disk was committed by hand below it, and what removes the others waits for it."""
    vm = make_vm("db01", disks=2)
    bases = sources(vm)
    take(modules, vm, "s1", "s2")
    modules.run("vm_snapshot", vm, name="inside", mode="internal")
    commit_by_hand(modules, vm, "vda")
    vm.shutdown()
    take(modules, vm, "s3")
    vm.start()
    vm.write("/mnt/vda/since-s3", b"s3" * 1000)
    vm.write("/mnt/vdb/since-s3", b"s3" * 1000)
    assert "inside" in modules.refused("vm_snapshot", vm, name="s2", state="absent")
    message = modules.refused("vm_snapshot", vm, name="inside", state="absent")
    assert "switch the VM off first" in message
    vm.shutdown()
    for name in ("inside", "s2", "s1", "s3"):
        modules.change("vm_snapshot", vm, name=name, state="absent")
    assert sources(vm, inactive=True) == bases
    assert world(vm)["files"] == sorted(bases.values())
    vm.start()
    assert_kept(vm, "s1", "s2", "s3")


def test_back_to_a_snapshot_of_others_from_what_was_kept(make_vm, modules):
    """What was left alone for it is recorded nowhere, and its name is not taken again."""
    vm = make_vm("db01", disks=1, running=False)
    virsh = ["virsh", "-c", modules.lab.uri, "snapshot-create-as", vm.name, "theirs", "--disk-only"]
    subprocess.run(virsh, check=True, capture_output=True)
    for name, more in (("theirs", {}), ("theirs", {"keep_current": "kept"}), ("kept", {})):
        active = sources(vm, inactive=True)["vda"]
        subprocess.run(["qemu-io", "-c", "write 1M 64k", active], check=True, capture_output=True)
        modules.run("vm_snapshot", vm, name=name, state="reverted", **more)
    modules.run("vm_snapshot", vm, name="theirs", state="reverted")
    assert modules.whole(vm) == {"theirs", "kept"}
