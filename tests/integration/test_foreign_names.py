# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What others have called VMs and snapshots can be named; our own file names stay plain."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest
from lab import VM
from story import chain, folder, sources

ODD = [
    "before update",
    "Prüfung 1",
    "-x",
    "<a>&\"'",
    "%2F$(id)",
    "true",
    "é" * 110,
    "e\u0301",
]
LINES = ["a\nb\tc", "a\rb"]  # libvirt itself cannot read its own file name of such an overlay again


def take(vm: VM, name: str, *, external: bool) -> None:
    """As another tool would, with the overlays that libvirt chooses."""
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "name").text = name
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY if external else 0
    xml = ET.tostring(root, encoding="unicode").replace("\r", "&#13;")
    vm.domain.snapshotCreateXML(xml, flags)


def put(vm: VM, word: str) -> None:
    """On a disk of a VM that is off."""
    line = ["qemu-io", "-f", "qcow2", "-c", f"write -P {ord(word)} 0 512", sources(vm)["vda"]]
    subprocess.run(line, check=True, capture_output=True)


def holds(vm: VM, word: str) -> bool:
    line = ["qemu-io", "-f", "qcow2", "-c", f"read -P {ord(word)} 0 512", sources(vm)["vda"]]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return "verification failed" not in done.stdout


@pytest.mark.parametrize("external", [True, False], ids=["external", "internal"])
def test_snapshots_of_others_can_be_gone_back_to_and_removed(
    make_vm, modules, external: bool
) -> None:
    vm = make_vm("db01", running=False)
    for name in ODD if external else [*ODD, *LINES]:
        put(vm, "t")
        take(vm, name, external=external)
        put(vm, "n")
        assert holds(vm, "n")
        info = modules.run("vm_snapshot_info", vm, name=name)["vms"]["db01"]["snapshots"]
        assert [found["name"] for found in info] == [name]
        before = set(folder(vm).iterdir())
        for _time in range(2):
            modules.run("vm_snapshot", vm, name=name, state="reverted", check=True)
            modules.run("vm_snapshot", vm, name=name, state="reverted")
            assert holds(vm, "t"), name
            put(vm, "x")
        plain = re.compile(r"[A-Za-z0-9_.:@+=,%~-]+")
        new = {path.name for path in set(folder(vm).iterdir()) - before}
        assert all(plain.fullmatch(path) for path in new) and bool(new) == external
        for path in folder(vm).glob("vda.*"):
            if str(path) not in chain(sources(vm)["vda"]):
                path.unlink()  # what was given up is not ours to remove, and in the way of a merge
        # It was not ours to name, but it is to be kept as asked and removed.
        there = modules.run("vm_snapshot", vm, name=name)
        assert not there["changed"]
        message = modules.refused("vm_checkpoint", vm, name=name, state="absent")
        assert "vm_snapshot" in message
        modules.change("vm_snapshot", vm, name=name, state="absent")
        assert holds(vm, "x")
    assert "is not allowed" in modules.refused("vm_snapshot", vm, name="new one")


def test_what_looks_like_the_id_of_another_is_not_gone_back_to(make_vm, modules) -> None:
    """QEMU takes a name for an id first, and would bring back another point."""
    vm = make_vm("db01", running=False)
    for word, name in (("a", "first"), ("b", "1"), ("c", "3")):
        put(vm, word)
        take(vm, name, external=False)
    put(vm, "n")
    message = modules.refused("vm_snapshot", vm, name="1", state="reverted")
    assert "'first'" in message and "id 2" in message
    image = sources(vm)["vda"]
    modules.run("vm_snapshot", vm, name="3", state="reverted")
    assert holds(vm, "c")
    assert "id of an internal snapshot" in modules.refused(
        "vm_snapshot", vm, name="2", mode="internal"
    )
    modules.change("vm_snapshot", vm, name="1", state="absent")
    line = ["qemu-img", "snapshot", "-l", image]
    assert b"first" in subprocess.run(line, capture_output=True, check=True).stdout


@pytest.mark.parametrize("name", ["my VM", "Prüfstand <&>'\"", "-x", ".hid", "a\tb"])
def test_vms_of_any_name(make_vm, modules, name: str) -> None:
    """The names of their files are plain, and what one module makes the others find."""
    vm = make_vm("plain", running=False)
    xml = vm.xml(inactive=True)
    vm.domain.undefine()
    xml.find("name").text = name
    vm.lab.connection.defineXML(ET.tostring(xml, encoding="unicode"))
    odd = _Named(vm, name)
    modules.run("vm_snapshot", odd, name="s1")
    overlay = Path(odd.overlay())
    assert re.fullmatch(r"[A-Za-z0-9_%][A-Za-z0-9_.:@+=,%~-]*\.vda\.s1\.qcow2", overlay.name)
    modules.run("vm_snapshot", odd, name="s1", state="reverted", keep_current="kept")
    assert modules.run("vm_snapshot_info", odd)["vms"][name]["disagreements"] == []
    modules.run("vm_snapshot", odd, name="kept", state="absent")
    modules.run("vm_snapshot", odd, name="s1", state="absent")
    vm.lab.connection.lookupByName(name).undefine()


def test_blanks_at_the_ends_of_a_name_tell_vms_apart(make_vm, modules, tmp_path) -> None:
    """Text that is split at its commas has such blanks, too, and means VMs without them."""
    vms = [make_vm(name, running=False) for name in ("db01", "app01", "plain")]
    xml = vms[2].xml(inactive=True)
    vms[2].domain.undefine()
    xml.find("name").text = "db01 "
    vms[2].lab.connection.defineXML(ET.tostring(xml, encoding="unicode"))
    odd, blanks = _Named(vms[2], "db01 "), _Named(vms[0], " db01")
    for module, params in (
        ("vm_snapshot", {"name": "s1"}),
        ("vm_backup", {"repository": str(tmp_path)}),
        ("vm_backup_info", {"repository": str(tmp_path)}),
    ):
        assert list(modules.run(module, odd, **params)["vms"]) == ["db01 "]
        assert sources(vms[0])["vda"] == vms[0].disks["vda"].path
    assert list(modules.run("vm_snapshot", [blanks, vms[1]], name="s1")["vms"]) == ["db01", "app01"]
    modules.run("vm_snapshot", odd, name="s1", state="absent")
    vms[2].lab.connection.lookupByName("db01 ").undefine()


class _Named:
    """A VM under another name than the lab gave it."""

    def __init__(self, vm: VM, name: str) -> None:
        self.vm, self.name = vm, name

    def overlay(self) -> str:
        xml = ET.fromstring(self.vm.lab.connection.lookupByName(self.name).XMLDesc())
        return xml.find("devices/disk/source").get("file")
