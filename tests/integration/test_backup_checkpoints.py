# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMs that are backed up: their checkpoints are in nobody's way, and no restore point is wrong.

After whatever was done the next restore point, made as it comes, is compared with the disks.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest
from backup_story import Repository, checkpoints, disks_of, paused
from kill_fixtures import Chooser
from kill_trials import Killer, Task, moments
from lab import VM, Disk
from story import Modules, folder, plain, qemu_img, sources, world

UNSUPPORTED = 84
BY_HAND = "<domainsnapshot><name>byhand</name></domainsnapshot>"
FOREIGN = "<domaincheckpoint><name>monday</name></domaincheckpoint>"
OURS = "vmkeep-00c0ffee-20261102T030000Z"
SECURE, TOPOLOGICAL = 1, 2


@pytest.fixture
def repository(modules: Modules, tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backup", modules)


def records(vm: VM) -> list[str]:
    """The checkpoints as libvirt has them, each after its parent."""
    return [found.getXMLDesc(SECURE) for found in vm.domain.listAllCheckpoints(TOPOLOGICAL)]


def bitmaps(path: str) -> list[str]:
    data = qemu_img("info", "-U", path)["format-specific"]["data"]
    return [bitmap["name"] for bitmap in data.get("bitmaps", [])]


def back_up(repository: Repository, vm: VM, kind: str) -> dict:
    """A restore point of this kind, made as it comes, that holds what the disks hold."""
    with paused(vm):
        point = repository.back_up(vm, quiesce="never")
        assert repository.content(vm, point["id"]) == disks_of(vm)
    assert point["type"] == kind, point["reason"]
    return point


def write(vm: VM, what: str) -> None:
    vm.write("/mnt/vda/word", what.encode() * 1000)
    vm.write(f"/mnt/vda/{what}", what.encode() * 20000)
    vm.run("sync")


def go_back(modules: Modules, vm: VM, module: str = "vm_snapshot", **params) -> list[str]:
    """As check mode foresees it; the steps."""
    before = world(vm), records(vm)
    foreseen = modules.run(module, vm, check=True, **params)
    assert (world(vm), records(vm)) == before
    real = modules.run(module, vm, **params)
    assert plain(real["plan"]) == plain(foreseen["plan"]) and real["diff"] == foreseen["diff"]
    assert not list(modules.state_dir.glob("journal/*"))
    return [step["step"] for step in real["plan"]]


def up(vm: VM) -> None:
    if not vm.active():
        vm.start()
    vm.disconnect()
    vm.wait_ready()


def test_what_is_done_while_it_is_off(vm: VM, modules: Modules, repository: Repository) -> None:
    """All of it, whoever the checkpoints are of, and the next restore point is an increment."""
    vm.domain.checkpointCreateXML(FOREIGN)
    back_up(repository, vm, "full")
    for name in ("s1", "s2"):
        write(vm, name)
        modules.run("vm_snapshot", vm, name=name)
    write(vm, "above")
    vm.shutdown()
    kept = records(vm)
    with pytest.raises(libvirt.libvirtError) as refused:
        vm.domain.snapshotCreateXML(BY_HAND, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    assert refused.value.get_error_code() == UNSUPPORTED, "that is why they are taken out"
    for module, params in (
        ("vm_snapshot", {"name": "s3"}),
        ("vm_snapshot", {"name": "s1", "state": "absent"}),
        ("vm_snapshot", {"name": "s4", "mode": "internal"}),
        ("vm_snapshot", {"name": "s4", "state": "absent"}),
        ("vm_blockcommit", {"max_depth": 2}),
        ("vm_snapshot", {"name": "s5"}),
        ("vm_blockpull", {"max_depth": 2}),
    ):
        done = [step["step"] for step in modules.change(module, vm, **params)["plan"]]
        assert records(vm) == kept, (module, params)
        if params.get("mode") != "internal" and params.get("name") != "s4":
            assert {"take_out_checkpoints", "put_back_checkpoints"} <= set(done), (module, params)
    vm.start()
    write(vm, "later")
    back_up(repository, vm, "incremental")
    assert "monday" in checkpoints(vm)


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_going_back(vm: VM, modules: Modules, repository: Repository, running: bool) -> None:
    """To an external snapshot, and with memory, between one restore point and the next."""
    back_up(repository, vm, "full")
    write(vm, "then")
    modules.run("vm_snapshot", vm, name="s1")
    modules.run("vm_checkpoint", vm, name="c1")
    write(vm, "now")
    back_up(repository, vm, "incremental")
    write(vm, "lost")
    for module, params in (
        ("vm_snapshot", {"name": "s1", "state": "reverted", "keep_current": "present"}),
        ("vm_checkpoint", {"name": "c1", "state": "restored"}),
    ):
        if not running:
            vm.shutdown()
        assert "give_up_checkpoints" in go_back(modules, vm, module, **params)
        assert checkpoints(vm) == []
        up(vm)
        assert vm.run("ls /mnt/vda/now || true") == ""
        write(vm, "later")
        back_up(repository, vm, "full")
        write(vm, "more")
        back_up(repository, vm, "incremental")


def monitor(vm: VM, command: str, **arguments: object) -> None:
    """Let QEMU do something with the active image of vda."""
    asked = libvirt_qemu.qemuMonitorCommand(vm.domain, '{"execute": "query-block"}', 0)
    device = next(found for found in json.loads(asked)["return"] if "inserted" in found)
    arguments["node"] = device["inserted"]["node-name"]
    request = json.dumps({"execute": command, "arguments": arguments})
    assert "error" not in json.loads(libvirt_qemu.qemuMonitorCommand(vm.domain, request, 0))


def test_going_back_inside_an_image_that_was_exchanged(
    make_vm: Callable[..., VM], modules: Modules, repository: Repository
) -> None:
    """The bitmaps that it was left with are in its tables, where no QEMU would remove them."""
    vm = make_vm("db01", disks=2)
    modules.run("vm_snapshot", vm, name="inside", mode="internal")
    back_up(repository, vm, "full")
    copy = ["blockcopy", vm.name, "vdb", str(folder(vm) / "copy.qcow2"), "--format", "qcow2"]
    virsh = ["virsh", "-c", modules.lab.uri, *copy, "--transient-job", "--wait", "--pivot"]
    subprocess.run(virsh, check=True, capture_output=True)
    assert len(bitmaps(vm.disks["vdb"].path)) == 1
    steps = go_back(modules, vm, name="inside", state="reverted")
    assert steps == ["give_up_checkpoints", "revert_internal"]
    up(vm)
    assert sources(vm)["vdb"] == vm.disks["vdb"].path
    back_up(repository, vm, "full")
    back_up(repository, vm, "incremental")


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_going_back_inside(
    make_vm: Callable[..., VM], modules: Modules, repository: Repository, running: bool
) -> None:
    """QEMU refuses it with "Device has active dirty bitmaps", which are in its memory only."""
    vm = make_vm("db01", disks=1)
    write(vm, "then")
    if not running:
        vm.shutdown()
    modules.run("vm_snapshot", vm, name="inside", mode="internal")
    up(vm)
    back_up(repository, vm, "full")
    write(vm, "now")
    assert bitmaps(vm.disks["vda"].path) == [] and len(checkpoints(vm)) == 1
    if not running:
        vm.shutdown()
    steps = go_back(modules, vm, name="inside", state="reverted")
    assert steps == ["give_up_checkpoints", "revert_internal"]
    up(vm)
    assert checkpoints(vm) == [] and vm.run("ls /mnt/vda/now || true") == ""
    write(vm, "later")
    back_up(repository, vm, "full")
    # a bitmap of ours that libvirt has no record of any more
    vm.domain.listAllCheckpoints()[0].delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    if running:
        monitor(vm, "block-dirty-bitmap-add", name="theirs", persistent=True)
        message = modules.refused("vm_snapshot", vm, name="inside", state="reverted")
        advice = f"switch the VM off and run qemu-img bitmap --remove {vm.disks['vda'].path} theirs"
        assert "of somebody else (theirs)" in message and advice in message
        monitor(vm, "block-dirty-bitmap-remove", name="theirs")
    else:
        vm.shutdown()
    assert len(bitmaps(vm.disks["vda"].path)) == int(not running)
    steps = go_back(modules, vm, name="inside", state="reverted")
    assert steps == [*["stop_vm"] * running, "give_up_checkpoints", "revert_internal"]
    up(vm)
    back_up(repository, vm, "full")
    back_up(repository, vm, "incremental")


def test_going_back_inside_where_one_disk_has_lost_its_bitmap(
    make_vm: Callable[..., VM], modules: Modules, repository: Repository
) -> None:
    """libvirt drops a checkpoint with the bitmaps of all disks, or with none of them."""
    vm = make_vm("db01", disks=2)
    modules.run("vm_snapshot", vm, name="inside", mode="internal")
    back_up(repository, vm, "full")
    monitor(vm, "block-dirty-bitmap-remove", name=checkpoints(vm)[0])
    steps = go_back(modules, vm, name="inside", state="reverted")
    assert steps == ["give_up_checkpoints", "revert_internal"]
    up(vm)
    back_up(repository, vm, "full")
    back_up(repository, vm, "incremental")


@pytest.mark.kills
def test_killed_in_between(
    make_vm: Callable[..., VM], modules: Modules, tmp_path: Path, some: Chooser
) -> None:
    """Wherever a run dies, the next one puts back what was taken out; check mode says so."""
    vm = make_vm("db01", disks=1)
    vm.domain.checkpointCreateXML(FOREIGN)
    vm.domain.checkpointCreateXML(FOREIGN.replace("monday", OURS))
    vm.shutdown()
    kept = records(vm)
    killer, task = Killer(modules, tmp_path), Task("vm_snapshot", (vm,), {"name": "s1"})
    assert killer.run(task)["changed"]
    out = 0
    for setting in some(moments(killer.points()), 5):
        modules.run("vm_snapshot", vm, name="s1", state="absent")
        assert records(vm) == kept
        killer.start(task, **setting).wait()
        dead = records(vm)
        out += dead != kept
        foreseen = modules.run("vm_snapshot", vm, check=True, name="s1")
        assert records(vm) == dead
        if dead != kept:
            assert "put_back_checkpoints" in [step["step"] for step in foreseen["plan"]], setting
        real = modules.run("vm_snapshot", vm, name="s1")
        assert plain(real["plan"]) == plain(foreseen["plan"]), setting
        assert records(vm) == kept, setting
        assert vm.domain.snapshotListNames() == ["s1"] and not killer.journals()
    assert out, "no kill met the VM without its checkpoints"
    modules.run("vm_snapshot", vm, name="s1", state="absent")
    vm.start()
    validate = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
    validate |= libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
    for record in kept:
        vm.domain.checkpointCreateXML(record, validate)


def test_checkpoints_of_others(vm: VM, modules: Modules, repository: Repository) -> None:
    """Nobody's next backup is made wrong: it is refused, and what is advised leads on."""
    modules.run("vm_snapshot", vm, name="s1")
    back_up(repository, vm, "full")
    vm.domain.checkpointCreateXML(FOREIGN)
    kept = records(vm)
    message = modules.refused("vm_snapshot", vm, name="s1", state="reverted")
    assert "of somebody else (monday)" in message
    assert "virsh checkpoint-delete db01 monday" in message and records(vm) == kept
    vm.shutdown()
    message = modules.refused("vm_snapshot", vm, name="s1", state="reverted")
    assert "start the VM and run virsh checkpoint-delete db01 monday" in message
    vm.start()
    virsh = ["virsh", "-c", modules.lab.uri, "checkpoint-delete", "db01", "monday"]
    subprocess.run(virsh, check=True)
    go_back(modules, vm, name="s1", state="reverted")
    up(vm)
    back_up(repository, vm, "full")


def test_what_others_do_by_hand(make_vm: Callable[..., VM], repository: Repository) -> None:
    """Images of then under checkpoints of now: libvirt finds that the bitmaps cannot be used."""
    vm = make_vm("db01", disks=[Disk(), Disk()])
    back_up(repository, vm, "full")
    write(vm, "then")
    vm.shutdown()
    images = [Path(disk.path) for disk in vm.disks.values()]
    copies = {path: path.read_bytes() for path in images}

    # with the bitmap of the restore point that is still the newest it is an increment all the same
    vm.start()
    write(vm, "now")
    vm.shutdown()
    for path, content in copies.items():
        path.write_bytes(content)
    up(vm)
    write(vm, "later")
    back_up(repository, vm, "incremental")
    write(vm, "evening")
    back_up(repository, vm, "incremental")
    # and without it a full one
    vm.shutdown()
    for path, content in copies.items():
        path.write_bytes(content)
    up(vm)
    write(vm, "again")
    back_up(repository, vm, "full")
