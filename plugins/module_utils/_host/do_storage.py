# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps that let the storage take and drop snapshots.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace

from .._model.domain import parse_domain
from .._model.problem import Conflict
from .._model.snapshot import OFFLINE, parse_snapshot
from .._model.step import RemoveStorage, SnapshotStorage
from .._model.storage import (
    BTRFS,
    LVM,
    Copy,
    StorageSnapshot,
    is_marked,
    mark_of,
)
from .._model.volume import mark_tags
from . import btrfs
from .clone import clone, mark_in
from .connection import call, check_off
from .image_lock import all_unwritten
from .lvm import Lvm
from .removal import remove
from .repository import enclosing
from .storage_record import read_record, write_record
from .storage_state import stamped
from .uses import record_use
from .work import Work, do

WHILE_OFF = "to work on its storage while it is off"


@do.register
def _snapshot_storage(step: SnapshotStorage, work: Work) -> None:
    with _still(step, work):
        snapshot = StorageSnapshot(step.name, _worth(step, work), int(time.time()), step.copies)
        made: set[str] = set()
        for copy in step.copies:
            if copy.made not in made:
                _make(copy, mark_of(snapshot, copy, work.vm.uuid), work)
            made.add(copy.made)
    for copy in step.copies:
        keep_below(copy, copy.file, work)
    snapshot = replace(snapshot, copies=tuple(stamped(c, work.vm.disks) for c in step.copies))
    record = read_record(work.host.state_dir, work.vm.uuid)
    write_record(work.host.state_dir, work.vm.uuid, record.having(snapshot))


def keep_below(copy: Copy, image: str, work: Work) -> None:
    """Nobody prunes a restore point that an image with the content of a copy stands on."""
    path = os.path.realpath(copy.below[0][0]) if copy.below else ""
    if path and enclosing(path):
        work.notes += record_use(path, (image,))


@contextlib.contextmanager
def _still(step: SnapshotStorage, work: Work) -> Iterator[None]:
    """Nothing is written to the images: seen before and after, and kept so where possible."""
    if step.frozen:
        _check_frozen(step, work)
        yield
        _check_frozen(step, work)
        return
    check_off(work.dom, WHILE_OFF)
    with all_unwritten([copy.image for copy in step.copies]):
        yield
    check_off(work.dom, WHILE_OFF)


def _check_frozen(step: SnapshotStorage, work: Work) -> None:
    """A running VM writes to its overlays; one that stopped meanwhile writes to nothing."""
    live = parse_domain(call(f"reading VM {work.vm.name}", work.dom.XMLDesc, 0))
    for copy in step.copies:
        disk = live.disk(copy.target)
        if disk and os.path.realpath(disk.path) == os.path.realpath(copy.image):
            raise Conflict(
                f"VM {work.vm.name}, disk {copy.target}, writes to {copy.image} again",
                wanted="an image that is frozen while it is copied",
                todo="find who merges its overlays, and run the task again",
            )


def _worth(step: SnapshotStorage, work: Work) -> str:
    """The consistency that the point in time turned out to have."""
    if not step.frozen:
        return OFFLINE
    doing = f"VM {work.vm.name}: reading snapshot {step.frozen}"
    found = call(doing, work.dom.snapshotLookupByName, step.frozen, 0)
    return parse_snapshot(call(doing, found.getXMLDesc, 0)).consistency


def lvm_of(work: Work) -> Lvm:
    """LVM as this run uses it."""
    return Lvm(work.host.state_dir, work.host.timeout)


def _make(copy: Copy, mark: dict[str, str], work: Work) -> None:
    if copy.backend == LVM:
        lvm_of(work).snapshot(copy.volume, copy.made, size=copy.size, tags=mark_tags(mark))
    elif copy.backend == BTRFS:
        btrfs.snapshot(copy.volume, copy.made)
    else:
        clone(copy.image, copy.made, mark=mark)


@do.register
def _remove_storage(step: RemoveStorage, work: Work) -> None:
    for made in dict.fromkeys(copy.made for copy in step.copies):
        copy = next(copy for copy in step.copies if copy.made == made)
        if not _drop(copy, step.name, work):
            work.notes.append(
                f"{work.vm.name}: {made} is not what was made for {step.name}; it was left alone"
            )
    record = read_record(work.host.state_dir, work.vm.uuid)
    if any(snapshot.name == step.name for snapshot in record.snapshots):
        write_record(work.host.state_dir, work.vm.uuid, record.lacking(step.name))


def _drop(copy: Copy, name: str, work: Work) -> bool:
    """Remove what was made for a copy if it is there; False for what somebody else made."""
    if copy.backend == LVM:
        volume = lvm_of(work).volume(copy.made)
        if volume is None or not is_marked(volume.mark, work.vm.uuid, name):
            return volume is None
        lvm_of(work).remove(copy.made)
    elif os.path.lexists(copy.made):
        if copy.backend == BTRFS:
            btrfs.delete(copy.made)
        elif is_marked(mark_in(copy.made), work.vm.uuid, name):
            remove(copy.made)
        else:
            return False
    elif copy.backend == BTRFS:
        btrfs.tidy(copy.made)  # a run may have died between the two
    return True
