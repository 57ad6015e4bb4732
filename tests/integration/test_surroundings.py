# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Full disks, owners and symbolic links: what surrounds the images."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from lab import Disk, wait_until
from story import chain, sources, world
from test_snapshot_absent import take

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED LOUDLY: small file systems and other owners need root"
)


@pytest.fixture
def small(tmp_path):
    """A file system of 48 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "vmkeep-small", str(place)], check=True
    )
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_commit_into_a_full_file_system_loses_nothing(make_vm, modules, small, tmp_path):
    """The base has no room for what was written since: the overlay stays, and so does the data."""
    base = str(small / "base.qcow2")
    donor = make_vm("donor", disks=1, running=False)
    shutil.copyfile(donor.disks["vda"].path, base)
    vm = make_vm("tight", disks=[Disk(path=base, content="keep")])
    modules.run("vm_snapshot", vm, name="s1", directory=str(tmp_path))
    overlay = sources(vm)["vda"]
    vm.run("dd if=/dev/urandom of=/mnt/vda/big bs=1M count=30 conv=fsync")
    digest = vm.sha256("/mnt/vda/big")

    ballast = small / "ballast"
    fill(ballast)
    assert "bytes free" in modules.refused("vm_blockcommit", vm)

    # Room by the numbers at the start, and gone when the job needs it.
    ballast.unlink()
    started = modules.start("vm_blockcommit", vm, bandwidth=5)
    until_job(vm)
    fill(ballast)
    result = started.result()
    assert result["failed"] and "tight" in result["msg"] and "vda" in result["msg"]
    assert "nothing is lost" in result["msg"]
    assert chain(sources(vm)["vda"]) == [overlay, base]
    assert vm.sha256("/mnt/vda/big") == digest
    assert not list(modules.state_dir.glob("journal/*"))

    ballast.unlink()
    modules.change("vm_blockcommit", vm)
    assert vm.sha256("/mnt/vda/big") == digest and sources(vm)["vda"] == base


def fill(ballast):
    """Take all the room there is, while somebody else may be taking it too."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 65536)


def until_job(vm):
    wait_until(lambda: vm.domain.blockJobInfo("vda", 0), 20, "the commit has begun")


def test_a_file_system_that_fills_up_while_overlays_are_made(vm, modules, small):
    """The first overlay fits, the second does not: neither is left, nothing has switched."""
    before = sources(vm)
    room = small / "ballast"
    room.write_bytes(b"x" * (os.statvfs(small).f_bavail * 4096 - 9 * (1 << 20)))
    result = modules.run("vm_snapshot", vm, check=True, name="s1", directory=str(small))
    assert result["changed"]
    room.write_bytes(b"x" * (room.stat().st_size + 5 * (1 << 20)))
    result = modules.attempt("vm_snapshot", vm, name="s1", directory=str(small))
    assert result["failed"] and str(small) in result["msg"]
    assert sources(vm) == before and sorted(p.name for p in small.iterdir()) == ["ballast"]
    assert modules.info(vm)["snapshots"] == []


def test_memory_that_does_not_fit_is_refused(vm, modules, small):
    """How much it takes changes all the time, even while the guest is paused."""
    before = world(vm)
    said = [
        modules.attempt(
            "vm_snapshot", vm, check=check, name="s1", memory=True, directory=str(small)
        )
        for check in (True, False)
    ]
    assert all(result["failed"] for result in said)
    foreseen, message = (re.sub("least [0-9]+ bytes", "least", result["msg"]) for result in said)
    assert message == foreseen
    assert f"{small} has" in message and "bytes free" in message
    assert "choose another place" in message
    assert world(vm) == before and list(small.iterdir()) == []


def test_overlays_belong_to_whom_the_image_belongs(make_vm, modules):
    vm = make_vm("owned", disks=1, running=False)
    os.chown(sources(vm)["vda"], 12345, 54321)
    modules.change("vm_snapshot", vm, name="s1")
    status = os.stat(sources(vm, inactive=True)["vda"])
    assert (status.st_uid, status.st_gid) == (12345, 54321)
    assert status.st_mode & 0o777 == 0o600


def test_images_reached_by_symbolic_links(make_vm, modules, tmp_path):
    """A definition may name a link; a base named by another path is the same image."""
    donor = make_vm("donor", disks=1, running=False)
    real = tmp_path / "real"
    real.mkdir()
    shutil.copyfile(donor.disks["vda"].path, real / "disk.qcow2")
    link = tmp_path / "link"
    link.symlink_to(real)
    vm = make_vm("linked", disks=[Disk(path=str(link / "disk.qcow2"), content="keep")])
    take(modules, vm, "s1")
    modules.change("vm_blockcommit", vm, base=str(real / "disk.qcow2"))
    assert Path(sources(vm)["vda"]).resolve() == real / "disk.qcow2"
    assert vm.read("/mnt/vda/since-s1") == b"s1" * 1000
