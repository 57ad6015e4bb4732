# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bitmaps of ours that stay in images when libvirt loses the records of their checkpoints."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest
from backup_story import Repository, checkpoints
from lab import VM, Disk
from story import Modules

BLANK = Disk(content="blank", size=16)
METADATA = libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
FOREIGN = "vmkeep-by-somebody-else"


@pytest.fixture
def repository(modules: Modules, tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backup", modules)


@pytest.fixture
def vm(make_vm) -> VM:
    vm = make_vm("db01", disks=[Disk(), BLANK], running=False)
    subprocess.run(["qemu-img", "bitmap", "--add", vm.disks["vda"].path, FOREIGN], check=True)
    vm.start()
    return vm


def bitmaps(vm: VM) -> dict[str, set[str]]:
    """target -> the bitmaps that QEMU has, or the image of a VM that is off."""
    found = {}
    for target, disk in vm.disks.items():
        if vm.active():
            command = '{"execute": "query-named-block-nodes", "arguments": {"flat": true}}'
            answer = libvirt_qemu.qemuMonitorCommand(vm.domain, command, 0)
            nodes = [n for n in json.loads(answer)["return"] if n["drv"] == "qcow2"]
            known = [n.get("dirty-bitmaps", []) for n in nodes if n["file"] == disk.path]
            found[target] = {bitmap["name"] for node in known for bitmap in node}
        else:
            info = ["qemu-img", "info", "--output=json", disk.path]
            read = json.loads(subprocess.run(info, check=True, capture_output=True).stdout)
            known = read["format-specific"]["data"].get("bitmaps", [])
            found[target] = {bitmap["name"] for bitmap in known}
    return found


@pytest.mark.parametrize("how", ["running", "defined again", "defined again, and off"])
def test_those_whose_records_are_lost_go(vm, repository, modules, how: str) -> None:
    repository.back_up(vm, quiesce="never")
    [lost] = checkpoints(vm)
    if how == "running":
        vm.domain.checkpointLookupByName(lost, 0).delete(METADATA)
    else:
        xml = vm.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        vm.shutdown()
        vm.domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
        vm.lab.connection.defineXML(xml)
        if not how.endswith("off"):
            vm.start()
    assert checkpoints(vm) == []
    assert all(lost in found for found in bitmaps(vm).values())
    repository.later()
    params = repository.params(quiesce="never", max_age="1h")
    foreseen = modules.run("vm_backup", vm, check=True, **params)
    result = modules.run("vm_backup", vm, **params)
    assert [e["step"] for e in foreseen["plan"]] == [e["step"] for e in result["plan"]]
    [step] = [step for step in result["plan"] if step["step"] == "remove_bitmap"]
    assert step["name"] == lost and len(step["disks"]) == 2
    now = bitmaps(vm)
    assert not any(lost in found for found in now.values())
    assert FOREIGN in now["vda"], "it is not ours"
    again = modules.run("vm_backup", vm, **params)
    assert not again["changed"] and len(checkpoints(vm)) == int(vm.active())
    if vm.active():
        assert repository.back_up(vm, quiesce="never")["type"] == "incremental"
