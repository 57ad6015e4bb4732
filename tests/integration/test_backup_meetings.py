# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that meet what else is done to a VM, by hand, by other tools and by us: none is wrong.

There are restore points before and after each meeting, made as they come. Each holds what the disks
of the paused guest held then, and still does at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from backup_story import Repository, checkpoints, disks_of, paused
from lab import VM, Disk
from lab.vm import wait_until
from story import Modules

BLANK = Disk(content="blank", size=16)
BOTH = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
FULL, INCREMENTAL = "full", "incremental"


class Nights:
    """A VM that is backed up, and what its disks held each time."""

    def __init__(self, vm: VM, repository: Repository) -> None:
        self.vm = vm
        self.repository = repository
        self.held: dict[str, dict[str, str]] = {}
        self.words = 0

    def night(self, **params) -> str:
        """Something new on each disk, and a restore point; of which type it is."""
        self.up()
        self.words += 1
        targets = sorted(disk.get("dev") for disk in self.vm.xml().iterfind("devices/disk/target"))
        for target in targets:
            text = f"printf '%s %s of {target}' {self.words} {self.vm.source(target)}"
            self.vm.run(f"{text} | dd of=/dev/{target} bs=1k seek={self.words * 64} conv=fsync")
        with paused(self.vm):
            point = self.repository.back_up(self.vm, quiesce="never", **params)
            self.held[point["id"]] = disks_of(self.vm)
            assert self.repository.content(self.vm, point["id"]) == self.held[point["id"]]
        kinds = {disk["type"] for disk in point["disks"].values()}
        return str(point["type"]) if len(kinds) == 1 else " ".join(sorted(kinds))

    def up(self) -> None:
        if not self.vm.active():
            self.vm.start()
        self.vm.disconnect()
        self.vm.wait_ready()

    def meet(self, meeting: Callable[[Nights], object], kind: str) -> None:
        """The first restore point after it is of this kind, and the next an increment."""
        self.night()
        meeting(self)
        assert (self.night(), self.night()) == (kind, INCREMENTAL), meeting.__name__

    def check(self) -> None:
        for id, content in self.held.items():
            self.repository.check(self.vm, id)
            assert self.repository.content(self.vm, id) == content, id


@pytest.fixture
def repository(modules: Modules, tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backup", modules)


def virsh(vm: VM, *words: str) -> None:
    subprocess.run(["virsh", "-q", "-c", vm.lab.uri, *words], check=True)


def disk_of(root: ET.Element, target: str) -> ET.Element:
    found = root.find(f"devices/disk/target[@dev='{target}']/..")
    assert found is not None
    return found


# --- what others do ---


def its_checkpoint_is_deleted(nights: Nights) -> None:
    virsh(nights.vm, "checkpoint-delete", nights.vm.name, checkpoints(nights.vm)[-1])


def its_record_is_deleted(nights: Nights) -> None:
    virsh(nights.vm, "checkpoint-delete", nights.vm.name, checkpoints(nights.vm)[-1], "--metadata")


def another_tool_comes_and_goes(nights: Nights) -> None:
    """Its checkpoints stay until it takes them away, whichever way."""
    name, found = nights.vm.name, []
    for number in range(3):
        found.append(f"virtnbdbackup.{number}")
        virsh(nights.vm, "checkpoint-create-as", name, found[-1])
        assert nights.night() == INCREMENTAL and set(found) < set(checkpoints(nights.vm))
    virsh(nights.vm, "checkpoint-delete", name, found[1])
    assert nights.night() == INCREMENTAL
    virsh(nights.vm, "checkpoint-delete", name, found[2], "--metadata")
    assert nights.night() == INCREMENTAL
    virsh(nights.vm, "checkpoint-delete", name, found[0])


def it_gets_another_name(nights: Nights) -> None:
    for name in ("db02", "db01"):
        nights.vm.shutdown()
        virsh(nights.vm, "domrename", nights.vm.name, name)
        nights.vm.name = name
        assert nights.night() == INCREMENTAL


def it_is_defined_anew(nights: Nights) -> None:
    xml = nights.vm.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    nights.vm.shutdown()
    nights.vm.domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
    nights.vm.lab.connection.defineXML(xml)


def a_disk_grows(nights: Nights) -> None:
    nights.vm.domain.blockResize("vdb", 24 << 20, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)


def a_disk_goes_and_comes_back(nights: Nights) -> None:
    xml = ET.tostring(disk_of(nights.vm.xml(inactive=True), "vdb"), encoding="unicode")
    nights.vm.domain.detachDeviceFlags(xml, BOTH)
    gone = "devices/disk/target[@dev='vdb']"
    wait_until(lambda: nights.vm.xml().find(gone) is None, 20, "it goes")
    assert nights.night() == INCREMENTAL
    nights.vm.domain.attachDeviceFlags(xml, BOTH)
    nights.vm.run("while [ ! -e /dev/vdb ]; do sleep 0.1; done")


def disks_exchange_their_names(nights: Nights) -> None:
    """Of one size, with bitmaps of one name."""
    nights.vm.shutdown()
    root = nights.vm.xml(inactive=True)
    two, three = (disk_of(root, target).find("source") for target in ("vdb", "vdc"))
    assert two is not None and three is not None
    two.attrib, three.attrib = dict(three.attrib), dict(two.attrib)
    nights.vm.lab.connection.defineXML(ET.tostring(root, encoding="unicode"))


def a_disk_is_moved(nights: Nights) -> None:
    place = str(Path(nights.vm.source("vdb")).with_suffix(".moved.qcow2"))
    words = (place, "--wait", "--pivot", "--transient-job")
    virsh(nights.vm, "blockcopy", nights.vm.name, "vdb", *words)


def test_what_is_done_by_hand(make_vm: Callable[..., VM], repository: Repository) -> None:
    nights = Nights(make_vm("db01", disks=[BLANK] * 3), repository)
    nights.meet(its_checkpoint_is_deleted, FULL)
    nights.meet(its_record_is_deleted, FULL)
    nights.meet(another_tool_comes_and_goes, INCREMENTAL)
    nights.meet(it_gets_another_name, INCREMENTAL)
    nights.meet(it_is_defined_anew, FULL)
    nights.meet(disks_exchange_their_names, "full incremental")
    nights.meet(a_disk_goes_and_comes_back, "full incremental")
    nights.meet(a_disk_grows, "full incremental")
    nights.meet(a_disk_is_moved, INCREMENTAL)
    nights.check()


# --- what this collection does ---


def test_what_we_do_ourselves(
    make_vm: Callable[..., VM], modules: Modules, repository: Repository, tmp_path: Path
) -> None:
    vm = make_vm("db01", disks=[BLANK] * 2)
    nights = Nights(vm, repository)

    def memory_is_saved(_nights: Nights) -> None:
        for where in ({}, {"path": str(tmp_path / "db01.save")}):
            modules.run("vm_memory", vm, state="saved", **where)
            modules.run("vm_memory", vm, state="running", **where)

    def another_repository_comes(_nights: Nights) -> None:
        (tmp_path / "other").mkdir()
        others = Nights(vm, Repository(tmp_path / "other", modules))
        assert (others.night(), nights.night(), others.night()) == (FULL, INCREMENTAL, INCREMENTAL)
        others.check()

    def it_is_restored_onto_itself(_nights: Nights) -> None:
        point = repository.ids(vm)[-2]
        modules.run("vm_restore", vm, repository=str(repository.path), point=point, force=True)
        held = nights.held[point]
        assert disks_of(vm) == held

    nights.meet(memory_is_saved, INCREMENTAL)
    nights.meet(another_repository_comes, INCREMENTAL)
    nights.meet(it_is_restored_onto_itself, FULL)
    nights.check()


def test_a_vm_that_has_not_run_since_its_memory_was_written(
    make_vm: Callable[..., VM], modules: Modules, repository: Repository
) -> None:
    """QEMU has no bitmaps of what is below the overlays of then, and libvirt would miss none."""
    vm = make_vm("db01", disks=[BLANK] * 2)
    nights = Nights(vm, repository)

    def its_memory_is_kept_while_it_is_paused(_nights: Nights) -> None:
        vm.run("echo lost | dd of=/dev/vda bs=1k seek=32 conv=fsync")
        with paused(vm):
            for name in ("s1", "s2"):
                modules.run("vm_snapshot", vm, name=name, memory=name == "s1")
            foreseen = modules.run("vm_backup", vm, check=True, **repository.params())
            point = repository.back_up(vm)
            assert foreseen["plan"][0]["type"] == point["type"] == FULL
            assert "before the VM runs again" in foreseen["plan"][0]["reason"]
            assert repository.content(vm, point["id"]) == disks_of(vm)

    def its_memory_is_kept_and_it_goes_on(_nights: Nights) -> None:
        vm.run("echo lost | dd of=/dev/vda bs=1k seek=48 conv=fsync")
        with paused(vm):
            modules.run("vm_snapshot", vm, name="s3", memory=True)

    nights.meet(its_memory_is_kept_while_it_is_paused, INCREMENTAL)
    nights.meet(its_memory_is_kept_and_it_goes_on, INCREMENTAL)
    modules.run("vm_blockcommit", vm)
    assert nights.night() == INCREMENTAL
    nights.check()


@pytest.mark.parametrize("read", [True, False], ids=["read", "new"])
def test_bitmaps_are_lost_when_qemu_dies(
    make_vm: Callable[..., VM], modules: Modules, repository: Repository, read: bool
) -> None:
    """Those that it had read from images stay there; of new ones only libvirt's record is left."""
    nights = Nights(make_vm("db01", disks=[BLANK] * 2), repository)
    nights.night()
    if read:
        nights.vm.shutdown()
    nights.up()
    os.kill(nights.vm.qemu_pid(), signal.SIGKILL)
    wait_until(lambda: not nights.vm.active(), 20, "libvirt has seen it")
    nights.up()
    foreseen = modules.run("vm_backup", nights.vm, check=True, **repository.params())
    point = repository.back_up(nights.vm)
    assert foreseen["plan"][0]["type"] == point["type"] == FULL
    assert foreseen["plan"][0]["reason"] == point["reason"]
    assert "is lost, as when QEMU dies" in point["reason"]
    assert nights.night() == INCREMENTAL
    nights.check()


def test_back_to_a_storage_snapshot(
    stored_vm: Callable[..., VM], modules: Modules, repository: Repository
) -> None:
    """It brings back images with the bitmaps of then, whole or broken; those of others stay."""
    vm = stored_vm("xfs", "stored", disks=[BLANK] * 2)
    nights, theirs = Nights(vm, repository), "virtnbdbackup.0"
    nights.night()
    virsh(vm, "checkpoint-create-as", vm.name, theirs)
    modules.run("vm_storage_snapshot", vm, name="running")
    vm.shutdown()
    modules.run("vm_storage_snapshot", vm, name="off")
    for name, disks in (("off", []), ("running", []), ("off", ["vdb"])):
        assert nights.night() == INCREMENTAL
        vm.shutdown()
        back = {"name": name, "disks": disks, "state": "reverted"}
        foreseen = modules.run("vm_storage_snapshot", vm, check=True, **back)
        done = modules.run("vm_storage_snapshot", vm, **back)
        assert done["plan"] == foreseen["plan"]
        assert [step["step"] for step in done["plan"]] == ["give_up_checkpoints", "revert_storage"]
        assert checkpoints(vm) == [theirs]
        assert (nights.night(), nights.night()) == (FULL, INCREMENTAL)
        assert theirs in checkpoints(vm)
    nights.check()


def test_a_raw_disk_whose_overlay_is_merged(
    make_vm: Callable[..., VM], modules: Modules, repository: Repository
) -> None:
    """Its bitmap goes with the overlay, and libvirt uses those of all disks or none."""
    vm = make_vm("db01", disks=[BLANK, Disk(content="blank", size=16, format="raw")])
    nights = Nights(vm, repository)
    modules.run("vm_snapshot", vm, name="s1")
    nights.night()
    modules.run("vm_snapshot", vm, name="s1", state="absent")
    foreseen = modules.run("vm_backup", vm, check=True, **repository.params(quiesce="never"))
    (step, *_rest) = foreseen["plan"]
    assert step["type"] == FULL and f"vdb is on {vm.source('vdb')} now" in step["reason"]
    assert nights.night() == FULL and nights.night() == "full incremental"
    nights.check()
