# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a real UEFI firmware remembers is kept with a running VM and comes back with it."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from backup_story import Repository
from lab import VM, Disk
from lab.vm import wait_until
from story import Modules

FIRMWARE = Path("/usr/share/OVMF")
CODE, TEMPLATE = FIRMWARE / "OVMF_CODE_4M.fd", FIRMWARE / "OVMF_VARS_4M.fd"

pytestmark = pytest.mark.skipif(
    not CODE.exists() or not TEMPLATE.exists(),
    reason=f"SKIPPED LOUDLY: {CODE} is not installed (package ovmf)",
)


@pytest.fixture
def vm(make_vm: Callable[..., VM], tmp_path: Path) -> VM:
    """It has never run, and gets as far as the shell of its firmware: nothing to boot is there."""
    disk = Disk(size=16, content="blank")
    vm = make_vm("db01", disks=[disk], agent=False, running=False)
    root = vm.xml(inactive=True)
    system = root.find("os")
    assert system is not None
    for tag in ("kernel", "initrd", "cmdline"):
        system.remove(system.find(tag))
    ET.SubElement(system, "loader", readonly="yes", type="pflash").text = str(CODE)
    ET.SubElement(system, "nvram").text = str(shutil.copy(TEMPLATE, tmp_path / "db01_VARS.fd"))
    vm.lab.connection.defineXML(ET.tostring(root, encoding="unicode"))
    return vm


def boot(vm: VM) -> None:
    """Until the firmware has found nothing to boot, so that it notes nothing more."""
    before = vm.console().count("Shell>")
    vm.domain.create()
    wait_until(lambda: vm.console().count("Shell>") > before, 120, "the firmware has its shell")


def nvram(vm: VM) -> Path:
    return Path(vm.xml(inactive=True).findtext("os/nvram", ""))


def test_kept_while_running_and_put_back(vm: VM, modules: Modules, tmp_path: Path) -> None:
    boot(vm)
    place, remembered = nvram(vm), nvram(vm).read_bytes()
    assert remembered != TEMPLATE.read_bytes(), "it has noted what it can boot from"
    repository = Repository(tmp_path / "backup", modules)
    id = repository.back_up(vm, quiesce="never")["id"]
    [stored] = [f["name"] for f in repository.manifest(vm, id)["files"] if f["role"] == "nvram"]
    assert (repository.folder(vm) / id / stored).read_bytes() == remembered

    vm.destroy()
    shutil.copy(TEMPLATE, place)
    modules.change("vm_restore", vm, repository=str(repository.path), point=id)
    assert nvram(vm) != place and nvram(vm).read_bytes() == remembered
    boot(vm)
