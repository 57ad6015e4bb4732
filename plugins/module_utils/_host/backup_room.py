# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a restore point will take. Never changes anything.

A backup holds what the disks held at one moment, so its size is known when it begins, however much
a guest writes meanwhile.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .._model.backup import INCREMENTAL
from .._model.backup_steps import RUNNING, BackUp
from .._model.image import Image
from .._model.problem import Problem, Unreachable
from .._model.state import VmState
from . import qemu_img
from .connection import call
from .libvirt_dep import libvirt

if TYPE_CHECKING:
    from .libvirt_dep import Domain

CLUSTER = 64 * 1024
"""What a backup copies at once, and the cluster of the images that it fills."""
_LEFT_TO_GUESTS = 256 << 20
# What an image may need that seems to be complete: tables, or blocks that it shares with a copy.
_LEFT_AT_LEAST = 16 << 20


def backup_rooms(dom: Domain, vm: VmState, step: BackUp) -> dict[str, int]:
    """target -> bytes that its new image takes at most, as far as that can be known.

    It cannot for an increment of a VM that is off, which is found by comparison.
    """
    dirty = _dirty(dom, step) if step.since else {}
    rooms = {}
    for copy in step.copies:
        disk = vm.disk(copy.target)
        if copy.type == INCREMENTAL:
            if copy.target in dirty:
                cluster = disk.chain[0].cluster_size if disk and disk.chain else None
                data = _in_clusters(dirty[copy.target], cluster)
                rooms[copy.target] = with_tables(copy.size, data)
        elif disk and disk.chain:
            data = _full(disk.chain, running=step.how == RUNNING)
            rooms[copy.target] = with_tables(copy.size, data)
    return rooms


def with_tables(size: int, data: int) -> int:
    """Bytes of a qcow2 image for a disk of ``size`` with so many bytes of data in it."""
    data = min(size, data)
    tables = size // 8192 + data // 16384 + 16 * CLUSTER
    return data + CLUSTER * -(-tables // CLUSTER)


def _in_clusters(changed: int, cluster: int | None) -> int:
    """What is copied for that many bytes which changed, in pieces of such a size."""
    return changed * max(1, CLUSTER // max(cluster or CLUSTER, 4096))


def _full(chain: tuple[Image, ...], *, running: bool) -> int:
    """Bytes of data at most. What QEMU has not written out to its tables yet only the file shows.

    And that clusters are compressed only the tables.
    """
    held = allocated(chain)
    active = chain[0]
    try:
        return max(
            held,
            qemu_img.measure(active.filename, active.format, depth=len(chain), in_use=running),
        )
    except Problem:
        # It is read while it changes.
        return held


def allocated(chain: Iterable[Image]) -> int:
    """What the images of a chain take now."""
    return sum(_held(image.filename) or image.actual_size for image in chain)


def _held(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0


def _dirty(dom: Domain, step: BackUp) -> Mapping[str, int]:
    """target -> bytes that changed since the checkpoint, by libvirt; {} where it does not know."""
    doing = f"VM {dom.name()}: asking what has changed since {step.since}"
    try:
        found = call(doing, dom.checkpointLookupByName, step.since, 0)
        xml = call(doing, found.getXMLDesc, libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE)
    except Unreachable:
        raise
    except Problem:
        return {}
    disks = ET.fromstring(xml).iterfind("disks/disk[@size]")  # noqa: S314 - the daemon's own
    return {disk.get("name", ""): int(disk.get("size", "0")) for disk in disks}


def left_to_guests(vm: VmState, repository: str) -> int:
    """Bytes that are to stay free where the repository and images of this VM share a file system.

    They are for what the guest writes meanwhile. 0 where they do not share one.
    """
    try:
        device = os.stat(repository).st_dev
    except OSError:
        return 0
    growth = 0
    for disk in vm.writable:
        if not vm.off and disk.chain and _device(disk.chain[0].filename) == device:
            active = disk.chain[0]
            # What an internal snapshot holds the guest may write over, all of it.
            used = 0 if active.snapshots else active.actual_size
            growth += max(_LEFT_AT_LEAST, (active.virtual_size or 0) - used)
    return min(growth, _LEFT_TO_GUESTS)


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def held_by(folders: Iterable[str]) -> int:
    """Bytes that become free when these folders are removed."""
    total = 0
    for folder in folders:
        files = (os.path.join(each[0], name) for each in os.walk(folder) for name in each[2])
        total += sum(map(_held, files))
    return total
