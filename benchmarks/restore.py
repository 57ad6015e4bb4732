# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it takes to bring a VM back from a full restore point and ten increments."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import libvirt
from lab import Disk, Lab

from .backup import DATA, DIRTY, OTHER, QUICK_DATA, QUICK_DIRTY, Machine, filled, machine
from .pairs import Comparison, Goal, in_turns
from .programs import INSIDE, WHOLE, BenchmarkError, Timed, milliseconds, run_module, run_program
from .report import Part

CONVERT = "qemu-img convert of the whole chain"
DURABLE = "the same with -t writeback, which is done when the image is on the disk"
PROVED = "that, and openssl dgst -sha256 of the chain"
RESTORE = OTHER.replace("backup", "restore")
WRITEBACK = ("-t", "writeback")
INCREMENTS, QUICK_INCREMENTS = 10, 2
NAME = "restored"


def chains(lab: Lab, data: Path, increments: int, dirty: int) -> tuple[Path, Path, Machine]:
    """The same history by both: a full backup, and increments that overlap."""
    copied = [Path(shutil.copyfile(data, data.with_name(f"{name}.qcow2"))) for name in "ab"]
    one, two = (
        machine(lab, name, Disk(path=str(path), content="blank"))
        for name, path in zip(("ours", "other"), copied)
    )
    repository, target = one.directory(), two.directory()
    one.ours(repository, type="full")
    two.other(target, "full")
    for _number in range(increments):
        for each in (one, two):
            each.dirty(dirty)
        one.ours(repository, type="incremental")
        two.other(target, "inc")
    lab.remove(two.vm)
    return repository, target, one


def restored(lab: Lab, repository: Path, name: str) -> Timed:
    """vm_restore under another name: every byte is read and held against the manifests."""
    place = lab.directory / "place"
    place.mkdir()
    os.sync()
    wish = {
        "vm": [name],
        "uri": lab.uri,
        "state_dir": str(lab.directory / "state"),
        "repository": str(repository),
        "directory": str(place),
        "as": NAME,
    }
    timed = run_module(lab.directory, "vm_restore", wish)
    lab.connection.lookupByName(NAME).undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    shutil.rmtree(place)
    return timed


def converted(lab: Lab, repository: Path, *options: str, proved: bool = False) -> float:
    """Seconds of qemu-img; with ``proved`` every byte of the chain was hashed, too."""
    chain = [str(path) for path in sorted(repository.glob("*/*/vda.qcow2"))]
    out = lab.directory / "converted.qcow2"
    os.sync()
    how = ("convert", *options, "-f", "qcow2", "-O", "qcow2")
    seconds = run_program("qemu-img", *how, chain[-1], str(out))
    if proved:
        seconds += run_program("openssl", "dgst", "-sha256", *chain)
    out.unlink()
    return seconds


def by_other(lab: Lab, target: Path) -> float:
    out = lab.directory / "out"
    out.mkdir()
    os.sync()
    where = ("-U", lab.uri, "-i", str(target), "-o", str(out))
    seconds = run_program("virtnbdrestore", *where, "-n")
    if not list(out.iterdir()):
        raise BenchmarkError("virtnbdrestore has restored nothing")
    shutil.rmtree(out)
    return seconds


def measure(pairs: int, *, quick: bool) -> Part:
    with Lab() as lab:
        data = filled(lab, QUICK_DATA if quick else DATA)
        increments = QUICK_INCREMENTS if quick else INCREMENTS
        dirty = QUICK_DIRTY if quick else DIRTY
        repository, target, one = chains(lab, data, increments, dirty)
        name = one.vm.name
        size = f"{data.stat().st_size >> 20} MiB and {increments} increments"
        rows = []
        for peer, call, goal in (
            (CONVERT, lambda: converted(lab, repository), Goal(0.9, faster=True)),
            (DURABLE, lambda: converted(lab, repository, *WRITEBACK), None),
            (PROVED, lambda: converted(lab, repository, *WRITEBACK, proved=True), None),
            (RESTORE, lambda: by_other(lab, target), Goal(2, faster=True)),
        ):
            ours, theirs = in_turns(pairs, lambda: restored(lab, repository, name), call)
            other = tuple(1000 * seconds for seconds in theirs)
            inside = milliseconds(ours, lambda run: run.inside)
            whole = milliseconds(ours, lambda run: run.whole)
            rows.append(Comparison(f"{size}: {INSIDE}", inside, other, peer, goal, faster=True))
            rows.append(Comparison(f"{size}: {WHOLE}", whole, other, peer, faster=True))
    return Part("restore", rows)
