# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_snapshot_info on real guests, held against virsh and qemu-img."""

from __future__ import annotations

import os
import subprocess

from story import chain, sources
from test_snapshot_absent import overlay, take


def virsh(modules, *words):
    line = ["virsh", "-c", modules.lab.uri, *words]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def test_tree_with_siblings_equals_virsh(make_vm, modules):
    """Internal snapshots may branch: both children of one parent are shown."""
    vm = make_vm("tree", disks=1, running=False)
    take(modules, vm, "root", "left", mode="internal")
    virsh(modules, "snapshot-revert", "tree", "root")
    take(modules, vm, "right", mode="internal")
    info = modules.info(vm)
    assert (
        info["tree"].replace(" *", "").split()
        == virsh(modules, "snapshot-list", "tree", "--tree").split()
    )
    found = {snapshot["name"]: snapshot for snapshot in info["snapshots"]}
    assert found["root"]["children"] == ["left", "right"] and found["root"]["parent"] is None
    assert found["left"]["parent"] == found["right"]["parent"] == "root"
    assert [name for name, snapshot in found.items() if snapshot["current"]] == ["right"]
    assert {snapshot["mode"] for snapshot in found.values()} == {"internal"}


def test_chains_equal_qemu_img_while_running(vm, modules):
    take(modules, vm, "s1", "s2")
    info = modules.info(vm)
    for target, path in sources(vm).items():
        assert [image["filename"] for image in info["disks"][target]["chain"]] == chain(path)
        assert info["disks"][target]["source"] == path
    one = modules.run("vm_snapshot_info", vm, name="s1")["vms"]["db01"]
    assert [snapshot["name"] for snapshot in one["snapshots"]] == ["s1"]
    assert "s2" in one["tree"]


def test_it_changes_nothing_and_needs_no_state(vm, modules):
    result = modules.run("vm_snapshot_info", vm)
    assert not result["changed"] and result["plan"] == []
    assert not modules.state_dir.exists()


def test_disagreements_are_named(vm, modules):
    take(modules, vm, "s1")
    virsh(modules, "snapshot-create-as", "db01", "x", "--disk-only", "--no-metadata")
    kinds = {(entry["kind"], entry["disk"]) for entry in modules.info(vm)["disagreements"]}
    assert kinds == {("overlay_without_snapshot", "vda"), ("overlay_without_snapshot", "vdb")}
    modules.change("vm_blockcommit", vm, base=overlay(vm, "vda", "s1"), disks=["vda"])
    modules.change("vm_blockcommit", vm, base=overlay(vm, "vdb", "s1"), disks=["vdb"])
    assert modules.info(vm)["disagreements"] == []
    virsh(modules, "blockcommit", "db01", "vda", "--active", "--pivot", "--wait")
    os.unlink(overlay(vm, "vda", "s1"))
    (entry,) = modules.info(vm)["disagreements"]
    assert entry["kind"] == "missing_file" and entry["snapshot"] == "s1"
    assert entry["file"] == overlay(vm, "vda", "s1")
