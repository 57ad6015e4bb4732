# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMs brought back from restore points: whole, in part, under another name, at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from lab import VM, Disk, Lab
from stock_story import Repository, copy, same, write
from story import Modules, chain, folder

SIZE = 16


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backup")


@pytest.fixture
def off(make_vm: Callable[..., VM]) -> VM:
    """A machine that never ran, with a qcow2 and a raw disk of some content."""
    disks = [Disk(size=SIZE, content="blank"), Disk(size=SIZE, content="blank", format="raw")]
    vm = make_vm("db01", disks=disks, running=False)
    write(vm.source("vda"), "-P 1 0 1M", "-P 2 4M 1M")
    write(vm.source("vdb"), "-P 3 0 1M", form="raw")
    return vm


def test_under_another_name(
    modules: Modules, repository: Repository, off: VM, lab_session: Lab, tmp_path: Path
) -> None:
    repository.keep(off)
    write(off.source("vda"), "-P 7 512k 1M", "-z 4M 512k")
    was = {t: copy(off.source(t), tmp_path / t) for t in off.disks}
    repository.keep(off)
    write(off.source("vda"), "-P 9 0 2M")
    done = modules.change("vm_restore", off, repository=str(repository.path), **{"as": "copy"})
    made = done["vms"]["db01"]["restored"]
    assert made["vm"] == "copy" and done["vms"]["db01"]["state"] == "shutoff"
    for target, form in (("vda", "qcow2"), ("vdb", "raw")):
        file = made["disks"][target]["file"]
        assert chain(file) == [file]
        assert same(file, form, was[target], form), target
