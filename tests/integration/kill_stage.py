# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that are brought back into a known state for each kill, without our code."""

from __future__ import annotations

import os
import subprocess
import time
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import libvirt
from lab import VM, Disk, Lab
from lab.programs import LabError
from lab.vm import wait_until
from story import chain, folder

# Small, since the content of images is compared after each kill.
SIZE = 16
# Seconds between two records of the writers: some come within each state that a kill can meet.
PAUSE = 0.04
LAYERS = ("s1", "s2", "s3")


class Stage:
    """Machines that tests share; each is made when it is first asked for."""

    def __init__(self, lab: Lab, scratch: Path) -> None:
        self.lab = lab
        self.state_dir = scratch / "state"
        self._scratch = scratch
        self._templates: dict[str, Template] = {}

    def off(self, name: str) -> VM:
        """A machine that is off and has three snapshots, with records in each layer."""
        vm = self._machine(name, filled=True)
        self._templates[name].restore()
        return vm

    def running(self, name: str, *snapshots: str) -> VM:
        """A running machine with its writer and just these snapshots, oldest first."""
        vm = self._machine(name)
        if vm.active() and _disturbed(vm):
            vm.destroy()
        if not vm.active():
            self._templates[name].restore()
            vm.start()
        if not vm.writing():
            vm.start_writer(PAUSE)
        collapse(vm)
        grow(vm, *snapshots)
        return vm

    def _machine(self, name: str, *, filled: bool = False) -> VM:
        if name not in self._templates:
            vm = self.lab.vm(name, disks=[Disk(size=SIZE)] * 2, running=False)
            if filled:
                _fill(vm)
            self._templates[name] = Template(vm, self._scratch / name)
        return self._templates[name].vm

    def close(self) -> None:
        for template in self._templates.values():
            self.lab.remove(template.vm)


def _disturbed(vm: VM) -> bool:
    """Whether a test has left the machine paused, frozen, with a block job, or off its base."""
    if any(chain(vm.source(target))[-1] != disk.path for target, disk in vm.disks.items()):
        return True
    domain = vm.domain
    if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING or vm.frozen():
        return True
    return any(domain.blockJobInfo(target, 0) for target in vm.disks)


def _fill(vm: VM) -> None:
    """Give each layer records of its own."""
    vm.start()
    for name in LAYERS:
        vm.start_writer(PAUSE)
        time.sleep(0.2)
        vm.stop_writer()
        grow(vm, name)
    vm.start_writer(PAUSE)
    time.sleep(0.2)
    vm.destroy()


def grow(vm: VM, *names: str) -> None:
    """Take snapshots of all disks by libvirt, in the form that ours have.

    External ones, but for names that begin with "internal".
    """
    for name in names:
        internal = name.startswith("internal")
        flags = 0 if internal or not vm.active() else libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        vm.domain.snapshotCreateXML(_snapshot_xml(vm, name, "" if internal else name), flags)


def _snapshot_xml(vm: VM, name: str, overlays: str) -> str:
    disks = "".join(
        f"<disk name='{target}' snapshot='external'><driver type='qcow2'/>"
        f"<source file='{overlay(vm, target, overlays)}'/></disk>"
        for target in vm.disks
    )
    worth = "offline" if not vm.active() else "crash" if overlays else "memory"
    return (
        f"<domainsnapshot><name>{name}</name><description>vmkeep: consistency={worth}"
        f"</description>{f'<disks>{disks}</disks>' if overlays else ''}</domainsnapshot>"
    )


def overlay(vm: VM, target: str, name: str) -> str:
    """Where the overlay of a snapshot stands."""
    return str(folder(vm) / f"{vm.name}.{target}.{name}.qcow2")


def collapse(vm: VM) -> None:
    """Merge all overlays of a running VM into the first images, drop snapshots, remove files."""
    domain = vm.domain
    for target, disk in vm.disks.items():
        if vm.source(target) == disk.path:
            continue
        domain.blockCommit(target, disk.path, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
        wait_until(partial(_ready, vm, target), 60, "the commit is ready")
        domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    for snapshot in domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL):
        snapshot.delete()
    forget(vm)
    kept = {disk.path for disk in vm.disks.values()}
    for path in folder(vm).iterdir():
        if path.suffix in (".qcow2", ".save") and str(path) not in kept:
            path.unlink()


def _ready(vm: VM, target: str) -> bool:
    disk = next(
        node
        for node in vm.xml().iterfind("devices/disk")
        if node.find(f"target[@dev='{target}']") is not None
    )
    return disk.find("mirror[@ready='yes']") is not None


def forget(vm: VM) -> None:
    """Let libvirt forget all snapshots."""
    for snapshot in vm.domain.listAllSnapshots():
        snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


class Template:
    """A VM that is off, with its images, records and snapshots as they were when this was made."""

    def __init__(self, vm: VM, store: Path) -> None:
        self.vm = vm
        self._store = store
        store.mkdir()
        self._xml = vm.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        self._snapshots = _snapshots_of(vm)
        for path in self._files():
            _copy(path, store / path.name)

    def _files(self) -> list[Path]:
        kept = (".qcow2", ".save")
        return [p for p in folder(self.vm).iterdir() if p.suffix in kept or p.name == "ack"]

    def restore(self) -> None:
        """Bring all of it back; the VM is off then."""
        self.vm.destroy()
        forget(self.vm)
        for path in self._files():
            path.unlink()
        for path in self._store.iterdir():
            _copy(path, folder(self.vm) / path.name)
        self.vm.lab.connection.defineXML(self._xml)
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
        for xml, current in self._snapshots:
            more = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT if current else 0
            self.vm.domain.snapshotCreateXML(xml, flags | more)


def _snapshots_of(vm: VM) -> list[tuple[str, bool]]:
    found = vm.domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
    secure = libvirt.VIR_DOMAIN_XML_SECURE
    return [(each.getXMLDesc(secure), bool(each.isCurrent())) for each in found]


def _copy(source: Path, target: Path) -> None:
    """With its times, by which snapshots know that nothing was written to it."""
    line = ["cp", "--preserve=timestamps", "--sparse=always", "--reflink=auto", source, target]
    subprocess.run(line, check=True)


def contents(vm: VM, target: str = "vda") -> dict[str, str]:
    """What the snapshots of a disk go back to, and for a VM that is off what it boots with ('').

    Name of the snapshot to the digest of the content that a guest would see there.
    """
    points = {} if vm.active() else {"": vm.source(target)}
    for snapshot in vm.domain.listAllSnapshots():
        path = _image_before(snapshot, target)
        points.update({snapshot.getName(): path} if path else {})
    return {name: _digest(path) for name, path in points.items()}


def _image_before(snapshot: libvirt.virDomainSnapshot, target: str) -> str:
    """The image that an external snapshot froze, '' where it left the disk out."""
    root = ET.fromstring(snapshot.getXMLDesc())
    if root.find(f"disks/disk[@name='{target}'][@snapshot='external']") is None:
        return ""
    for node in root.iterfind("domain/devices/disk"):
        if node.find(f"target[@dev='{target}']") is not None:
            return node.find("source").get("file")
    return ""


def _digest(path: str) -> str:
    """Digest of the content of a chain, its holes left out."""
    raw = f"/dev/shm/vmkeep-{os.getpid()}.raw"
    try:
        command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", path, raw]
        subprocess.run(command, check=True, capture_output=True)
        summed = subprocess.run(["sha1sum", raw], check=True, capture_output=True, text=True)
        return summed.stdout.split()[0]
    finally:
        Path(raw).unlink(missing_ok=True)


def needs_recovery(path: str) -> bool:
    """Whether the ext4 file system in an image was in use, not closed or frozen, at its point.

    The flag "recover" of the superblock, which a freeze takes away
    (https://docs.kernel.org/filesystems/ext4/super.html).
    """
    raw = f"/dev/shm/vmkeep-{os.getpid()}.head"
    try:
        command = ["qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", "bs=4096", "count=1"]
        subprocess.run([*command, f"if={path}", f"of={raw}"], check=True, capture_output=True)
        superblock = Path(raw).read_bytes()[1024:2048]
    finally:
        Path(raw).unlink(missing_ok=True)
    if superblock[0x38:0x3A] != b"\x53\xef":
        raise LabError(f"{path} holds no ext4 file system")
    return bool(superblock[0x60] & 0x4)
