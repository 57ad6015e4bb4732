# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overlays that somebody has committed by hand, told from those that were abandoned.

Both are in no chain; the second kind may hold the only copy of what a guest wrote. As long as QEMU
runs, the chain of a disk changes only by block jobs, which take the content along. So what this
very QEMU has written to, and does not stand on any more, was moved; unless the disk was detached
and an image attached anew. libvirt gives each image that QEMU opens a number, so that one has a
number after those of all that were open before. As a second sign all that the overlay holds has to
have a place in the present chain.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import json
import os
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from .._model.image import Image
from .._model.problem import Problem
from .._model.snapshot import Snapshot
from .._model.state import DiskState, VmState
from .._model.xml_text import xml_root
from .image_file import read_image
from .program import Limits, run
from .qemu_img import QUICK, node_of
from .qemu_process import started_at

_MARGIN = 2.0
Range = tuple[int, int]


def committed_overlays(vm: VmState, xml: str) -> frozenset[str]:
    """Overlays of our snapshots whose content a block job has provably moved into a chain.

    ``xml`` is the live definition of the VM.
    """
    loose = [(snapshot, *entry) for snapshot in vm.snapshots for entry in _loose(vm, snapshot)]
    started = started_at(vm.live.uuid) if loose and not vm.off else None
    if started is None:
        return frozenset()
    used = {
        file: disk
        for snapshot, disk, file in loose
        if _used_since(snapshot, file, started + _MARGIN)
    }
    return frozenset(
        file
        for file, disk in used.items()
        if not opened_anew(xml, disk.target, len(used)) and _has_its_place(file, disk.chain)
    )


def opened_anew(xml: str, target: str, gone: int) -> bool:
    """Whether the active image of a disk may have been attached after others were closed.

    ``gone`` images are known to have been open and not to be any more. One that was there before
    has no more numbers below its own that are missing than these.
    """
    numbers: dict[str, list[int]] = {}
    for disk in xml_root(xml).iterfind("devices/disk"):
        node = disk.find("target")
        found = [int(each.get("index", "0")) for each in disk.iter() if each.get("index")]
        numbers[node.get("dev", "") if node is not None else ""] = found
    own = numbers.get(target) or [0]
    below = {number for found in numbers.values() for number in found if number < own[0]}
    return own[0] == 0 or own[0] - 1 - len(below) > gone


def _loose(vm: VmState, snapshot: Snapshot) -> Iterator[tuple[DiskState, str]]:
    """The overlays of a snapshot of ours in no chain, of disks that stand on what it stood on."""
    for target, file in snapshot.overlays.items() if snapshot.ours else ():
        disk, point = vm.disk(target), snapshot.image_before(target)
        if disk is None or file in vm.missing or disk.depth_of(file) is not None:
            continue
        if any(disk.depth_of(image.filename) is not None for image in vm.chain_of(point)):
            yield disk, file


def _used_since(snapshot: Snapshot, file: str, moment: float) -> bool:
    """Whether a VM that runs since then has used an image: it was taken, or written, later."""
    if snapshot.state != "shutoff" and snapshot.created > moment:
        return True
    try:
        return os.stat(file).st_mtime > moment
    except OSError:
        return False


def _has_its_place(file: str, chain: Sequence[Image]) -> bool:
    """Whether each range with data of an overlay has data in a chain, too."""
    try:
        held = _ranges([read_image(file, format="qcow2")])
        there = _ranges(chain)
    except Problem:
        return False
    return all(_within(place, there) for place in held)


def _within(place: Range, joined: Sequence[Range]) -> bool:
    number = bisect_right(joined, (place[0], sys.maxsize)) - 1
    return number >= 0 and place[1] <= joined[number][1]


def _ranges(images: Sequence[Image]) -> list[Range]:
    """Where these images hold data, in order and without gaps that are none."""
    found = sorted(
        (entry["start"], entry["start"] + entry["length"])
        for image in images
        for entry in _map(image)
        if entry["data"]
    )
    joined: list[Range] = []
    for start, end in found:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _map(image: Image) -> Any:
    """What one image holds, without what it stands on, also of one in use."""
    words = ["map", "-U", "--output=json", "--", node_of(image.filename, image.format)]
    answer = run(["qemu-img", *words], limits=Limits(), timeout=QUICK)
    if answer.rc:
        raise answer.problem()
    return json.loads(answer.stdout)
