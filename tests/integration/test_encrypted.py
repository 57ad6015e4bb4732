# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest has on a LUKS disk is never written in the clear, and what is left works."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest
from lab import VM, Disk
from lab.vm import wait_until
from story import Modules, folder, sources

LUKS = {"qcow2": "encrypt.format=luks,encrypt.key-secret=key", "raw": "key-secret=key"}
KEY_XML = (
    "<secret><uuid>5ed83bcf-f779-4a97-bc84-01fd4a2d1c11</uuid>"
    "<usage type='volume'><volume>lab</volume></usage></secret>"
)
PHRASE = b"open sesame"


def encrypted_image(path: Path, form: str) -> str:
    """An empty image that QEMU encrypts."""
    key = path.with_suffix(".key")
    key.write_bytes(PHRASE)
    prefix = "encrypt." if form == "qcow2" else ""
    options = f"{LUKS[form]},{prefix}iter-time=10"
    line = ["qemu-img", "create", "-q", "--object", f"secret,id=key,file={key}", "-o", options]
    kind = "luks" if form == "raw" else form
    created: list[str] = []

    def create() -> bool:
        """QEMU measures first how fast it is, and gives up where it hardly got a processor."""
        done = subprocess.run(
            [*line, "-f", kind, str(path), "16M"], capture_output=True, text=True, check=False
        )
        created.append(done.stderr)
        return done.returncode == 0

    wait_until(create, 30, f"qemu-img creates {path}: {created}")
    return str(path)


def encrypt(vm: VM, path: str, form: str, target: str) -> None:
    """Give a VM that is off another disk, with its key."""
    try:
        secret = vm.lab.connection.secretDefineXML(KEY_XML)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        pytest.skip("SKIPPED LOUDLY: libvirt's driver of secrets is not installed")
    secret.setValue(PHRASE, 0)
    xml = vm.xml(inactive=True)
    disk = ET.fromstring(
        f"<disk type='file' device='disk'><driver name='qemu' type='{form}'/><source file='{path}'>"
        f"<encryption format='luks'><secret type='passphrase' uuid='{secret.UUIDString()}'/>"
        f"</encryption></source><target dev='{target}' bus='virtio'/></disk>"
    )
    xml.find("devices").append(disk)
    vm.lab.connection.defineXML(ET.tostring(xml, encoding="unicode"))


def refused(modules: Modules, vm: VM, module: str, words: str = "in the clear", **params) -> None:
    message = modules.refused(module, vm, **params)
    assert "vdb" in message and "is encrypted" in message and words in message, message


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_no_overlay_and_no_memory_beside_it(make_vm, modules, tmp_path, form: str) -> None:
    vm = make_vm("db01", running=False)
    encrypt(vm, encrypted_image(folder(vm) / f"secret.{form}", form), form, "vdb")
    for running in (False, True):
        if running:
            vm.start()
            refused(modules, vm, "vm_storage_snapshot", name="s1", backend="reflink")
            refused(modules, vm, "vm_checkpoint", name="s1", state="present")
            refused(modules, vm, "vm_snapshot", name="s1", disks=["vda"], memory=True)
            if form == "qcow2":  # QEMU would write the memory to vda
                refused(modules, vm, "vm_snapshot", name="s1", mode="internal")
        refused(modules, vm, "vm_snapshot", name="s1")
        refused(modules, vm, "vm_snapshot", name="s1", disks=["vdb"], mode="external")
        refused(modules, vm, "vm_backup", words="as safe", repository=str(tmp_path))
        modules.change("vm_snapshot", vm, name="plain", disks=["vda"])
        if running:  # Nor is the present state kept so; without that the other disk stays.
            back = {"name": "plain", "state": "reverted"}
            refused(modules, vm, "vm_snapshot", **back, keep_current="now")
            modules.run("vm_snapshot", vm, **back)
        modules.change("vm_snapshot", vm, name="plain", state="absent")
    saved = modules.run("vm_memory", vm, state="saved")
    assert any("in the clear" in note for note in saved["notes"])
    modules.run("vm_memory", vm, state="running")


def test_no_internal_snapshot(make_vm, modules) -> None:
    """libvirt has no key while the VM is off, and QEMU 7.2 dies of writing the memory there."""
    vm = make_vm("db01", disks=[], running=False)
    path = encrypted_image(folder(vm) / "secret.qcow2", "qcow2")
    encrypt(vm, path, "qcow2", "vdb")
    refused(modules, vm, "vm_snapshot", words="no key", name="s1", mode="internal")
    vm.start()
    refused(modules, vm, "vm_snapshot", name="s1", mode="internal")
    vm.destroy()
    refused(modules, vm, "vm_snapshot", words="storage", name="s1")


def test_a_plain_overlay_of_another_tool(make_vm, modules) -> None:
    """It can be merged back where the key is; nothing more is put in the clear."""
    vm = make_vm("db01", disks=[], running=False)
    path = encrypted_image(folder(vm) / "secret.qcow2", "qcow2")
    encrypt(vm, path, "qcow2", "vdb")
    vm.start()
    vm.domain.snapshotCreateXML("<domainsnapshot><name>theirs</name></domainsnapshot>", 16)
    vm.run("echo later | dd of=/dev/vdb conv=fsync")
    refused(modules, vm, "vm_snapshot", name="s1")
    refused(modules, vm, "vm_snapshot", name="theirs", state="reverted")
    refused(modules, vm, "vm_blockpull")
    modules.change("vm_snapshot", vm, name="theirs", state="absent")
    assert sources(vm) == {"vdb": path} and vm.run("head -n 1 /dev/vdb").strip() == "later"


def test_a_guest_that_encrypts_by_itself_is_like_any_other(make_vm, modules, tmp_path) -> None:
    """Its raw image begins like LUKS, and is nothing of QEMU's."""
    path = encrypted_image(tmp_path / "guest.raw", "raw")
    vm = make_vm("db01", [Disk(path=path, format="raw", content="blank")])
    modules.change("vm_snapshot", vm, name="s1")
    modules.change("vm_snapshot", vm, name="s1", state="absent")
