# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_snapshot state=present on real guests: every mode, running and off."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from lab import Disk
from lab.modules import run_module
from story import chain, folder, qemu_img, sources


def test_external_snapshot_of_a_running_vm_is_quiesced_and_whole(vm, modules):
    """Both disks at one point: overlays made before the freeze, private, on the right base."""
    vm.start_writer()
    bases = sources(vm)

    result = modules.change("vm_snapshot", vm, name="s1", quiesce="required", description="one")

    snapshot = result["vms"]["db01"]["snapshot"]
    assert snapshot["consistency"] == "filesystem" and snapshot["mode"] == "external"
    assert snapshot["description"] == "one"
    assert 0 < result["vms"]["db01"]["frozen_ms"] < 5000
    for target, base in bases.items():
        overlay = snapshot["disks"][target]["file"]
        assert snapshot["disks"][target]["image"] == base
        assert chain(overlay) == [overlay, base]
        assert sources(vm)[target] == sources(vm, inactive=True)[target] == overlay
        assert stat.S_IMODE(os.stat(overlay).st_mode) == 0o600
        assert os.stat(overlay).st_uid == os.stat(base).st_uid
    assert not vm.frozen()
    vm.stop_writer()
    assert vm.lost_records() == []


def test_the_point_in_time_holds_what_was_written_before_and_nothing_later(vm, modules, tmp_path):
    """The frozen image, copied away, has the first file and not the second, and needs no fsck."""
    vm.write("/mnt/vda/before", b"old" * 1000)
    vm.run("sync")
    result = modules.change("vm_snapshot", vm, name="s1", quiesce="required")
    vm.write("/mnt/vda/after", b"new" * 1000)

    image = result["vms"]["db01"]["snapshot"]["disks"]["vda"]["image"]
    raw = tmp_path / "point.raw"
    subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", image, str(raw)], check=True)
    subprocess.run(["e2fsck", "-fy", str(raw)], check=False, capture_output=True)
    listing = subprocess.run(
        ["debugfs", "-R", "ls -p /", str(raw)], check=True, capture_output=True, text=True
    ).stdout
    assert "/before/" in listing and "/after/" not in listing
    content = subprocess.run(
        ["debugfs", "-R", "cat /before", str(raw)], check=True, capture_output=True
    ).stdout
    assert content == b"old" * 1000


def test_external_snapshot_with_memory(vm, modules):
    vm.start_writer()
    result = modules.change("vm_snapshot", vm, name="live", memory=True)
    snapshot = result["vms"]["db01"]["snapshot"]
    assert snapshot["consistency"] == "memory" and snapshot["memory"]
    memory = Path(snapshot["memory_file"])
    assert memory.read_bytes()[:16] == b"LibvirtQemudSave"
    assert vm.domain.state()[0] == 1
    vm.stop_writer()
    assert vm.lost_records() == []

    modules.change("vm_snapshot", vm, name="live", state="absent")
    assert not memory.exists() and list(folder(vm).glob("*.live.*")) == []
    assert vm.lost_records() == []


def test_internal_snapshot_of_a_running_vm(vm, modules):
    vm.start_writer()
    result = modules.change("vm_snapshot", vm, name="inside", mode="internal")
    snapshot = result["vms"]["db01"]["snapshot"]
    assert snapshot["consistency"] == "memory" and snapshot["mode"] == "internal"
    for path in sources(vm).values():
        tags = [entry["name"] for entry in qemu_img("info", "-U", path)["snapshots"]]
        assert tags == ["inside"]
    vm.stop_writer()

    modules.change("vm_snapshot", vm, name="inside", state="absent")
    for path in sources(vm).values():
        assert "snapshots" not in qemu_img("info", "-U", path)
    assert vm.lost_records() == []


def test_internal_snapshot_of_a_vm_that_is_off(make_vm, modules):
    vm = make_vm("off1", disks=2, running=False)
    result = modules.change("vm_snapshot", vm, name="cold", mode="internal")
    assert result["vms"]["off1"]["snapshot"]["consistency"] == "offline"
    path = sources(vm)["vda"]
    assert [entry["name"] for entry in qemu_img("info", path)["snapshots"]] == ["cold"]
    modules.change("vm_snapshot", vm, name="cold", state="absent")
    assert "snapshots" not in qemu_img("info", path)


def test_external_snapshot_of_a_vm_that_is_off_carries_its_bitmaps(make_vm, modules):
    """libvirt leaves bitmaps behind here, which would break the next incremental backup."""
    vm = make_vm("off2", disks=2, running=False)
    base = sources(vm)["vda"]
    for name in ("monday", "tuesday"):
        subprocess.run(["qemu-img", "bitmap", "--add", "-g", "32768", base, name], check=True)
    subprocess.run(["qemu-img", "bitmap", "--disable", base, "tuesday"], check=True)

    result = modules.change("vm_snapshot", vm, name="cold")

    assert result["vms"]["off2"]["snapshot"]["consistency"] == "offline"
    overlay = sources(vm, inactive=True)["vda"]
    assert chain(overlay) == [overlay, base]
    assert stat.S_IMODE(os.stat(overlay).st_mode) == 0o600
    bitmaps = qemu_img("info", overlay)["format-specific"]["data"]["bitmaps"]
    assert [(b["name"], b["granularity"], b["flags"]) for b in bitmaps] == [
        ("monday", 32768, ["auto"])
    ]
    vm.start()
    vm.write("/mnt/vda/after", b"written on the overlay")
    vm.shutdown()
    modules.change("vm_snapshot", vm, name="cold", state="absent")
    assert sources(vm, inactive=True)["vda"] == base and not os.path.exists(overlay)
    bitmaps = qemu_img("info", base)["format-specific"]["data"]["bitmaps"]
    assert sorted(b["name"] for b in bitmaps) == ["monday", "tuesday"]
    assert all("in-use" not in b["flags"] for b in bitmaps)
    vm.start()
    assert vm.read("/mnt/vda/after") == b"written on the overlay"


def test_only_the_disks_that_were_asked_for(vm, modules, tmp_path):
    place = tmp_path / "elsewhere"
    place.mkdir()
    file = str(place / "data.qcow2")
    before = sources(vm)
    modules.change("vm_snapshot", vm, name="s1", disks=[{"target": "vdb", "file": file}])
    assert sources(vm) == {"vda": before["vda"], "vdb": file}
    message = modules.refused("vm_snapshot", vm, name="s1", disks=["vda"])
    assert "s1" in message and "covers vdb, not vda" in message


def test_removable_and_read_only_disks_are_left_out(make_vm, modules):
    vm = make_vm(
        "mixed",
        disks=[
            Disk(),
            Disk(format="raw"),
            Disk(device="cdrom", format="raw", content="blank"),
            Disk(readonly=True),
        ],
    )
    result = modules.change("vm_snapshot", vm, name="s1")
    taken = result["vms"]["mixed"]["snapshot"]["disks"]
    writable = [target for target, disk in vm.disks.items() if target in taken]
    assert len(taken) == 2 and writable == list(taken)
    modules.change("vm_snapshot", vm, name="s1", state="absent")


def test_present_again_compares_with_what_was_asked(vm, modules):
    modules.change("vm_snapshot", vm, name="s1", quiesce="never", description="first")
    for params, difference in (
        ({"mode": "internal"}, "is external, not internal"),
        ({"memory": True}, "has no memory"),
        ({"quiesce": "required"}, "crash-consistent"),
        ({"description": "second"}, "described as 'first'"),
    ):
        message = modules.refused("vm_snapshot", vm, name="s1", **params)
        assert difference in message and "state: absent" in message


def test_a_paused_vm_stays_paused_and_is_not_called_quiesced(make_vm, modules):
    vm = make_vm("held", disks=1)
    vm.domain.suspend()
    result = modules.change("vm_snapshot", vm, name="s1")
    assert result["vms"]["held"]["snapshot"]["consistency"] == "crash"
    assert any("paused" in note for note in result["notes"])
    assert vm.domain.state()[0] == 3
    assert "paused" in modules.refused("vm_snapshot", vm, name="s2", quiesce="required")


def test_a_consistent_group_is_taken_at_one_point_or_not_at_all(make_vm, modules):
    pair = [make_vm("web", disks=1), make_vm("app", disks=2)]
    for machine in pair:
        machine.start_writer()
    result = modules.change(
        "vm_snapshot", pair, name="both", consistent_group=True, quiesce="required"
    )
    for machine in pair:
        entry = result["vms"][machine.name]
        assert entry["snapshot"]["consistency"] == "filesystem" and entry["frozen_ms"] > 0
    pair[1].silence_agent()
    message = modules.refused(
        "vm_snapshot", pair, name="again", consistent_group=True, quiesce="required"
    )
    assert "app" in message and "does not answer" in message
    pair[1].wake_agent()
    modules.run("vm_snapshot", pair[0], name="alone")
    message = modules.refused("vm_snapshot", pair, name="alone", consistent_group=True)
    assert "web already has the snapshot, app has not" in message
    modules.run("vm_snapshot", pair[0], name="alone", state="absent")
    modules.change("vm_snapshot", pair, name="both", state="absent")
    for machine in pair:
        machine.stop_writer()
        assert machine.lost_records() == [] and not machine.frozen()


def test_one_bad_vm_does_not_stop_the_others(vm, modules):
    params = {**modules.params(vm, name="s1"), "vm": ["db01", "nobody"]}
    result = run_module("vm_snapshot", params)
    assert result["failed"] and result["changed"]
    assert result["vms"]["db01"]["snapshot"]["name"] == "s1"
    assert result["vms"]["nobody"]["failed"] and "nobody" in result["vms"]["nobody"]["msg"]
