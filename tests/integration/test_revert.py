# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_snapshot state=reverted on real guests: what they read is what was there at the point."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from lab import VM, Disk
from story import chain, count, count_beyond, folder, sources, start_counting


def put(vm: VM, word: str) -> None:
    """The same word on each disk, durable."""
    for target in vm.disks:
        vm.write(f"/mnt/{target}/word", word.encode())


def words(vm: VM) -> set[str]:
    return {vm.read(f"/mnt/{target}/word").decode() for target in vm.disks}


def revert(modules, vm: VM, name: str, **params) -> dict:
    """Go back, with what every change has to keep, as far as going back can.

    Check mode has foreseen the very plan, the snapshots are whole, the VM is on the point.
    """
    foreseen = modules.run("vm_snapshot", vm, check=True, name=name, state="reverted", **params)
    real = modules.run("vm_snapshot", vm, name=name, state="reverted", **params)
    assert foreseen["plan"] == real["plan"] and foreseen["diff"] == real["diff"]
    assert not list(modules.state_dir.glob("journal/*"))
    info = modules.info(vm)
    assert info["disagreements"] == []
    assert [s["name"] for s in info["snapshots"] if s["current"]] == [name]
    assert real["vms"][vm.name]["state"] == info["state"]
    if vm.active() and info["state"] == "running":
        vm.disconnect()
        vm.wait_ready()
    return real


def history(modules, vm: VM, *names: str, **params) -> None:
    """Snapshots upon each other; the guest writes the name of each before it is taken."""
    for name in names:
        put(vm, name)
        modules.run("vm_snapshot", vm, name=name, **params)
    put(vm, "now")


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_newest_older_and_beside(vm: VM, modules, running: bool) -> None:
    """tp-libvirt 2: back to s2, then s3 beside it, then s1; each time what was there then."""
    history(modules, vm, "s1", "s2", "s3")
    if not running:
        vm.shutdown()
    for name in ("s3", "s2", "s3", "s1", "s2"):
        result = revert(modules, vm, name)
        assert result["vms"]["db01"]["state"] == ("running" if running else "shutoff")
        if not running:
            vm.start()
        assert words(vm) == {name}
        put(vm, f"after {name}")
        if not running:
            vm.shutdown()
    # nothing is left but what the snapshots need
    kept = {f"db01.{t}.{n}.qcow2" for t in ("vda", "vdb") for n in ("s1", "s2")}
    bases = {"vda.qcow2", "vdb.qcow2"}
    present = {os.path.basename(path) for path in sources(vm, inactive=True).values()}
    found = {path.name for path in folder(vm).glob("*.qcow2")}
    assert found == kept | bases | present


def test_what_was_gone_back_from_can_be_kept(vm: VM, modules) -> None:
    history(modules, vm, "s1")
    revert(modules, vm, "s1", keep_current="failed", quiesce="required")
    assert words(vm) == {"s1"}
    found = {s["name"]: s for s in modules.info(vm)["snapshots"]}
    assert found["failed"]["parent"] == "s1" and found["failed"]["consistency"] == "filesystem"
    put(vm, "again")
    revert(modules, vm, "failed")
    assert words(vm) == {"now"}
    revert(modules, vm, "s1")
    assert words(vm) == {"s1"}
    message = modules.refused("vm_snapshot", vm, name="s1", state="reverted", keep_current="failed")
    assert "has a snapshot failed already" in message


def test_a_snapshot_beside_goes_with_all_that_only_it_needs(vm: VM, modules) -> None:
    history(modules, vm, "s1")
    revert(modules, vm, "s1", keep_current="failed")
    before = set(folder(vm).glob("*.qcow2"))
    modules.change("vm_snapshot", vm, name="failed", state="absent")
    assert before - set(folder(vm).glob("*.qcow2"))
    assert words(vm) == {"s1"} and modules.info(vm)["tree"] == "s1 *"
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    assert words(vm) == {"s1"}
    assert {p.name for p in folder(vm).glob("*.qcow2")} == {"vda.qcow2", "vdb.qcow2"}


@pytest.mark.parametrize("after", ["unchanged", "paused", "shutoff"])
def test_with_memory_the_guest_goes_on_from_there(vm: VM, modules, after: str) -> None:
    """tp-libvirt 5: a process counts in memory and on a disk; both go on from one point."""
    start_counting(vm)
    modules.run("vm_snapshot", vm, name="live", memory=True)
    reached = count(vm)
    for _time in range(2):
        count_beyond(vm, reached + 60)
        revert(modules, vm, "live", run_after=after)
        state = modules.info(vm)["state"]
        assert state == {"unchanged": "running"}.get(after, after)
        if after == "paused":
            vm.domain.resume()
            vm.disconnect()
        if after == "shutoff":
            assert (
                modules.run("vm_snapshot", vm, name="live", state="reverted", run_after=after)[
                    "plan"
                ]
                == []
            )
            return
        first = count(vm)
        assert first < reached + 60
        count_beyond(vm, first)
    assert vm.run("dmesg | grep -i 'ext4.*error' || true") == ""


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_internal(vm: VM, modules, running: bool) -> None:
    """tp-libvirt 1."""
    put(vm, "then")
    vm.run("echo then >/run/memory")
    if not running:
        vm.shutdown()
    modules.run("vm_snapshot", vm, name="inside", mode="internal", prove_way_back=True)
    if not running:
        vm.start()
    put(vm, "now")
    vm.run("echo now >/run/memory")
    if not running:
        vm.shutdown()
    for _time in range(2):
        revert(modules, vm, "inside")
        if not running:
            vm.start()
        assert words(vm) == {"then"}
        if running:
            assert vm.run("cat /run/memory").strip() == "then"
        put(vm, "later")
        if not running:
            vm.shutdown()


def test_off_and_untouched_needs_nothing(make_vm, modules) -> None:
    vm = make_vm("still", disks=2, running=False)
    modules.run("vm_snapshot", vm, name="s1")
    first = modules.run("vm_snapshot", vm, name="s1", state="reverted")
    assert not first["changed"], "the overlays are empty already"
    vm.start()
    put(vm, "now")
    vm.destroy()
    revert(modules, vm, "s1")
    again = modules.run("vm_snapshot", vm, name="s1", state="reverted")
    assert not again["changed"] and again["plan"] == []
    # Nothing is written yet, but the guest that was saved goes on from another point.
    vm.start(paused=True)
    vm.domain.managedSave(0)
    message = modules.refused("vm_snapshot", vm, name="s1", state="reverted")
    assert "has a managed save" in message


def test_a_disk_that_was_left_out_stays_as_it_is(vm: VM, modules) -> None:
    put(vm, "then")
    modules.run("vm_snapshot", vm, name="one", disks=["vda"])
    modules.run("vm_snapshot", vm, name="both")
    put(vm, "now")
    revert(modules, vm, "one")
    assert vm.read("/mnt/vda/word") == b"then" and vm.read("/mnt/vdb/word") == b"now"


def test_snapshots_of_virsh(vm: VM, modules) -> None:
    put(vm, "then")
    words_of_virsh = ["virsh", "-c", modules.lab.uri, "snapshot-create-as", "db01", "byhand"]
    subprocess.run([*words_of_virsh, "--disk-only", "--atomic"], check=True, capture_output=True)
    put(vm, "now")
    left = list(sources(vm).values())
    result = revert(modules, vm, "byhand")
    assert words(vm) == {"then"}
    # what we did not make is not removed
    assert all(os.path.exists(path) for path in left)
    assert any("left alone" in note for note in result["notes"])


def test_what_would_fail_is_refused_before_anything_is_touched(vm: VM, make_vm, modules) -> None:
    base = sources(vm)["vda"]
    history(modules, vm, "s1")

    def refused(**params) -> str:
        return modules.refused("vm_snapshot", vm, **{"name": "s1", "state": "reverted", **params})

    assert "no snapshot 'never'" in refused(name="never")
    assert "which is to be gone back to" in refused(keep_current="s1")
    assert "mean nothing" in refused(subtree=True)
    assert "mean nothing" in refused(memory=True)
    other = make_vm("other", disks=[], running=False)
    xml = vm.xml()
    disk = next(d for d in xml.iterfind("devices/disk"))
    disk.find("source").set("file", base)
    for part in ("backingStore", "address", "alias"):
        for node in disk.findall(part):
            disk.remove(node)
    other.domain.attachDeviceFlags(ET.tostring(disk, encoding="unicode"), 2)
    assert "is the active image of disk vda of VM other" in refused()
    other.domain.detachDeviceFlags(ET.tostring(disk, encoding="unicode"), 2)
    os.rename(base, f"{base}.away")
    assert "is gone" in refused()
    os.rename(f"{base}.away", base)
    vm.destroy()
    vm.start()
    vm.domain.managedSave(0)
    assert "managed save" in refused()
    vm.domain.managedSaveRemove(0)


def test_a_transient_vm_is_refused(make_vm, modules) -> None:
    vm = make_vm("passing", disks=1, transient=True)
    modules.run("vm_snapshot", vm, name="s1")
    message = modules.refused("vm_snapshot", vm, name="s1", state="reverted")
    assert "transient" in message


def test_the_point_stays_what_it_was(vm: VM, modules) -> None:
    base = sources(vm)
    history(modules, vm, "s1")
    before = {path: Path(path).read_bytes() for path in base.values()}
    for _time in range(2):
        revert(modules, vm, "s1")
        put(vm, "other")
        assert {path: Path(path).read_bytes() for path in base.values()} == before
        assert chain(sources(vm)["vda"])[1:] == [base["vda"]]


def test_taken_while_off_and_gone_back_to_while_running(make_vm, modules) -> None:
    """tp-libvirt 1: a snapshot without memory says nothing of the state, which then stays."""
    vm = make_vm("db01", running=False)
    modules.run("vm_snapshot", vm, name="s1")
    vm.start()
    put(vm, "now")
    assert revert(modules, vm, "s1")["vms"]["db01"]["state"] == "running"
    assert vm.run("ls /mnt/vda").split() == ["lost+found"]
    assert revert(modules, vm, "s1", run_after="shutoff")["vms"]["db01"]["state"] == "shutoff"


def test_an_image_whose_data_is_in_another_file(make_vm, modules, tmp_path) -> None:
    """tp-libvirt 3."""
    image, data = str(tmp_path / "front.qcow2"), str(tmp_path / "data.raw")
    options = f"data_file={data},data_file_raw=on"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, "16M"], check=True
    )
    vm = make_vm("db01", [Disk(path=image, content="blank")])
    vm.run("echo then | dd of=/dev/vda conv=fsync,notrunc")
    modules.run("vm_snapshot", vm, name="s1", directory=str(tmp_path))
    for word in ("now", "later"):
        vm.run(f"echo {word} | dd of=/dev/vda conv=fsync,notrunc")
        revert(modules, vm, "s1")
        assert vm.run("head -n 1 /dev/vda").strip() == "then"
    assert Path(data).read_bytes()[:5] == b"then\n"


@pytest.mark.parametrize("memory", [False, True], ids=["disks", "memory"])
def test_a_guest_that_knows_its_generation(make_vm, modules, memory: bool) -> None:
    """tp-libvirt 6: it is told that it was brought back."""
    vm = make_vm("db01", running=False)
    xml = vm.xml()
    ET.SubElement(xml, "genid").text = "3e3fce45-4f53-4fa7-bb32-11f34168b82b"
    vm.lab.connection.defineXML(ET.tostring(xml, encoding="unicode"))
    vm.start()
    before = vm.xml().findtext("genid")
    modules.run("vm_snapshot", vm, name="s1", memory=memory)
    revert(modules, vm, "s1")
    assert vm.xml().findtext("genid") not in ("", None, before)
