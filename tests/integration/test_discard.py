# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking restored VMs away: they and their images go, and nothing else ever."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from lab import VM, Disk
from lab.modules import run_module
from stock_story import Repository
from story import Modules, folder


class Copy:
    """A VM that was restored as "copy" from a restore point of db01, which is off."""

    def __init__(self, modules: Modules, repository: Repository, vm: VM) -> None:
        self.modules = modules
        self.repository = repository
        self.vm = vm
        repository.keep(vm)

    def make(self) -> list[str]:
        """Restore it; its images."""
        params = {"repository": str(self.repository.path), "as": "copy"}
        made = self.modules.run("vm_restore", self.vm, **params)["vms"]["db01"]["restored"]
        return sorted(disk["file"] for disk in made["disks"].values())

    def discard(self, *, check: bool = False, name: str = "copy", **params: object) -> dict:
        usual = {"uri": self.vm.lab.uri, "state_dir": str(self.modules.state_dir)}
        return run_module("vm_discard", {"vm": [name], **usual, **params}, check=check)

    @property
    def domain(self) -> libvirt.virDomain:
        return self.vm.lab.connection.lookupByName("copy")

    def world(self) -> tuple[list[str], dict[str, tuple[int, int]]]:
        """All VMs, and all files beside the images, but for what its ports were written to."""
        names = [dom.name() for dom in self.vm.lab.connection.listAllDomains()]
        found = [path for path in folder(self.vm).iterdir() if path.suffix != ".copy"]
        files = {path.name: path.stat() for path in found}
        shown = {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files.items()}
        return sorted(names), shown

    def refused(self, **params: object) -> str:
        """The message of a run that has to fail, in check mode and really, touching nothing."""
        before = self.world()
        said = [self.discard(check=check, **params) for check in (True, False)]
        assert all(result["failed"] for result in said) and said[0]["msg"] == said[1]["msg"]
        assert self.world() == before
        return str(said[0]["msg"])


@pytest.fixture
def copy(modules: Modules, make_vm: Callable[..., VM], tmp_path: Path) -> Copy:
    disks = [Disk(size=4, content="blank"), Disk(size=4, content="blank", format="raw")]
    off = make_vm("db01", disks=disks, running=False)
    return Copy(modules, Repository(tmp_path / "backup"), off)


def test_it_goes_with_its_images_and_nothing_else(copy: Copy) -> None:
    before = copy.world()
    images = copy.make()
    copy.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    assert "copy is paused. Wanted: a VM that is off" in copy.refused()
    standing = copy.world()
    foreseen = copy.discard(check=True, force=True)
    assert copy.world() == standing
    real = copy.discard(force=True)
    assert copy.world() == before
    assert real["plan"] == foreseen["plan"] and real["diff"] == foreseen["diff"]
    steps = [step["step"] for step in real["plan"]]
    assert steps == ["stop_vm", "remove_file", "remove_file", "undefine_vm"]
    assert sorted(real["vms"]["copy"]["removed"]) == images
    again = copy.discard(force=True)
    assert not again["changed"] and again["vms"]["copy"]["removed"] == []


def test_what_is_refused(copy: Copy) -> None:
    assert "VM db01 was not restored under another name" in copy.refused(name="db01", force=True)
    images = copy.make()
    overlay = str(folder(copy.vm) / "standing.qcow2")
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]
    subprocess.run([*create, next(i for i in images if "vda" in i), overlay], check=True)
    assert f"something else needs: {images[0]}" in copy.refused()
    Path(overlay).unlink()

    xml = ET.fromstring(copy.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    mine = copy.vm.source("vda")
    source = xml.find("devices/disk/source")
    ours = source.get("file")
    source.set("file", mine)
    copy.vm.lab.connection.defineXML(ET.tostring(xml, encoding="unicode"))
    assert f"has another image of vda than was restored: {mine}" in copy.refused()
    source.set("file", ours)
    copy.vm.lab.connection.defineXML(ET.tostring(xml, encoding="unicode"))

    domain = copy.domain
    domain.rename("precious")
    said = copy.refused(name="precious")
    assert "does not have the name any more under which it was restored" in said
    domain.rename("copy")
    assert copy.discard()["changed"]


def test_snapshots_of_its_storage_go_first(
    stored_vm: Callable[..., VM], modules: Modules, tmp_path: Path
) -> None:
    """No task could find them any more without the VM."""
    vm = stored_vm("xfs", "db01", disks=[Disk(size=4, content="blank")], running=False)
    copy = Copy(modules, Repository(tmp_path / "backup"), vm)
    before = copy.world()
    copy.make()
    usual = {"uri": vm.lab.uri, "state_dir": str(modules.state_dir), "name": "z1"}
    for state in ("present", "absent"):
        done = run_module("vm_storage_snapshot", {"vm": ["copy"], "state": state, **usual})
        assert done["changed"]
        if state == "present":
            assert "has storage snapshots: z1" in copy.refused()
    assert copy.discard()["changed"] and copy.world() == before


@pytest.mark.parametrize("gone", [1, 2])
def test_a_run_that_died_is_finished(copy: Copy, gone: int) -> None:
    """Images go before the definition, so what is left always names them."""
    before = copy.world()
    for image in copy.make()[:gone]:
        Path(image).unlink()
    done = copy.discard()
    assert not done["failed"] and len(done["vms"]["copy"]["removed"]) == 2 - gone
    assert copy.world() == before


def test_a_vm_that_fails_stands_beside_those_that_do_not(copy: Copy) -> None:
    copy.make()
    usual = {"uri": copy.vm.lab.uri, "state_dir": str(copy.modules.state_dir)}
    result = run_module("vm_discard", {"vm": ["db01", "copy", "nosuch"], **usual})
    assert result["failed"] and "db01 was not restored" in result["msg"]
    assert len(result["vms"]["copy"]["removed"]) == 2 and result["vms"]["nosuch"]["removed"] == []
    assert [dom.name() for dom in copy.vm.lab.connection.listAllDomains()] == ["db01"]
