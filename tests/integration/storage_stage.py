# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems of their own for virtual machines whose storage takes snapshots.

Each is a file that is mounted below the directory of the lab, which whoever takes down a lab also
unmounts; so nothing stays behind of a run that was killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import VM, Disk, Lab
from lab.disks import make_disk, plan_targets
from lab.file_systems import mount_new, mount_trouble
from lab.records import Record, parse_records


class Storage:
    """The mounted file systems of a test run, each made when it is first asked for."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._mounted: dict[str, Path] = {}

    def at(self, kind: str) -> Path:
        """Where a file system of this kind (see lab.file_systems) is mounted."""
        if kind not in self._mounted:
            if trouble := mount_trouble():
                pytest.skip(f"NOT TESTED: {trouble}")
            image, point = self.lab.directory / f"{kind}.img", self.lab.directory / f"fs-{kind}"
            point.mkdir()
            mount_new(kind, image, point)
            self._mounted[kind] = point
        return self._mounted[kind]

    def close(self) -> None:
        for point in self._mounted.values():
            run("umount", str(point))

    def vm(self, kind: str, name: str, disks: int | list[Disk] = 2, **options: object) -> VM:
        """As `lab.vm`, with its images in a directory of their own (on btrfs a subvolume)."""
        folder = self.at(kind) / name
        empty(folder)
        if kind == "btrfs":
            run("btrfs", "subvolume", "create", str(folder))
        else:
            folder.mkdir()
        wanted = [Disk()] * disks if isinstance(disks, int) else disks
        made = [make_disk(self.lab.programs, folder, disk) for disk in plan_targets(wanted)]
        given = [Disk(path=each.path, format=each.spec.format) for each in made]
        return self.lab.vm(name, disks=given, **options)


def empty(folder: Path) -> None:
    """Remove a directory with all that is in it, subvolumes too."""
    if not folder.exists():
        return
    for below in sorted(folder.rglob("*"), reverse=True):
        if below.is_dir() and below.stat().st_ino == 256:
            run("btrfs", "subvolume", "delete", str(below))
    if folder.stat().st_ino == 256:
        run("btrfs", "subvolume", "delete", str(folder))
    else:
        shutil.rmtree(folder)


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def storage(lab_session: Lab) -> Iterator[Storage]:
    """The file systems of this test run."""
    storage = Storage(lab_session)
    yield storage
    for vm in list(lab_session.vms.values()):
        if any(
            Path(disk.path).is_relative_to(p)
            for disk in vm.disks.values()
            for p in storage._mounted.values()
        ):
            lab_session.remove(vm)
    storage.close()


@pytest.fixture
def stored_vm(storage: Storage, make_vm: Callable[..., VM]) -> Callable[..., VM]:
    """`storage.vm`; the machine goes with the test (make_vm sees to that)."""
    del make_vm
    return storage.vm


# --- what is in an image ---


class Content:
    """The ext4 file system in an image, read without a guest and without our code."""

    def __init__(self, image: str, scratch: Path, image_format: str = "qcow2") -> None:
        self.raw = scratch / f"{Path(image).name}.raw"
        run("qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", image, str(self.raw))

    def read(self, path: str) -> bytes:
        """A file, b'' if there is none."""
        words = ["debugfs", "-R", f"cat {path}", str(self.raw)]
        return subprocess.run(words, check=True, capture_output=True).stdout

    def records(self, disk: str) -> list[Record]:
        return parse_records(self.read("/records"), disk)


def digest(image: str, image_format: str = "qcow2") -> str:
    """What a guest would see of an image, whatever it stands on."""
    raw = f"/dev/shm/vmkeep-{os.getpid()}.storage"
    try:
        run("qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", image, raw)
        return run("sha1sum", raw).split()[0]
    finally:
        Path(raw).unlink(missing_ok=True)


def shared_with(path: str) -> bool:
    """Whether all extents of a file are shared with another one (filefrag -v)."""
    lines = run("filefrag", "-v", path).splitlines()
    extents = [line for line in lines if line.split(":")[0].strip().isdigit()]
    return bool(extents) and all("shared" in line for line in extents)


def info(path: str) -> dict:
    return dict(json.loads(run("qemu-img", "info", "-U", "--output=json", path)))
