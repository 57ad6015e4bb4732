# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it takes to merge an overlay into its base while the VM runs."""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
from lab import Disk, Lab

from .pairs import Comparison, Goal, in_turns
from .programs import (
    INSIDE,
    WHOLE,
    BenchmarkError,
    Timed,
    milliseconds,
    run_module,
    run_program,
)
from .report import Part

PEER = "virsh blockcommit --active --pivot --wait"
NAME = "bench"
DISK_MIB = 2048
MIB = 1024 * 1024
GOALS = {16: 0.6, 1024: 1.0}
QUICK = {4: 0.6}


class Machine:
    """A running VM with a disk that its guest does not use."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.vm = lab.vm(NAME, [Disk(size=DISK_MIB, content="blank")])
        self.base = self.vm.disks["vda"].path
        self.overlay = self.vm.folder / "vda.overlay"

    def on_overlay(self, prepared: Path) -> None:
        """Put a copy of a prepared overlay on top of the disk, and let the storage settle."""
        shutil.copyfile(prepared, self.overlay)
        snapshot = ET.Element("domainsnapshot")
        disk = ET.SubElement(ET.SubElement(snapshot, "disks"), "disk", name="vda")
        ET.SubElement(disk, "source", file=str(self.overlay))
        flags = (
            libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        )
        self.vm.domain.snapshotCreateXML(ET.tostring(snapshot, encoding="unicode"), flags)
        os.sync()

    def ours(self, prepared: Path) -> Timed:
        """vm_blockcommit with its defaults: it also proves the merge and removes the overlay."""
        self.on_overlay(prepared)
        state = str(self.lab.directory / "state")
        wish = {"vm": [NAME], "uri": self.lab.uri, "state_dir": state}
        timed = run_module(self.lab.directory, "vm_blockcommit", wish)
        self.must_be_merged()
        return timed

    def peer(self, prepared: Path) -> tuple[float, float]:
        """Seconds of virsh, and with those of removing the overlay, which it leaves behind."""
        self.on_overlay(prepared)
        options = ("--active", "--pivot", "--wait")
        seconds = run_program("virsh", "-c", self.lab.uri, "blockcommit", NAME, "vda", *options)
        self.must_be_merged()
        return seconds, seconds + run_program("rm", str(self.overlay))

    def must_be_merged(self) -> None:
        if self.vm.source("vda") != self.base:
            raise BenchmarkError(f"the disk is still on {self.vm.source('vda')}")


def prepared_overlay(machine: Machine, mebibytes: int) -> Path:
    """An overlay of the machine's disk with so much data, written while nobody uses it."""
    path = machine.lab.directory / f"overlay-{mebibytes}"
    run_program("qemu-img", "create", "-q", "-f", "qcow2", str(path), f"{DISK_MIB}M")
    for start in range(0, mebibytes, 64):
        size = min(64, mebibytes - start)
        write = f"write -q -P {1 + start % 251} {start}M {size}M"
        run_program("qemu-io", "-f", "qcow2", "-c", write, str(path))
    base = ("-b", machine.base, "-F", "qcow2")
    run_program("qemu-img", "rebase", "-q", "-u", "-f", "qcow2", *base, str(path))
    return path


def compare(machine: Machine, mebibytes: int, bound: float, pairs: int) -> list[Comparison]:
    prepared = prepared_overlay(machine, mebibytes)
    for side in (machine.ours, machine.peer):
        side(prepared)  # from now on the base has room for the data
    ours, peer = in_turns(pairs, lambda: machine.ours(prepared), lambda: machine.peer(prepared))
    prepared.unlink()
    size = f"{mebibytes} MiB" if mebibytes < 1024 else f"{mebibytes // 1024} GiB"
    theirs, and_removed = (tuple(1000 * taken[place] for taken in peer) for place in (0, 1))
    inside = milliseconds(ours, lambda run: run.inside)
    whole = milliseconds(ours, lambda run: run.whole)
    removed = f"{INSIDE}, and the overlay removed"
    return [
        Comparison(f"{size}: {INSIDE}", inside, theirs, PEER, Goal(bound)),
        Comparison(f"{size}: {removed}", inside, and_removed, f"{PEER}, and rm OVERLAY"),
        Comparison(f"{size}: {WHOLE}", whole, theirs, PEER),
    ]


def measure(pairs: int, *, quick: bool) -> Part:
    with Lab() as lab:
        machine = Machine(lab)
        sizes = QUICK if quick else GOALS
        rows = [
            row
            for mebibytes, bound in sizes.items()
            for row in compare(machine, mebibytes, bound, pairs)
        ]
    return Part("commit", rows)
