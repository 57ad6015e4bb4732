# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that write out before they are frozen, while they go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from kill_trials import Killer, Task
from lab import VM, Disk
from lab.initramfs import kernel_modules
from lab.records import longest_gap
from lab.vm import wait_until
from story import Modules

MIB = 1 << 20
SPEED = 4 * MIB
DIRT = 24


@pytest.fixture
def slow(make_vm: Callable[..., VM]) -> VM:
    """A guest with a slow disk and much memory, which writes out only when it is asked to."""
    vm = make_vm("slow", [Disk(), Disk(size=16)], memory=320)
    vm.run("cd /proc/sys/vm; echo 90 >dirty_ratio; echo 80 >dirty_background_ratio")
    vm.run("echo 60000 >/proc/sys/vm/dirty_writeback_centisecs")
    throttle(vm, SPEED)
    vm.start_writer(0.04, ["vdb"])
    return vm


def throttle(vm: VM, speed: int) -> None:
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE
    vm.domain.setBlockIoTune("vda", {"total_bytes_sec": speed}, flags)


def soil(vm: VM) -> None:
    """Write to the slow disk what the guest keeps in memory at first."""
    vm.run(f"dd if=/dev/zero of=/mnt/vda/dirt bs=1M count={DIRT} conv=notrunc", timeout=60)


def stall(vm: VM, since: int) -> float:
    """The longest gap of the durable writer on the other disk, in seconds, from a record on."""
    return longest_gap(vm.writer_records()["vdb"][since:]) / 1000


def pretend(vm: VM, script: str) -> None:
    """Put a script in the place of sync in the guest; it notes when it was begun."""
    note = "read -r now _ </proc/uptime; echo $now >>/run/synced"
    vm.run(
        "rm -f /bin/sync /run/synced; cat >/bin/sync; chmod +x /bin/sync",
        data=f"#!/bin/sh\n{note}\n{script}\n".encode(),
    )


def begun(vm: VM) -> list[float]:
    return [float(word) for word in vm.run("cat /run/synced || true").split()]


def test_a_guest_with_more_to_write_than_a_freeze_may_take(slow: VM, modules: Modules) -> None:
    """Writers on other disks wait for the freeze only, and not for what is written out."""
    wish = {"quiesce": "required", "freeze_timeout": 3}
    soil(slow)
    first = len(slow.writer_records()["vdb"])
    failed = modules.attempt("vm_snapshot", slow, name="s1", flush="never", **wish)
    assert failed["failed"] and "within 3 s" in failed["msg"] and "freeze_timeout" in failed["msg"]
    assert not failed["changed"] and failed["plan"] == [], "all was undone"
    wait_until(lambda: slow.stalled() == [], 20, "the guest goes on")
    without = stall(slow, first)
    assert without > 2, "nothing was to be written out"

    soil(slow)
    first = len(slow.writer_records()["vdb"])
    result = modules.change("vm_snapshot", slow, name="s1", **wish)
    entry = result["vms"]["slow"]
    assert entry["snapshot"]["consistency"] == "filesystem" and result["notes"] == []
    assert entry["flush_ms"] > 2000 and 0 < entry["frozen_ms"] < 2000
    assert result["plan"][-1]["flush_timeout"] == 60
    time.sleep(0.5)
    assert stall(slow, first) < without / 2
    throttle(slow, 0)
    assert slow.stalled() == [] and slow.lost_records() == []


def test_guests_that_cannot_write_out(slow: VM, modules: Modules) -> None:
    """It is said, and they are frozen all the same."""
    throttle(slow, 0)
    names = iter("abcdefgh")

    def take(**params: object) -> tuple[list[str], dict]:
        result = modules.change("vm_snapshot", slow, name=next(names), quiesce="required", **params)
        entry = result["vms"]["slow"]
        assert entry["snapshot"]["consistency"] == "filesystem" and entry["frozen_ms"] > 0
        return result["notes"], entry

    notes, entry = take(flush="never")
    assert notes == [] and entry["flush_ms"] == 0

    pretend(slow, "sleep 1000")
    began = time.monotonic()
    notes, entry = take(flush_timeout=2)
    assert "takes longer than 2 s" in notes[0] and 2000 <= entry["flush_ms"] < 8000
    assert time.monotonic() - began < 40

    pretend(slow, "exit 3")
    notes, entry = take()
    assert "sync ended with 3" in notes[0]
    assert len(begun(slow)) == 1, "check mode, or a run that had nothing to do, ran something"

    slow.run("rm /bin/sync")
    notes, entry = take()
    assert "guest-exec" in notes[0] and entry["flush_ms"] == 0

    pretend(slow, "exit 0")
    slow.restart_agent("-b", "guest-exec")
    notes, entry = take()
    assert notes == [
        "slow: not all was written out before the freeze: its agent does not allow guest-exec"
    ]
    assert entry["flush_ms"] == 0 and begun(slow) == []
    assert slow.stalled() == [] and slow.lost_records() == []


def test_a_group_side_by_side_and_a_run_that_is_killed(
    slow: VM, make_vm: Callable[..., VM], modules: Modules
) -> None:
    other = make_vm("other", [Disk(size=16)])
    throttle(slow, 0)
    for vm in (slow, other):
        pretend(vm, "sleep 2")
    wish = {"name": "s1", "quiesce": "required", "consistent_group": True}
    run = modules.start("vm_snapshot", [slow, other], **wish)
    with run:
        wait_until(lambda: begun(slow) != [] and begun(other) != [], 30, "both write out")
        assert slow.stalled(0.3) == other.stalled(0.3) == []
        run.kill()
    assert slow.stalled() == other.stalled() == [] and not slow.frozen() and not other.frozen()

    result = modules.run("vm_snapshot", [slow, other], **wish)
    assert any("undid snapshot s1" in note for note in result["notes"])
    for name in ("slow", "other"):
        entry = result["vms"][name]
        assert entry["snapshot"]["consistency"] == "filesystem"
        assert 2000 < entry["flush_ms"] < 7000, "one after the other"
    assert len(begun(slow)) == len(begun(other)) == 3, "again, though that was not shorter"

    pretend(slow, "sleep 1")
    pretend(other, "sleep 1000")
    result = modules.run("vm_snapshot", [slow, other], **{**wish, "name": "s2"}, flush_timeout=4)
    assert len(begun(slow)) > 2, "what it wrote while the other hung was not written out"
    [note] = result["notes"]
    assert note.startswith("other: not all was written out before the freeze")


def mounted_otherwise(modules: Modules, vm: VM) -> None:
    """Mounted twice, and one within another."""

    def points(disk: str) -> list[str] | None:
        params = {"name": "s3", "disks": [disk], "quiesce": "required"}
        return modules.run("vm_snapshot", vm, check=True, **params)["plan"][-1].get("mountpoints")

    vm.run("mkdir /mnt/vda/sub /mnt/twice; mount --bind /mnt/vda/sub /mnt/twice")
    vm.run("umount /mnt/vdc; mkdir /mnt/vdb/in; mount -t ext4 /dev/vdc /mnt/vdb/in")
    # Newer agents tell of a file system once; frozen is all of it in any case.
    assert points("vda") in (["/mnt/twice", "/mnt/vda"], ["/mnt/vda"])
    assert (points("vdb"), points("vdc")) == (["/mnt/vdb"], ["/mnt/vdb/in"])
    wish = {"name": "s3", "quiesce": "required", "disks": ["vda"]}
    assert modules.change("vm_snapshot", vm, **wish)["vms"]["part"]["frozen_ms"] > 0
    assert vm.stalled() == []


def test_only_what_lies_on_the_disks_that_are_taken_is_frozen(
    make_vm: Callable[..., VM], killer: Killer, tmp_path: Path
) -> None:
    """All is frozen where all disks are taken, and nothing where nothing could be."""
    vm = make_vm("part", [Disk(size=16)] * 3)
    modules, point = killer.modules, "before libvirt snapshotCreateXML part"
    for name, disks, mounts in (("s1", ["vdb"], ["/mnt/vdb"]), ("s2", None, vm.mounts())):
        wish = {"name": name, "quiesce": "required", "disks": disks}
        with killer.start(Task("vm_snapshot", (vm,), wish), hold={point: 1.5}) as run:
            killer.reaches(point)
            assert vm.stalled(0.4) == sorted(mounts)
            result = run.result()
        assert result["vms"]["part"]["snapshot"]["consistency"] == "filesystem"
        assert result["plan"][-1].get("mountpoints") == (mounts if disks else None)
        assert vm.stalled() == []

    wish = {"quiesce": "required", "disks": ["vda", "vdb"], "repository": str(tmp_path)}
    result = modules.run("vm_backup", vm, **wish)
    assert result["plan"][-1]["mountpoints"] == ["/mnt/vda", "/mnt/vdb"]
    made = result["vms"]["part"]["restore_point"]
    assert made["consistency"] == "filesystem" and made["frozen_ms"] > 0 < made["flush_ms"]

    mounted_otherwise(modules, vm)
    vm.run("umount /mnt/twice /mnt/vdb/in")
    wish = {"name": "s4", "disks": ["vdc"]}
    message = modules.refused("vm_snapshot", vm, quiesce="required", **wish)
    assert "no file system of VM part is mounted that lies on vdc" in message
    result = modules.change("vm_snapshot", vm, quiesce="preferred", **wish)
    assert result["vms"]["part"]["snapshot"]["consistency"] == "crash"
    assert result["vms"]["part"]["frozen_ms"] == result["vms"]["part"]["flush_ms"] == 0
    assert result["notes"] == ["part: not quiesced, no file system is mounted that lies on vdc"]


def load(vm: VM, *names: str) -> None:
    """Let the kernel of the guest load modules of that of this machine, with all that they need."""
    tree = kernel_modules(vm.lab.programs, vm.run("uname -r").strip(), names)
    for line in str(tree.pop("modules/order"), "ascii").split():
        vm.run("cat >/run/module; insmod /run/module || true", data=bytes(tree[f"modules/{line}"]))


RAID = """
echo md0 >/sys/module/md_mod/parameters/new_array
cd /sys/block/md0/md
echo none >metadata_version; echo raid0 >level; echo 65536 >chunk_size; echo 2 >raid_disks
for disk in vdb vdc; do cat /sys/block/$disk/dev >new_dev; echo 8192 >dev-$disk/size; done
echo 0 >dev-vdb/slot; echo 1 >dev-vdc/slot
echo active >array_state
"""
# A copy of a file system that is at rest.
MOUNT = """
umount /mnt/vda; dd if=/dev/vda of={0} bs=1M; mount -t ext4 /dev/vda /mnt/vda
mkdir /mnt/{1}; mount -t ext4 {2} /mnt/{1}
"""


def test_a_file_system_on_two_disks_and_one_in_a_file(
    make_vm: Callable[..., VM], killer: Killer
) -> None:
    """The one is frozen with each of its disks. Where the other lies nobody tells, so all is."""
    blank = Disk(size=8, content="blank")
    vm = make_vm("spread", [Disk(size=16), blank, blank, Disk(size=64)], memory=320)
    load(vm, "raid0", "loop")
    vm.run(RAID)
    vm.run(MOUNT.format("/dev/md0", "raid", "/dev/md0"))

    def frozen(name: str, disks: list[str]) -> list[str]:
        """What stands still while these disks are taken."""
        point = "before libvirt snapshotCreateXML spread"
        wish = {"name": name, "quiesce": "required", "disks": disks}
        with killer.start(Task("vm_snapshot", (vm,), wish), hold={point: 1.5}) as run:
            killer.reaches(point)
            found = vm.stalled(0.4)
            entry = run.result()["vms"]["spread"]
        assert entry["snapshot"]["consistency"] == "filesystem" and vm.stalled() == []
        return found

    assert frozen("s1", ["vdc"]) == ["/mnt/raid"]
    assert frozen("s2", ["vda"]) == ["/mnt/vda"]
    vm.run(MOUNT.format("/mnt/vdd/image", "inner", "-o loop /mnt/vdd/image"))
    assert frozen("s3", ["vda"]) == sorted(vm.mounts())
