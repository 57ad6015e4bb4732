# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt refuses, check mode refuses, too, before anything is touched; no more than that."""

from __future__ import annotations

import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from lab import VM
from story import Modules, folder, sources
from test_revert_disks import CONFIG, LIVE, detach, disk_xml
from test_uefi import CODE, TEMPLATE

OVERLAYS = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
SHARED = "<shmem name='lab'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>"


def defined(vm: VM, change: Callable[[ET.Element], object]) -> None:
    root = vm.xml(inactive=True)
    change(root)
    vm.lab.connection.defineXML(ET.tostring(root, encoding="unicode"))


def add(text: str) -> Callable[[ET.Element], object]:
    return lambda root: root.find("devices").append(ET.fromstring(text))


def refused_by_libvirt(vm: VM, xml: str, flags: int = 0) -> None:
    """So it is no refusal of ours alone."""
    with pytest.raises(libvirt.libvirtError):
        vm.domain.snapshotCreateXML(f"<domainsnapshot><name>x</name>{xml}</domainsnapshot>", flags)
    assert vm.domain.snapshotNum(0) == 0


def refused(modules: Modules, vm: VM, words: str, **params: object) -> None:
    message = modules.refused("vm_snapshot", vm, name="s1", quiesce="never", **params)
    assert words in message, message


def no_memory(modules: Modules, vm: VM, words: str) -> None:
    """Neither into the images nor into a file."""
    refused(modules, vm, words, mode="internal")
    refused_by_libvirt(vm, "")
    refused(modules, vm, words, memory=True, disks=["vda"])
    refused_by_libvirt(vm, f"<memory snapshot='external' file='{folder(vm)}/x.save'/>")
    for path in (None, f"{folder(vm)}/db01.save"):
        message = modules.refused("vm_memory", vm, state="saved", path=path)
        assert words in message, message
    message = modules.refused("vm_checkpoint", vm, name="c1")
    assert words in message, message


def test_a_transient_disk(make_vm, modules, tmp_path) -> None:
    vm = make_vm("db01", disks=2, running=False)
    defined(vm, lambda root: ET.SubElement(root.findall("devices/disk")[1], "transient"))
    vm.start(wait=False)
    no_memory(modules, vm, "transient disk vdb")
    refused(modules, vm, "disk vdb of VM db01 is transient")
    refused_by_libvirt(vm, "", OVERLAYS)
    wish = {"repository": str(tmp_path), "quiesce": "never"}
    assert "disk vdb of VM db01 is transient" in modules.refused("vm_backup", vm, **wish)
    modules.run("vm_backup", vm, disks=["vda"], **wish)
    below = sources(vm, inactive=True)["vdb"]
    message = modules.refused("vm_blockcommit", vm, disks=["vdb"], base=below)
    assert "disk vdb of VM db01 is transient" in message and "a merge of it" in message
    modules.change("vm_snapshot", vm, name="s1", quiesce="never", disks=["vda"])
    modules.change("vm_snapshot", vm, name="s1", state="absent")


def test_shared_memory(make_vm, modules) -> None:
    vm = make_vm("db01", running=False)
    defined(vm, add(SHARED))
    vm.start(wait=False)
    no_memory(modules, vm, "shared memory lab")
    modules.change("vm_snapshot", vm, name="s1", quiesce="never")
    modules.change("vm_snapshot", vm, name="s1", state="absent")


def test_what_only_qemu_knows(make_vm, modules) -> None:
    """As with what a guest has mounted by 9p, the definition does not show it."""
    vm = make_vm("db01", running=False)
    spaces = "xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'"
    words = ("-object", "memory-backend-ram,id=more,size=1M,share=on")
    words = (*words, "-device", "ivshmem-plain,memdev=more,addr=0x1e")
    line = "".join(f"<q:arg value='{word}'/>" for word in words)
    xml = ET.fromstring(f"<q:commandline {spaces}>{line}</q:commandline>")
    defined(vm, lambda root: root.append(xml))
    vm.start(paused=True, wait=False)
    no_memory(modules, vm, "QEMU does not write the memory of VM db01")
    modules.change("vm_snapshot", vm, name="s1", quiesce="never")
    modules.change("vm_snapshot", vm, name="s1", state="absent")


def test_a_format_that_does_not_let_go_of_its_state(make_vm, modules) -> None:
    vm = make_vm("db01", running=False)
    path = folder(vm) / "tools.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", str(path), "8M"], check=True)
    defined(
        vm,
        add(
            f"<disk type='file' device='disk'><driver name='qemu' type='vmdk'/>"
            f"<source file='{path}'/><target dev='vdb' bus='virtio'/><readonly/></disk>"
        ),
    )
    vm.start(paused=True, wait=False)
    no_memory(modules, vm, "disk vdb in the format vmdk")
    modules.change("vm_snapshot", vm, name="s1", quiesce="never")
    modules.change("vm_snapshot", vm, name="s1", state="absent")


def test_inside_of_images_when_the_vm_has_other_disks(make_vm, modules) -> None:
    """While it runs libvirt deletes an internal snapshot only with all disks and media of then."""
    vm = make_vm("db01", disks=2, running=False)
    media = [folder(vm) / "1.iso", folder(vm) / "2.iso"]
    for path in media:
        path.write_bytes(bytes(4096))
    vm.domain.attachDeviceFlags(disk_xml(str(media[0]), "sda", cdrom=True), CONFIG)
    vm.start(paused=True, wait=False)
    modules.run("vm_snapshot", vm, name="s1", mode="internal")
    vm.domain.updateDeviceFlags(disk_xml(str(media[1]), "sda", cdrom=True), LIVE | CONFIG)
    gone = {"name": "s1", "state": "absent"}
    assert f"sda of VM db01 was {media[0]}" in modules.refused("vm_snapshot", vm, **gone)
    with pytest.raises(libvirt.libvirtError):
        vm.domain.snapshotLookupByName("s1").delete()
    vm.destroy()
    detach(vm, "vdb")
    vm.start(paused=True, wait=False)
    # libvirt 9.0 would die of it.
    assert "vdb of VM db01 was" in modules.refused("vm_snapshot", vm, **gone)
    vm.destroy()
    modules.change("vm_snapshot", vm, **gone)


def test_a_floppy_disk(make_vm, modules) -> None:
    vm = make_vm("db01", running=False)
    image = folder(vm) / "floppy.img"
    image.write_bytes(bytes(1474560))
    defined(
        vm,
        add(
            f"<disk type='file' device='floppy'><driver name='qemu' type='raw'/>"
            f"<source file='{image}'/><target dev='fda' bus='fdc'/></disk>"
        ),
    )
    refused(modules, vm, "the floppy disk fda of VM db01 can be written to", mode="internal")
    refused_by_libvirt(vm, "<disks><disk name='fda' snapshot='no'/></disks>")
    modules.change("vm_snapshot", vm, name="s1")
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    # The empty drive is in nobody's way.
    vm.domain.updateDeviceFlags(
        "<disk type='file' device='floppy'><driver name='qemu' type='raw'/>"
        "<target dev='fda' bus='fdc'/></disk>",
        CONFIG,
    )
    for running in (False, True):
        if running:
            vm.start(paused=True, wait=False)
        # libvirt lets nobody correct the record of one with an empty drive, which a note says.
        modules.run("vm_snapshot", vm, name="s1", mode="internal")
        modules.run("vm_snapshot", vm, name="s1", state="reverted")
        modules.change("vm_snapshot", vm, name="s1", state="absent")


def test_a_data_file_beside_an_image(make_vm, modules) -> None:
    vm = make_vm("db01", running=False)
    path = folder(vm) / "split.qcow2"
    line = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={path}.data"]
    subprocess.run([*line, str(path), "8M"], check=True)
    vm.domain.attachDeviceFlags(disk_xml(str(path), "vdb"), CONFIG)
    refused(modules, vm, "has a data file of its own", mode="internal")
    refused_by_libvirt(vm, "")
    modules.change("vm_snapshot", vm, name="s1")
    modules.change("vm_snapshot", vm, name="s1", state="absent")


def test_a_disk_of_a_pool(make_vm, modules, tmp_path) -> None:
    """No directory follows from its name, and a record of it could not be corrected later."""
    vm = make_vm("db01", running=False)
    place = tmp_path / "pool"
    place.mkdir()
    line = ["qemu-img", "create", "-q", "-f", "qcow2", str(place / "more.qcow2"), "8M"]
    subprocess.run(line, check=True)
    target = f"<target><path>{place}</path></target>"
    xml = f"<pool type='dir'><name>lab</name>{target}</pool>"
    try:
        pool = vm.lab.connection.storagePoolCreateXML(xml, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        pytest.skip("SKIPPED LOUDLY: libvirt's driver of storage pools is not installed")
    try:
        disk = "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
        disk += "<source pool='lab' volume='more.qcow2'/><target dev='vdb' bus='virtio'/></disk>"
        defined(vm, add(disk))
        for params in ({}, {"directory": str(tmp_path)}, {"mode": "internal"}):
            refused(modules, vm, "disk vdb of VM db01 is a volume pool=lab", **params)
        modules.change("vm_snapshot", vm, name="s1", disks=["vda"])
        modules.change("vm_snapshot", vm, name="s1", state="absent")
    finally:
        pool.destroy()


@pytest.mark.skipif(
    not CODE.exists() or not TEMPLATE.exists(),
    reason=f"SKIPPED LOUDLY: {CODE} is not installed (package ovmf)",
)
def test_inside_of_images_with_uefi(make_vm, modules, tmp_path: Path) -> None:
    vm = make_vm("db01", agent=False, running=False)

    def firmware(root: ET.Element) -> None:
        system = root.find("os")
        ET.SubElement(system, "loader", readonly="yes", type="pflash").text = str(CODE)
        ET.SubElement(system, "nvram").text = str(shutil.copy(TEMPLATE, tmp_path / "vars.fd"))

    defined(vm, firmware)
    if vm.lab.connection.getLibVersion() < 9_003_000:
        refused(modules, vm, "has a UEFI firmware", mode="internal")
        refused_by_libvirt(vm, "")
    else:
        modules.change("vm_snapshot", vm, name="s1", mode="internal")
        modules.change("vm_snapshot", vm, name="s1", state="absent")
    vm.domain.create()
    refused(modules, vm, "has a UEFI firmware", mode="internal")
    refused_by_libvirt(vm, "")


def test_one_file_for_several_overlays(make_vm, modules, tmp_path) -> None:
    """One VM has it, and the other would have found it when it had begun."""
    vms = [make_vm(name, disks=2, running=False) for name in ("db01", "app01")]
    (tmp_path / "link").symlink_to(tmp_path)
    file, same = str(tmp_path / "s1.qcow2"), str(tmp_path / "link" / "s1.qcow2")
    twice = [{"target": "vda", "file": file}, {"target": "vdb", "file": same}]
    refused(modules, vms[0], f"{same} and {file} are the same file", disks=twice)
    twice[1]["target"] = "vda"
    refused(modules, vms[0], f"disk vda is to have {file} and {same} as overlay", disks=twice)
    for together in (False, True):
        wish = {"name": "s1", "disks": twice[:1], "consistent_group": together}
        message = modules.refused("vm_snapshot", vms, **wish)
        assert f"disk vda of each of 2 VMs is to have {file}" in message
    modules.change("vm_snapshot", vms, name="s1", disks=["vda"], directory=str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: only root can mount")
def test_images_that_are_only_read(make_vm, modules, tmp_path) -> None:
    """What lies above them can be written to all the same; so can they when they are mounted so."""
    vm = make_vm("db01", running=False)
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80M", "none", str(place)], check=True)
    try:
        image = shutil.copy(vm.disks["vda"].path, place / "vda.qcow2")
        defined(vm, lambda root: root.find("devices/disk/source").set("file", str(image)))
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        words = f"image {image} of VM db01 is on a read-only file system"
        refused(modules, vm, words, mode="internal")
        modules.change("vm_snapshot", vm, name="s1", directory=str(tmp_path))
        assert words in modules.refused("vm_snapshot", vm, name="s1", state="absent")
        assert words in modules.refused("vm_blockcommit", vm)
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        modules.change("vm_snapshot", vm, name="s1", state="absent")
    finally:
        vm.lab.remove(vm)
        subprocess.run(["umount", str(place)], check=True)
