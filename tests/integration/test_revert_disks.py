# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that came or went since a snapshot: going back brings those of then, and no image goes."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest
from lab import VM, Disk
from lab.vm import wait_until
from story import folder, sources

CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG
LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE


def image(vm: VM, name: str, word: str = "i") -> str:
    path = folder(vm) / f"{name}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    put(str(path), word)
    return str(path)


def put(path: str, word: str) -> None:
    """On an image that no VM uses just now."""
    line = ["qemu-io", "-f", "qcow2", "-c", f"write -P {ord(word)} 0 512", path]
    subprocess.run(line, check=True, capture_output=True)


def holds(path: str, word: str) -> bool:
    line = ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {ord(word)} 0 512", path]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    return done.returncode == 0 and "verification failed" not in done.stdout


def disk_xml(path: str, target: str, *, cdrom: bool = False) -> str:
    kind, form, bus = ("cdrom", "raw", "sata") if cdrom else ("disk", "qcow2", "virtio")
    return (
        f"<disk type='file' device='{kind}'><driver name='qemu' type='{form}'/>"
        f"<source file='{path}'/><target dev='{target}' bus='{bus}'/>"
        f"{'<readonly/>' if cdrom else ''}</disk>"
    )


def attach(vm: VM, path: str, target: str, flags: int = CONFIG) -> None:
    vm.domain.attachDeviceFlags(disk_xml(path, target), flags)


def detach(vm: VM, target: str, flags: int = CONFIG) -> None:
    inactive = not flags & LIVE
    node = vm.xml(inactive=inactive).find(f"devices/disk/target[@dev='{target}']/..")
    vm.domain.detachDeviceFlags(ET.tostring(node, encoding="unicode"), flags)
    if flags & LIVE:
        wait_until(lambda: target not in sources(vm), 20, "the disk is gone")


def exchange(vm: VM, target: str, path: str, flags: int = CONFIG) -> None:
    """Another image at a target of a VM that is off."""
    detach(vm, target, flags)
    attach(vm, path, target, flags)


def revert(modules, vm: VM, name: str, **params) -> dict:
    """Go back; check mode has foreseen the plan, the picture and the notes."""
    foreseen = modules.run("vm_snapshot", vm, check=True, name=name, state="reverted", **params)
    real = modules.run("vm_snapshot", vm, name=name, state="reverted", **params)
    assert foreseen["plan"] == real["plan"] and foreseen["diff"] == real["diff"]
    assert foreseen["notes"] == real["notes"]
    assert modules.info(vm)["disagreements"] == []
    assert not list(modules.state_dir.glob("journal/*"))
    return real


def step_of(result: dict, kind: str = "define_as_of") -> dict:
    return next(step for step in result["plan"] if step["step"] == kind)


def test_came_went_and_exchanged_while_off(make_vm, modules) -> None:
    vm = make_vm("db01", disks=2, running=False)
    first = sources(vm)
    for target in first:
        put(first[target], "t")
    modules.run("vm_snapshot", vm, name="s1")
    at_s1 = sources(vm)
    for path in at_s1.values():
        put(path, "n")
    # One came: it is detached, and its image and all that is on it stays.
    came = image(vm, "came", "c")
    attach(vm, came, "vdc")
    result = revert(modules, vm, "s1", keep_current="three")
    assert step_of(result)["detached"] == [["vdc", sources_of(result, "three")["vdc"]]]
    assert set(sources(vm)) == {"vda", "vdb"} and Path(came).exists() and holds(came, "c")
    assert any("vdc is detached; its image" in note for note in result["notes"])
    assert all(holds(path, "t") for path in sources(vm).values())
    # Back to what was kept: it is there again with what it held.
    result = revert(modules, vm, "three")
    assert "vdc" in dict(map(tuple, step_of(result)["attached"]))
    assert holds(sources(vm)["vdc"], "c") and holds(sources(vm)["vda"], "n")


def test_went_and_exchanged_while_off(make_vm, modules) -> None:
    vm = make_vm("db01", disks=2, running=False)
    for path in sources(vm).values():
        put(path, "t")
    modules.run("vm_snapshot", vm, name="s1")
    detach(vm, "vdb")
    result = revert(modules, vm, "s1")
    assert set(sources(vm)) == {"vda", "vdb"} and holds(sources(vm)["vdb"], "t")
    assert any("vdb is attached again" in note for note in result["notes"])
    # One has another image: that stays where it is, whatever made it.
    other = image(vm, "other", "o")
    exchange(vm, "vdb", other)
    modules.run("vm_snapshot", vm, name="of-other")
    over = sources(vm)["vdb"]
    put(over, "p")
    result = revert(modules, vm, "s1")
    assert holds(sources(vm)["vdb"], "t") and holds(over, "p") and holds(other, "o")
    assert any(over in note and "stays" in note for note in result["notes"])
    # There is nothing to do a second time, until a disk comes while it is off.
    assert not modules.run("vm_snapshot", vm, name="s1", state="reverted")["changed"]
    attach(vm, image(vm, "late"), "vdd")
    revert(modules, vm, "s1")
    assert set(sources(vm)) == {"vda", "vdb"}


def test_a_snapshot_of_a_disk_that_went_is_removed(make_vm, modules) -> None:
    """libvirt 9.0 calls it a failure to forget one with a child."""
    vm = make_vm("db01", disks=2, running=False)
    modules.run("vm_snapshot", vm, name="s1")
    detach(vm, "vdb")
    modules.run("vm_snapshot", vm, name="s2")
    for name in ("s1", "s2"):
        modules.change("vm_snapshot", vm, name=name, state="absent")
    assert modules.info(vm)["snapshots"] == []


def test_renamed_and_exchanged_among_each_other(make_vm, modules) -> None:
    """An image that the VM has now elsewhere is where it was then, and only there."""
    for mode in ("external", "internal"):
        vm = make_vm(mode, disks=3, running=False)
        for target, path in sources(vm).items():
            put(path, target[-1])
        modules.run("vm_snapshot", vm, name="s1", mode=mode)
        first = sources(vm)
        for path in first.values():
            put(path, "n")
        for target in first:
            detach(vm, target)
        for target, then in (("vdb", "vda"), ("vda", "vdb"), ("vdd", "vdc")):
            attach(vm, first[then], target)
        result = revert(modules, vm, "s1")
        now = sources(vm)
        assert set(now) == set(first)
        assert all(holds(path, target[-1]) for target, path in now.items())
        assert len([note for note in result["notes"] if "attached again" in note]) == 3
        modules.change("vm_snapshot", vm, name="s1", state="absent")


def sources_of(result: dict, name: str) -> dict[str, str]:
    taken = next(step for step in result["plan"] if step["step"] == "take_snapshot")
    assert taken["name"] == name
    made = [step for step in result["plan"] if step["step"] == "create_overlay"]
    return {step["target"]: step["file"] for step in made if f".{name}." in step["file"]}


def test_what_is_gone_is_named_before_anything_is_touched(make_vm, modules) -> None:
    vm = make_vm("db01", disks=1, running=False)
    left_out = image(vm, "left")
    attach(vm, left_out, "vdb")
    modules.run("vm_snapshot", vm, name="s1", disks=["vda"])
    put(left_out, "l")
    put(sources(vm)["vda"], "n")
    # What was left out keeps what it holds, attached or not.
    result = revert(modules, vm, "s1")
    assert any("vdb is not part of snapshot s1" in note for note in result["notes"])
    put(sources(vm)["vda"], "n")
    detach(vm, "vdb")
    away = Path(f"{left_out}.away")
    Path(left_out).rename(away)
    message = refused(modules, vm)
    assert "disk vdb" in message and left_out in message and "is gone" in message
    away.rename(left_out)
    # Another VM has it by now.
    taker = make_vm("taker", disks=[], running=False)
    attach(taker, left_out, "vda")
    message = refused(modules, vm)
    assert left_out in message and "VM taker" in message
    detach(taker, "vda")
    revert(modules, vm, "s1")
    assert sources(vm)["vdb"] == left_out and holds(left_out, "l")


def refused(modules, vm: VM) -> str:
    return modules.refused("vm_snapshot", vm, name="s1", state="reverted")


def test_the_medium_of_then_comes_back_if_it_is_there(make_vm, modules) -> None:
    vm = make_vm("db01", disks=1, running=False)
    iso, second = folder(vm) / "medium.iso", folder(vm) / "second.iso"
    for path in (iso, second):
        path.write_bytes(b"iso" * 1000)
    vm.domain.attachDeviceFlags(disk_xml(str(iso), "sda", cdrom=True), CONFIG)
    modules.run("vm_snapshot", vm, name="s1")
    vm.domain.updateDeviceFlags(disk_xml(str(second), "sda", cdrom=True), CONFIG)
    iso.rename(f"{iso}.away")
    message = refused(modules, vm)
    assert "disk sda" in message and str(iso) in message
    Path(f"{iso}.away").rename(iso)
    result = revert(modules, vm, "s1")
    assert sources(vm)["sda"] == str(iso)
    assert step_of(result)["media"] == [["sda", str(iso)]]
    assert f"sda: {second} (cdrom)" in result["diff"]["before"]
    assert f"sda: {iso} (cdrom)" in result["diff"]["after"]
    # Without the drive it is there again, too.
    detach(vm, "sda")
    revert(modules, vm, "s1")
    assert sources(vm)["sda"] == str(iso)


def test_the_other_hardware_of_then(make_vm, modules) -> None:
    """Though nothing was written, which alone would leave nothing to do."""
    for mode in ("external", "internal"):
        vm = make_vm(mode, running=False)
        modules.run("vm_snapshot", vm, name="s1", mode=mode)
        then = vm.xml(inactive=True)
        now = vm.xml(inactive=True)
        for part in ("memory", "currentMemory", "vcpu"):
            now.find(part).text = str(int(now.findtext(part)) * 2)
        now.find("devices").append(ET.fromstring("<interface type='user'/>"))
        vm.lab.connection.defineXML(ET.tostring(now, encoding="unicode"))
        result = revert(modules, vm, "s1")
        assert any("currentMemory, interface, memory, vcpu" in note for note in result["notes"])
        back = vm.xml(inactive=True)
        for part in ("memory", "currentMemory", "vcpu"):
            assert back.findtext(part) == then.findtext(part)
        assert back.find("devices/interface") is None
        if mode == "external":
            assert not modules.run("vm_snapshot", vm, name="s1", state="reverted")["changed"]


def test_the_rest_of_the_definition_of_then(make_vm, modules) -> None:
    """What people call it, what other programs note in it, and how a disk is cached."""
    vm = make_vm("db01", running=False)
    modules.run("vm_snapshot", vm, name="s1")
    for part, named in (
        ("<description>edited</description>", "description"),
        ("<metadata><x:note xmlns:x='https://example.org/x'>n</x:note></metadata>", "metadata"),
        ("<driver name='qemu' type='qcow2' cache='writethrough'/>", "disk vda"),
    ):
        assert not modules.run("vm_snapshot", vm, name="s1", state="reverted")["changed"]
        now = vm.xml(inactive=True)
        parent = now.find("devices/disk") if named == "disk vda" else now
        new = ET.fromstring(part)
        parent[:] = [node for node in parent if node.tag != new.tag] + [new]
        vm.lab.connection.defineXML(ET.tostring(now, encoding="unicode"))
        result = revert(modules, vm, "s1")
        assert any(note.endswith(f"from that of now in {named}") for note in result["notes"])
    text = ET.tostring(vm.xml(inactive=True), encoding="unicode")
    assert not any(left in text for left in ("edited", "example.org/x", "writethrough"))


def test_an_image_that_grew(make_vm, modules) -> None:
    vm = make_vm("db01", disks=1, running=False)
    for mode in ("external", "internal"):
        modules.run("vm_snapshot", vm, name=mode, mode=mode)
        subprocess.run(["qemu-img", "resize", "-q", sources(vm)["vda"], "128M"], check=True)
        put(sources(vm)["vda"], "n")
        modules.run("vm_snapshot", vm, name=mode, state="reverted")
        found = modules.info(vm)["disks"]["vda"]["chain"][0]
        assert found["virtual_size"] == 64 << 20
        modules.run("vm_snapshot", vm, name=mode, state="absent")


def test_internal_while_off(make_vm, modules) -> None:
    vm = make_vm("db01", disks=2, running=False)
    for path in sources(vm).values():
        put(path, "t")
    modules.run("vm_snapshot", vm, name="s1", mode="internal")
    old = sources(vm)["vdb"]
    for path in sources(vm).values():
        put(path, "n")
    came = image(vm, "came", "c")
    attach(vm, came, "vdc")
    result = revert(modules, vm, "s1")
    assert set(sources(vm)) == {"vda", "vdb"} and holds(came, "c")
    assert any("vdc is detached; its image" in note for note in result["notes"])
    put(old, "n")
    detach(vm, "vdb")
    attach(vm, came, "vdb")
    result = revert(modules, vm, "s1")
    assert sources(vm)["vdb"] == old and holds(old, "t") and holds(came, "c")
    assert any(came in note and "stays" in note for note in result["notes"])
    detach(vm, "vdb")
    Path(old).rename(f"{old}.away")
    message = modules.refused("vm_snapshot", vm, name="s1", state="reverted")
    assert "vdb" in message and old in message
    Path(f"{old}.away").rename(old)
    revert(modules, vm, "s1")
    assert sources(vm)["vdb"] == old


@pytest.mark.parametrize("memory", [False, True, "internal"], ids=["disks", "memory", "internal"])
def test_hot_plugged(make_vm, modules, memory: bool | str) -> None:
    """Only live, into the definition, and gone again: as it was for the guest at the point."""
    vm = make_vm("db01", [Disk(), Disk()])
    live, both, next_time = image(vm, "live", "a"), image(vm, "both", "b"), image(vm, "next")
    attach(vm, live, "vdc", LIVE)
    attach(vm, next_time, "vde", CONFIG)
    internal = memory == "internal"
    how = {"mode": "internal"} if internal else {"memory": memory}
    taking = {"name": "s1", **how}
    vm.write("/mnt/vdb/word", b"then")
    modules.run("vm_snapshot", vm, **taking)
    vm.write("/mnt/vdb/word", b"now")
    detach(vm, "vdc", LIVE)
    vm.run("umount /mnt/vdb")
    detach(vm, "vdb", LIVE | CONFIG)
    detach(vm, "vde", CONFIG)
    attach(vm, both, "vdd", LIVE | CONFIG)
    for _time in range(2):
        result = revert(modules, vm, "s1")
        vm.disconnect()
        vm.wait_ready()
        # What was only defined then is attached by the next boot, and memory goes on without it.
        booted = set() if memory else {"vde"}
        assert set(sources(vm)) == {"vda", "vdb", "vdc"} | booted
        assert sources(vm, inactive=True)["vde"] == next_time
        assert vm.read("/mnt/vdb/word") == b"then"
        assert "a" in vm.run("head -c 1 /dev/vdc; head -c 1 /dev/vdd 2>/dev/null || true")
        vm.write("/mnt/vdb/word", b"later")
    assert Path(both).exists() and holds(both, "b")
    assert result["vms"]["db01"]["state"] == "running"


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_what_was_left_out_of_a_snapshot_above_another(make_vm, modules, running) -> None:
    """Going back to the lower one gives up the image that the disk had at the upper one."""
    vm = make_vm("db01", disks=2, running=running)
    modules.run("vm_snapshot", vm, name="all")
    modules.run("vm_snapshot", vm, name="part", disks=["vda"])
    for name in ("all", "part", "all", "part"):
        revert(modules, vm, name)
    if not running:
        put(sources(vm)["vdb"], "n")
        revert(modules, vm, "part")
        assert holds(sources(vm)["vdb"], "n")
    for name in ("part", "all"):
        modules.change("vm_snapshot", vm, name=name, state="absent")
