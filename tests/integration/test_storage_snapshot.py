# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_storage_snapshot on real file systems: what the copies hold is what the guest had written."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from kill_stage import needs_recovery
from lab import Disk
from lab.modules import run_module
from lab.vm import wait_until
from stock_story import Repository
from storage_stage import Content, digest, info, run, shared_with
from story import chain, folder, sources, world

MODULE = "vm_storage_snapshot"
# File system and backend.
ALL = [("xfs", "reflink"), ("btrfs", "reflink"), ("btrfs", "btrfs")]
every = pytest.mark.parametrize(("kind", "backend"), ALL, ids=["xfs", "btrfs", "subvolume"])


def copies(result, vm):
    """target -> the file that holds the copy."""
    disks = result["vms"][vm.name]["snapshot"]["disks"]
    return {target: disk["file"] for target, disk in disks.items()}


def take(modules, vm, name="s1", **params):
    return modules.change(MODULE, vm, name=name, **params)


@every
def test_a_running_vm_at_one_moment(stored_vm, modules, tmp_path, kind, backend):
    vm = stored_vm(kind, "stored")
    images = sources(vm)
    for target in vm.disks:
        vm.write(f"/mnt/{target}/before", target.encode())
    vm.start_writer()

    result = take(modules, vm, backend=backend, quiesce="required")

    known = vm.acknowledged()
    for target in vm.disks:
        vm.write(f"/mnt/{target}/after", b"after")
    snapshot = result["vms"]["stored"]["snapshot"]
    assert snapshot["consistency"] == "filesystem" and snapshot["problems"] == []
    assert {disk["backend"] for disk in snapshot["disks"].values()} == {backend}
    assert min(result["vms"]["stored"][key] for key in ("flush_ms", "frozen_ms")) > 0
    found = {}
    for target, copy in copies(result, vm).items():
        content = Content(copy, tmp_path)
        assert content.read("/before") == target.encode() and content.read("/after") == b""
        found[target] = content.records(target)
        assert not needs_recovery(copy) and needs_recovery(images[target])
    # The writer goes from disk to disk, so at one moment they are at most one record apart.
    last = [records[-1].number for records in found.values()]
    assert max(last) - min(last) <= 1
    acknowledged = max(number for _boot, number in known["vda"])
    assert 0 < min(last) < acknowledged
    # The VM is as it was, and goes on.
    assert sources(vm) == images and [chain(path) for path in images.values()] == [
        [path] for path in images.values()
    ]
    assert vm.domain.listAllSnapshots() == []
    vm.destroy()
    vm.start()
    assert vm.lost_records() == []
    modules.change(MODULE, vm, name="s1", state="absent")
    assert world(vm)["files"] == sorted(images.values())


@every
def test_going_back_and_back_again(stored_vm, modules, kind, backend):
    vm = stored_vm(kind, "stored")
    for target in vm.disks:
        vm.write(f"/mnt/{target}/before", target.encode())
    taken = copies(take(modules, vm, backend=backend), vm)
    held = {target: digest(path) for target, path in taken.items()}
    vm.write("/mnt/vda/after", b"after")
    assert "VM stored is running" in modules.refused(MODULE, vm, name="s1", state="reverted")
    vm.shutdown()

    for _time in ("first", "second"):
        result = modules.change(MODULE, vm, name="s1", state="reverted")
        assert [step["step"] for step in result["plan"]] == ["revert_storage"]
        assert {target: digest(path) for target, path in sources(vm).items()} == held
        assert {target: digest(path) for target, path in taken.items()} == held
        vm.start()
        for target in vm.disks:
            assert vm.read(f"/mnt/{target}/before") == target.encode()
        assert vm.run("ls /mnt/vda").split() == ["before", "lost+found"]
        vm.write("/mnt/vda/after", b"after")
        vm.shutdown()

    # One disk alone, of which the other knows nothing.
    modules.change(MODULE, vm, name="s1", state="reverted", disks=["vda"])
    vm.start()
    assert vm.run("ls /mnt/vda").split() == ["before", "lost+found"]
    vm.shutdown()
    modules.change(MODULE, vm, name="s1", state="absent")
    left = sorted(path.name for path in folder(vm).iterdir())
    assert left == ["vda.qcow2", "vdb.qcow2"]


@every
def test_a_vm_that_is_off(stored_vm, modules, kind, backend):
    vm = stored_vm(kind, "stored", running=False)
    before = {target: digest(path) for target, path in sources(vm).items()}
    result = take(modules, vm, backend=backend)
    assert [step["step"] for step in result["plan"]] == ["snapshot_storage"]
    assert result["vms"]["stored"]["snapshot"]["consistency"] == "offline"
    assert {target: digest(path) for target, path in copies(result, vm).items()} == before
    vm.start()
    vm.write("/mnt/vda/after", b"after")
    assert digest(copies(result, vm)["vda"]) == before["vda"]


def test_the_images_of_a_quiet_vm_are_shared_and_not_copied(stored_vm, modules):
    vm = stored_vm("xfs", "stored", running=False)
    result = take(modules, vm)
    for target, copy in copies(result, vm).items():
        image = sources(vm)[target]
        assert shared_with(copy) and copy == f"{image}@s1"
        assert os.stat(copy).st_size == os.stat(image).st_size


def test_several_snapshots_are_independent(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=1)
    for name in ("s1", "s2", "s3"):
        take(modules, vm, name=name)
        vm.write(f"/mnt/vda/since-{name}", b"x")
    vm.shutdown()
    modules.change(MODULE, vm, name="s2", state="absent")
    for name, seen in (("s3", {"since-s1", "since-s2"}), ("s1", set())):
        modules.change(MODULE, vm, name=name, state="reverted")
        vm.start()
        assert set(vm.run("ls /mnt/vda").split()) == {"lost+found", *seen}
        vm.shutdown()


def test_a_second_vm_boots_on_the_copy(stored_vm, make_vm, modules):
    vm = stored_vm("xfs", "stored")
    vm.write("/mnt/vda/before", b"before")
    result = take(modules, vm)
    vm.write("/mnt/vda/after", b"after")
    clone = make_vm("clone", disks=[Disk(backing=path) for path in copies(result, vm).values()])
    assert clone.read("/mnt/vda/before") == b"before"
    assert clone.run("ls /mnt/vda").split() == ["before", "lost+found"]
    message = modules.refused(MODULE, vm, name="s1", state="absent")
    assert "is also used by disk vda of VM clone" in message
    clone.lab.remove(clone)
    modules.change(MODULE, vm, name="s1", state="absent")


@pytest.mark.parametrize("backend", ["reflink", "btrfs"])
def test_a_raw_image(stored_vm, modules, tmp_path, backend):
    vm = stored_vm("btrfs", "stored", disks=[Disk(format="raw")])
    vm.write("/mnt/vda/before", b"before")
    taken = copies(take(modules, vm, backend=backend), vm)["vda"]
    vm.write("/mnt/vda/after", b"after")
    content = Content(taken, tmp_path, "raw")
    assert content.read("/before") == b"before" and content.read("/after") == b""
    vm.shutdown()
    modules.change(MODULE, vm, name="s1", state="reverted")
    vm.start()
    assert vm.run("ls /mnt/vda").split() == ["before", "lost+found"]


def test_a_transient_vm(stored_vm, modules):
    vm = stored_vm("xfs", "passing", transient=True)
    images = sources(vm)
    vm.start_writer()
    take(modules, vm)
    assert sources(vm) == images
    modules.change(MODULE, vm, name="s1", state="absent")
    vm.stop_writer()
    assert vm.lost_records() == []


def test_a_paused_vm(stored_vm, modules):
    vm = stored_vm("xfs", "stored")
    vm.domain.suspend()
    result = take(modules, vm)
    assert result["vms"]["stored"]["snapshot"]["consistency"] == "crash"
    assert "it is paused" in result["notes"][0]
    assert "cannot be quiesced" in modules.refused(MODULE, vm, name="s2", quiesce="required")
    vm.domain.resume()
    message = modules.refused(MODULE, vm, name="s1", quiesce="required")
    assert "is only crash-consistent, not quiesced" in message


# --- what files carry ---


def test_owner_mode_and_label(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=1, running=False)
    image = sources(vm)["vda"]
    os.chown(image, 1234, 5678)
    os.chmod(image, 0o640)
    label = b"system_u:object_r:svirt_image_t:s0:c1,c2\0"
    os.setxattr(image, "security.selinux", label)
    os.setxattr(image, "user.note", b"ours")
    os.setxattr(image, "trusted.libvirt.security.ref_dac", b"1")
    copy = copies(take(modules, vm), vm)["vda"]
    facts = os.stat(copy)
    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o7777) == (1234, 5678, 0o600)
    assert os.getxattr(copy, "security.selinux") == label
    assert os.getxattr(copy, "user.note") == b"ours"
    # That libvirt has an image in use is not true of its copy.
    assert "trusted.libvirt.security.ref_dac" not in os.listxattr(copy)

    os.removexattr(image, "trusted.libvirt.security.ref_dac")
    os.chown(image, 0, 0)
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 1M", image)
    modules.change(MODULE, vm, name="s1", state="reverted")
    facts = os.stat(image)
    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o7777) == (0, 0, 0o640)
    assert os.getxattr(image, "security.selinux") == label
    assert "user.vmkeep" not in os.listxattr(image)
    assert digest(image) == digest(copy)


def test_an_image_without_copy_on_write(stored_vm, modules):
    """libvirt makes the volumes of pools on btrfs so; they share blocks only with their like."""
    vm = stored_vm("btrfs", "stored", disks=1, running=False)
    image = Path(sources(vm)["vda"])
    content = image.read_bytes()
    image.unlink()
    image.touch(0o600)
    run("chattr", "+C", str(image))
    image.write_bytes(content)
    copy = copies(take(modules, vm), vm)["vda"]
    assert "C" in run("lsattr", copy).split()[0]
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 1M", str(image))
    modules.change(MODULE, vm, name="s1", state="reverted")
    assert digest(str(image)) == digest(copy) and "C" in run("lsattr", str(image)).split()[0]


def test_an_image_behind_a_symbolic_link(stored_vm, modules):
    real = stored_vm("xfs", "stored", disks=1, running=False)
    image = Path(sources(real)["vda"])
    xml = real.domain.XMLDesc()
    link = real.folder / "vda.qcow2"
    link.symlink_to(image)
    real.lab.connection.defineXML(xml.replace(str(image), str(link)))
    taken = copies(take(modules, real), real)["vda"]
    assert taken == f"{image}@s1"
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 1M", str(image))
    modules.change(MODULE, real, name="s1", state="reverted")
    assert link.is_symlink() and digest(str(link)) == digest(taken)


# --- chains ---


def test_an_overlay_is_copied_and_what_it_stands_on_is_kept(stored_vm, modules, tmp_path):
    vm = stored_vm("xfs", "stored", disks=1)
    vm.write("/mnt/vda/below", b"below")
    modules.run("vm_snapshot", vm, name="first")
    overlay, base = chain(sources(vm)["vda"])
    vm.write("/mnt/vda/before", b"before")
    result = take(modules, vm)
    assert result["vms"]["stored"]["snapshot"]["disks"]["vda"]["stands_on"] == [base]
    copy = copies(result, vm)["vda"]
    assert copy == f"{overlay}@s1" and chain(copy) == [copy, base]
    content = Content(copy, tmp_path)
    assert content.read("/below") == b"below" and content.read("/before") == b"before"
    assert [found.getName() for found in vm.domain.listAllSnapshots()] == ["first"]

    # Whoever would change the base is told who needs it.
    for module, params in (("vm_snapshot", {"name": "first", "state": "absent"}),
                           ("vm_blockcommit", {})):  # fmt: skip
        message = modules.refused(module, vm, **params)
        assert base in message and "storage snapshot s1 of VM stored" in message
        assert "vm_storage_snapshot with name s1, state absent" in message
    vm.write("/mnt/vda/after", b"after")
    modules.run("vm_snapshot", vm, name="second")
    vm.shutdown()
    message = modules.refused(MODULE, vm, name="s1", state="reverted")
    assert "is on the overlay" in message and "vda.second" in message
    assert "remove snapshot second first (vm_snapshot with name second" in message
    modules.run("vm_snapshot", vm, name="second", state="absent")
    modules.change(MODULE, vm, name="s1", state="reverted")
    vm.start()
    assert set(vm.run("ls /mnt/vda").split()) == {"lost+found", "below", "before"}
    assert modules.info(vm)["disagreements"] == []
    modules.change(MODULE, vm, name="s1", state="absent")
    modules.change("vm_snapshot", vm, name="first", state="absent")
    assert vm.read("/mnt/vda/before") == b"before"


def test_a_base_that_was_written_to_is_noticed(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=[Disk(layers=2)], running=False)
    base = chain(sources(vm)["vda"])[1]
    take(modules, vm)
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", base)
    message = modules.refused(MODULE, vm, name="s1", state="reverted")
    assert f"{base} was written to since" in message


def test_qemu_dies_while_its_images_are_copied(stored_vm, modules):
    """The snapshot that was to last only as long stays on no record, and its overlays go."""
    vm = stored_vm("xfs", "stored")
    under_way = modules.start(MODULE, vm, name="s1")
    overlay = folder(vm) / "stored.vda.vmkeep-storage.qcow2"
    wait_until(overlay.exists, 20, "it is taken")
    wait_until(lambda: sources(vm)["vda"] == str(overlay), 20, "the guest writes to it")
    os.kill(vm.qemu_pid(), signal.SIGKILL)
    under_way.result()
    wait_until(lambda: not vm.active(), 20, "libvirt has seen it")
    assert vm.domain.snapshotListNames() == [] and not overlay.exists()
    assert sources(vm) == {target: str(disk.path) for target, disk in vm.disks.items()}
    take(modules, vm, name="s2")


def test_backups_leave_the_way_back_to_a_copy_of_an_overlay(stored_vm, modules, tmp_path):
    """They take their old bitmaps out of what it stands on, which is no other content."""
    vm = stored_vm("xfs", "stored", disks=[Disk(size=4, content="blank")])
    backup = {"repository": str(tmp_path), "type": "full"}
    modules.run("vm_backup", vm, **backup)
    modules.run("vm_snapshot", vm, name="first")
    base = chain(sources(vm)["vda"])[1]
    copy = copies(take(modules, vm), vm)["vda"]
    bitmaps = info(base)["format-specific"]["data"]["bitmaps"]
    for _night in range(2):
        modules.run("vm_backup", vm, **backup)
    vm.shutdown()
    assert bitmaps and "bitmaps" not in info(base)["format-specific"]["data"]
    modules.change(MODULE, vm, name="s1", state="reverted")
    assert digest(sources(vm)["vda"]) == digest(copy)
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", base)
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", sources(vm)["vda"])
    message = modules.refused(MODULE, vm, name="s1", state="reverted")
    assert f"{base} was written to since" in message


def test_a_copy_that_was_written_to_is_noticed(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=1, running=False)
    first, second = (copies(take(modules, vm, name), vm)["vda"] for name in ("s1", "s2"))
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", sources(vm)["vda"])
    modules.run(MODULE, vm, name="s2", state="reverted")
    run("cp", "-a", first, f"{first}.kept")
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", first)
    for state in ("reverted", "present"):
        message = modules.refused(MODULE, vm, name="s1", state=state)
        assert f"{first}, which held vda, was written to since" in message
    os.replace(second, first)
    assert "was written to since" in modules.refused(MODULE, vm, name="s1", state="reverted")
    os.replace(f"{first}.kept", first)
    modules.change(MODULE, vm, name="s1", state="reverted")


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_back_to_an_overlay_that_stands_for_itself_now(stored_vm, modules, running):
    vm = stored_vm("xfs", "stored", disks=[Disk(layers=2)])
    vm.write("/mnt/vda/before", b"before")
    take(modules, vm)
    vm.write("/mnt/vda/after", b"after")
    if not running:
        vm.shutdown()
    modules.change("vm_blockpull", vm, delete_merged=False)
    if running:
        vm.shutdown()
    modules.change(MODULE, vm, name="s1", state="reverted")
    vm.start()
    assert set(vm.run("ls /mnt/vda").split()) == {"lost+found", "before"}
    assert vm.run("cat /mnt/vda/before") == "before"


def test_a_restore_point_that_a_copy_stands_on_is_not_pruned(stored_vm, modules, tmp_path):
    """Neither is one that the VM stands on again since it went back to such a copy."""
    vm = stored_vm("xfs", "stored", disks=[Disk(size=4, content="blank")], running=False)
    repository = Repository(tmp_path / "backup")
    point = repository.keep(vm)
    modules.change("vm_restore", vm, repository=str(repository.path), instant=True)
    take(modules, vm)
    repository.keep(vm, full=True)
    rules = {"vm": [vm.name], "repository": str(repository.path), "keep_last": 1}

    def pulled_and_pruned() -> list[str]:
        modules.change("vm_blockpull", vm)
        found = run_module("vm_backup_prune", rules)["vms"][vm.name]["removed"]
        return [entry["id"] for entry in found]

    assert pulled_and_pruned() == []
    modules.change(MODULE, vm, name="s1", state="reverted")
    modules.change(MODULE, vm, name="s1", state="absent")
    assert run_module("vm_backup_prune", rules)["vms"][vm.name]["removed"] == []
    assert pulled_and_pruned() == [point.id]


def test_backends_that_want_a_disk_of_one_image(stored_vm, modules):
    vm = stored_vm("btrfs", "stored", disks=[Disk(layers=2)], running=False)
    message = modules.refused(MODULE, vm, name="s1", backend="btrfs")
    assert "stands on other images" in message and "vm_blockcommit" in message


def test_an_internal_snapshot_would_be_lost(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=1, running=False)
    modules.run("vm_snapshot", vm, name="older", mode="internal")
    time.sleep(1.1)
    take(modules, vm)
    time.sleep(1.1)
    modules.run("vm_snapshot", vm, name="inside", mode="internal")
    message = modules.refused(MODULE, vm, name="s1", state="reverted")
    assert "holds the internal snapshots inside," in message
    modules.run("vm_snapshot", vm, name="inside", state="absent")
    modules.change(MODULE, vm, name="s1", state="reverted")
    image = sources(vm)["vda"]
    assert [found["name"] for found in info(image)["snapshots"]] == ["older"]


# --- records and names ---


@every
def test_a_lost_record(stored_vm, modules, kind, backend):
    vm = stored_vm(kind, "stored")
    vm.write("/mnt/vda/before", b"before")
    taken = take(modules, vm, backend=backend, quiesce="required")["vms"]["stored"]["snapshot"]
    vm.write("/mnt/vda/after", b"after")
    for path in modules.state_dir.glob("storage/*"):
        path.unlink()
    found = modules.run(MODULE, vm, name="s1")["vms"]["stored"]["snapshot"]
    known = {"reflink": "filesystem", "btrfs": "crash"}[backend]
    assert found["consistency"] == known and found["disks"].keys() == taken["disks"].keys()
    vm.shutdown()
    result = modules.change(MODULE, vm, name="s1", state="reverted")
    assert "the record of storage snapshot s1 is lost" in result["notes"][0]
    vm.start()
    assert vm.run("ls /mnt/vda").split() == ["before", "lost+found"]
    for path in modules.state_dir.glob("storage/*"):
        path.unlink()
    modules.change(MODULE, vm, name="s1", state="absent")
    assert world(vm)["files"] == sorted(sources(vm).values())


def test_what_others_made_is_left_alone(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=1, running=False)
    foreign = Path(f"{sources(vm)['vda']}@theirs")
    foreign.write_bytes(b"theirs")
    assert not modules.run(MODULE, vm, name="theirs", state="absent")["changed"]
    assert f"{foreign} exists already" in modules.refused(MODULE, vm, name="theirs")
    # Somebody has put his own in the place of ours.
    copy = Path(copies(take(modules, vm), vm)["vda"])
    copy.unlink()
    message = modules.refused(MODULE, vm, name="s1")
    assert f"{copy}, which held vda, is gone" in message
    assert f"{copy}, which held vda, is gone" in modules.refused(
        MODULE, vm, name="s1", state="reverted"
    )
    copy.write_bytes(b"theirs too")
    result = modules.run(MODULE, vm, name="s1", state="absent")
    assert "it was left alone" in result["notes"][0]
    assert copy.read_bytes() == b"theirs too" and foreign.read_bytes() == b"theirs"


def test_a_record_that_cannot_be_read(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=1, running=False)
    take(modules, vm)
    (record,) = modules.state_dir.glob("storage/*")
    record.write_text("{")
    message = modules.refused(MODULE, vm, name="s1")
    assert str(record) in message and "move the file away" in message


# --- refused ---


def test_a_file_system_that_cannot_share_blocks(stored_vm, modules):
    vm = stored_vm("plain-xfs", "stored", disks=1, running=False)
    message = modules.refused(MODULE, vm, name="s1")
    assert "cannot be cloned" in message and "reflink=1" in message and "vm_snapshot" in message
    vm.start()
    assert "cannot be cloned" in modules.refused(MODULE, vm, name="s1")


def test_other_bad_input(stored_vm, modules):
    vm = stored_vm("xfs", "stored")
    refused = [
        ({"name": "a/b"}, "snapshot name"),
        ({"name": "x" * 300}, "snapshot name"),
        ({"name": "s1", "disks": ["vdx"]}, "has no disk vdx"),
        ({"name": "s1", "backend": "lvm"}, "which is for logical volumes"),
        ({"name": "s1", "backend": "btrfs"}, "lies in no btrfs subvolume"),
        ({"name": "s1", "directory": "/no/such"}, "the directory /no/such does not exist"),
        ({"name": "s1", "cow_size": "much"}, "cow_size is 'much'"),
        ({"name": "s1", "freeze_timeout": 0}, "freeze_timeout is 0"),
        ({"name": "never", "state": "reverted"}, "has no storage snapshot never"),
        ({"name": "s1", "state": "absent", "disks": ["vda"]}, "mean nothing with state: absent"),
        ({"name": "s1", "state": "reverted", "cow_size": "1G"}, "mean nothing with state"),
    ]
    for params, words in refused:
        assert words in modules.refused(MODULE, vm, **params), params
    assert not modules.run(MODULE, vm, name="never", state="absent")["changed"]
    take(modules, vm, disks=["vda"])
    assert "covers vda, not vda, vdb" in modules.refused(
        MODULE, vm, name="s1", disks=["vda", "vdb"]
    )
    assert "was made by reflink, not btrfs" in modules.refused(
        MODULE, vm, name="s1", backend="btrfs"
    )


def test_a_long_name(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=1, running=False)
    image = Path(sources(vm)["vda"])
    long = image.with_name("v" * 130 + ".qcow2")
    image.rename(long)
    vm.lab.connection.defineXML(vm.domain.XMLDesc().replace(str(image), str(long)))
    message = modules.refused(MODULE, vm, name="n" * 120)
    assert "choose a shorter snapshot name" in message


def test_a_subvolume_with_images_of_another_vm(stored_vm, make_vm, modules):
    vm = stored_vm("btrfs", "stored", disks=1, running=False)
    lodger = folder(vm) / "lodger.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", str(lodger), "16M")
    make_vm("lodger", disks=[Disk(path=str(lodger))], running=False)
    message = modules.refused(MODULE, vm, name="s1", backend="btrfs")
    assert "holds disk vda of VM lodger as well" in message
    take(modules, vm, backend="reflink")


def test_a_managed_save(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=1)
    take(modules, vm)
    vm.domain.managedSave()
    for params in ({"name": "s2"}, {"name": "s1", "state": "reverted"}):
        assert "has a managed save" in modules.refused(MODULE, vm, **params)


def test_an_image_that_something_stands_on_is_not_replaced(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=1, running=False)
    take(modules, vm)
    image = sources(vm)["vda"]
    overlay = f"{folder(vm)}/other.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, overlay)
    message = modules.refused(MODULE, vm, name="s1", state="reverted")
    assert f"is also used by image {overlay}" in message


# --- others at the same time ---


def test_what_a_copy_elsewhere_stands_on_is_not_merged_into(stored_vm, modules):
    """Nobody finds it beside the base: the overlay that it is of stands in another directory."""
    vm = stored_vm("xfs", "stored", disks=1, running=False)
    elsewhere = folder(vm) / "elsewhere"
    elsewhere.mkdir()
    modules.run("vm_snapshot", vm, name="s1", directory=str(elsewhere))
    take(modules, vm, name="z1")
    message = modules.refused("vm_snapshot", vm, name="s1", state="absent")
    assert "is also used by storage snapshot z1 of VM stored. " in message
    assert "(vm_storage_snapshot with name z1, state absent)" in message
    modules.change(MODULE, vm, name="z1", state="absent")
    modules.change("vm_snapshot", vm, name="s1", state="absent")


def test_an_image_that_something_writes_to(stored_vm, modules):
    vm = stored_vm("xfs", "stored", disks=1, running=False)
    writer = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", sources(vm)["vda"]], stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: _is_open(writer.pid, sources(vm)["vda"]), 10, "qemu-io opens the image")
        result = modules.attempt(MODULE, vm, name="s1")
        assert "has been opened for writing by process" in result["msg"]
        assert str(writer.pid) in result["msg"]
        assert list(folder(vm).glob("*@*")) == []
    finally:
        writer.communicate(b"quit\n", timeout=10)
    take(modules, vm)


def _is_open(pid: int, path: str) -> bool:
    return any(os.readlink(entry) == path for entry in Path(f"/proc/{pid}/fd").iterdir())
