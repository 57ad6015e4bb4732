# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it takes to back up a running VM, in full and what has changed."""

from __future__ import annotations

import os
import shutil
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
from lab import VM, Disk, Lab

from .pairs import Comparison, Goal, in_turns
from .programs import INSIDE, WHOLE, BenchmarkError, Timed, milliseconds, run_module, run_program
from .report import Part

BARE, OTHER = "virsh backup-begin, until its job has ended", "virtnbdbackup"
DATA, DIRTY = 1024, 64  # MiB
QUICK_DATA, QUICK_DIRTY = 16, 2
LARGE, SMALL = 50, 5  # GiB
_POLL_SECONDS = 0.002


@dataclass
class Machine:
    """A running VM without a guest agent, with a disk that its guest does not use."""

    vm: VM
    folder: Path
    number: int = 0
    made: list[Path] = field(default_factory=list)

    def directory(self) -> Path:
        """A new empty directory."""
        self.number += 1
        path = self.folder / f"{self.vm.name}-{self.number}"
        path.mkdir()
        self.made.append(path)
        return path

    def clear(self) -> None:
        """Remove what was made and let the storage settle; libvirt forgets its checkpoints."""
        for path in self.made:
            shutil.rmtree(path)
        self.made = []
        for checkpoint in self.vm.domain.listAllCheckpoints():
            checkpoint.delete()
        os.sync()

    def dirty(self, mebibytes: int) -> None:
        """Write in the guest; the data is on the disk afterwards."""
        write = f"dd if=/dev/zero of=/dev/vda bs=1M count={mebibytes} oflag=direct"
        self.vm.run(write, timeout=300)
        os.sync()

    # -- ours ------------------------------------------------------------------------------

    def ours(self, repository: Path, **params: Any) -> Timed:
        lab = self.vm.lab
        wish = {
            "vm": [self.vm.name],
            "uri": lab.uri,
            "state_dir": str(lab.directory / "state"),
            "repository": str(repository),
            "quiesce": "never",
            **params,
        }
        return run_module(lab.directory, "vm_backup", wish)

    def ours_in_full(self) -> Timed:
        self.clear()
        return self.ours(self.directory(), type="full")

    def ours_since(self, mebibytes: int) -> Timed:
        """What was written since a restore point."""
        self.clear()
        repository = self.directory()
        self.ours(repository, type="full")
        self.dirty(mebibytes)
        return self.ours(repository, type="incremental")

    # -- the others ------------------------------------------------------------------------

    def bare(self) -> float:
        """Seconds of virsh, and until libvirt says that the job has ended."""
        self.clear()
        target = self.directory()
        backup, checkpoint = target / "backup.xml", target / "checkpoint.xml"
        root = ET.Element("domainbackup", mode="push")
        disk = ET.SubElement(ET.SubElement(root, "disks"), "disk", name="vda", type="file")
        ET.SubElement(disk, "target", file=str(target / "vda.qcow2"))
        ET.SubElement(disk, "driver", type="qcow2")
        backup.write_bytes(ET.tostring(root))
        checkpoint.write_text("<domaincheckpoint><name>bare</name></domaincheckpoint>")
        began = time.monotonic()
        words = ("backup-begin", self.vm.name, str(backup), str(checkpoint))
        run_program("virsh", "-c", self.vm.lab.uri, *words)
        domain = self.vm.domain
        while domain.jobStats().get("type"):
            time.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - began
        if not domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED).get("success"):
            raise BenchmarkError("the backup job has failed")
        return seconds

    def other(self, target: Path, level: str) -> float:
        where = ("-U", self.vm.lab.uri, "-d", self.vm.name, "-o", str(target))
        return run_program("virtnbdbackup", *where, "-l", level, "-n")

    def other_in_full(self) -> float:
        self.clear()
        return self.other(self.directory(), "full")

    def other_since(self, mebibytes: int) -> float:
        self.clear()
        target = self.directory()
        self.other(target, "full")
        self.dirty(mebibytes)
        return self.other(target, "inc")


def filled(lab: Lab, mebibytes: int) -> Path:
    """An image full of data, of no two clusters with the same."""
    path = lab.directory / "filled.qcow2"
    run_program("qemu-img", "create", "-q", "-f", "qcow2", str(path), f"{mebibytes}M")
    for start in range(0, mebibytes, 16):
        size = min(16, mebibytes - start)
        write = f"write -q -P {1 + start // 16 % 251} {start}M {size}M"
        run_program("qemu-io", "-f", "qcow2", "-c", write, str(path))
    return path


def machine(lab: Lab, name: str, disk: Disk) -> Machine:
    return Machine(lab.vm(name, [disk], agent=False), lab.directory)


def in_full(lab: Lab, data: Path, pairs: int) -> list[Comparison]:
    copied = [Path(shutil.copyfile(data, data.with_name(f"{name}.qcow2"))) for name in "ab"]
    one, two = (
        machine(lab, name, Disk(path=str(path), content="blank"))
        for name, path in zip(("ours", "other"), copied)
    )
    size = f"{data.stat().st_size >> 20} MiB in full"
    ours, bare = in_turns(pairs, one.ours_in_full, two.bare)
    rows = [_row(f"{size}: {INSIDE}", ours, bare, BARE, Goal(1.05))]
    ours, other = in_turns(pairs, one.ours_in_full, two.other_in_full)
    rows.append(_row(f"{size}: {INSIDE}", ours, other, OTHER, Goal(1.3, faster=True)))
    whole = milliseconds(ours, lambda run: run.whole)
    theirs = tuple(1000 * seconds for seconds in other)
    rows.append(Comparison(f"{size}: {WHOLE}", whole, theirs, OTHER, faster=True))
    for each in (one, two):
        each.clear()
    rows += since(one, two, pairs, DIRTY if pairs > 2 else QUICK_DIRTY)
    for each in (one, two):
        each.clear()
        lab.remove(each.vm)
    return rows


def since(one: Machine, two: Machine, pairs: int, dirty: int) -> list[Comparison]:
    what = f"an increment of {dirty} MiB"
    ours, other = in_turns(pairs, lambda: one.ours_since(dirty), lambda: two.other_since(dirty))
    theirs = tuple(1000 * seconds for seconds in other)
    whole = milliseconds(ours, lambda run: run.whole)
    return [
        _row(f"{what}: {INSIDE}", ours, other, OTHER, Goal(1.3, faster=True)),
        Comparison(f"{what}: {WHOLE}", whole, theirs, OTHER, faster=True),
    ]


def by_size(lab: Lab, pairs: int, dirty: int) -> Comparison:
    """Whether the size of a disk matters to an increment."""
    large, small = (
        machine(lab, f"{size}gib", Disk(size=size * 1024, content="blank"))
        for size in (LARGE, SMALL)
    )
    ours, peer = in_turns(pairs, lambda: large.ours_since(dirty), lambda: small.ours_since(dirty))
    for each in (large, small):
        each.clear()
        lab.remove(each.vm)
    what = f"an increment of {dirty} MiB on {LARGE} GiB against {SMALL} GiB: {INSIDE}"
    inside = [milliseconds(side, lambda run: run.inside) for side in (ours, peer)]
    return Comparison(what, *inside, f"the same on {SMALL} GiB", Goal(1.1))


def _row(what: str, ours: list[Timed], peer: list[float], peer_name: str, goal: Goal) -> Comparison:
    inside = milliseconds(ours, lambda run: run.inside)
    return Comparison(what, inside, tuple(1000 * seconds for seconds in peer), peer_name, goal)


def measure(pairs: int, *, quick: bool) -> Part:
    with Lab() as lab:
        rows = in_full(lab, filled(lab, QUICK_DATA if quick else DATA), pairs)
        rows.append(by_size(lab, pairs, QUICK_DIRTY if quick else DIRTY))
    return Part("backup", rows)
