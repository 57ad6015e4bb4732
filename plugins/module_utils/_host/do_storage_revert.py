# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps that bring disks back to what a storage snapshot holds.

What will take the place of the images is made first. Then they are moved out of the way, so that
the VM cannot start before all disks are back. Only the first file is replaced at one go, while
those of other disks are out of the way; so a VM with one disk never misses its image. Each part
looks at what there is, so that another run can go on from anywhere.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from .._model.problem import Conflict, Problem
from .._model.step import RevertStorage, UnprepareRevert
from .._model.storage import LVM, Copy, mark_of
from .._model.volume import mark_tags
from .clone import clone
from .connection import check_off
from .do_storage import WHILE_OFF, keep_below, lvm_of
from .durable import fsync_directory
from .image_lock import all_unwritten
from .removal import remove
from .stamp import stamp
from .storage_record import read_record, write_record
from .work import Work, do


@do.register
def _revert_storage(step: RevertStorage, work: Work) -> None:
    if not step.resume:
        check_off(work.dom, WHILE_OFF)
        _adopt(step, work)
        for copy in step.copies:
            _prepare(copy, work)
        work.journal.mark(step.mark)
    left = [copy for copy in step.copies if _is_left(step, copy, work)]
    if left:
        check_off(work.dom, WHILE_OFF)
        _place_all(step, left, work)
    for copy in step.copies:
        if not copy.is_merged:
            _remove(copy, copy.old, work)


@do.register
def _unprepare_revert(step: UnprepareRevert, work: Work) -> None:
    for copy in step.copies:
        _remove(copy, copy.new, work)


def _adopt(step: RevertStorage, work: Work) -> None:
    """Put a snapshot whose record was lost on record, since a merge takes its marks away."""
    record = read_record(work.host.state_dir, work.vm.uuid)
    found = work.vm.storage.snapshot(step.name)
    if found and not found.recorded:
        adopted = record.having(replace(found, recorded=True))
        write_record(work.host.state_dir, work.vm.uuid, adopted)


def _prepare(copy: Copy, work: Work) -> None:
    """Make what will take the place of the image; a merge needs nothing."""
    if copy.backend != LVM:
        clone(copy.file, copy.new, like=copy.image)
    elif copy.thin:
        lvm = lvm_of(work)
        origin = lvm.volume(copy.volume)
        lvm.snapshot(copy.made, copy.new, tags=origin.tags if origin else (), writable=True)


def _is_left(step: RevertStorage, copy: Copy, work: Work) -> bool:
    """Whether the disk does not hold yet what it is to hold, or not in its place."""
    if copy.is_merged:
        return not _is_merged(step, copy, work) or _exists(copy, copy.old, work)
    return _exists(copy, copy.new, work)


def _is_merged(step: RevertStorage, copy: Copy, work: Work) -> bool:
    return work.vm.journal is not None and step.placed(copy) in work.vm.journal["marks"]


def _exists(copy: Copy, thing: str, work: Work) -> bool:
    if copy.backend == LVM:
        return lvm_of(work).volume(thing) is not None
    return os.path.lexists(thing)


def _remove(copy: Copy, thing: str, work: Work) -> None:
    if not _exists(copy, thing, work):
        return
    if copy.backend == LVM:
        lvm_of(work).remove(thing)
    else:
        remove(thing)


def _place_all(step: RevertStorage, left: Sequence[Copy], work: Work) -> None:
    """Hide what is in place of all disks but the first file, and place the new, that file first."""
    files = [copy for copy in left if copy.backend != LVM]
    first = [copy for copy in files if os.path.lexists(copy.image)][:1]
    rest = [copy for copy in left if copy not in first]
    # Nothing may open the old images meanwhile, nor the new ones before all are there.
    locked = [path for copy in files for path in (copy.image, copy.new) if os.path.exists(path)]
    with all_unwritten(locked):
        for copy in rest:
            if _exists(copy, copy.place, work):
                _hide(copy, work)
        for copy in (*first, *rest):
            _place(step, copy, work)
        _note_reached(step, left, work)


def _hide(copy: Copy, work: Work) -> None:
    if copy.backend != LVM:
        os.replace(copy.image, copy.old)
        fsync_directory(os.path.dirname(copy.image))
        return
    lvm = lvm_of(work)
    lvm.rename(copy.volume, copy.old)
    hidden = lvm.volume(copy.old)
    if hidden and hidden.is_open:
        lvm.rename(copy.old, copy.volume)
        raise Conflict(
            f"the logical volume {copy.volume} of VM {work.vm.name}, disk {copy.target}, is open",
            wanted="a volume that nobody uses",
            todo="close it (dmsetup info tells how often it is open) and run the task again",
        )


def _place(step: RevertStorage, copy: Copy, work: Work) -> None:
    if copy.backend != LVM:
        os.replace(copy.new, copy.image)
        fsync_directory(os.path.dirname(copy.image))
        keep_below(copy, copy.image, work)
    elif copy.thin:
        lvm_of(work).rename(copy.new, copy.volume)
    else:
        if not _is_merged(step, copy, work):
            _merge(step, copy, work)
            work.journal.mark(step.placed(copy))
        lvm_of(work).rename(copy.old, copy.volume)


def _merge(step: RevertStorage, copy: Copy, work: Work) -> None:
    """Merge the snapshot, and take it anew of its origin, which then is the same."""
    lvm = lvm_of(work)
    if lvm.volume(copy.made):
        lvm.merge(copy.made, copy.old)
    snapshots = read_record(work.host.state_dir, work.vm.uuid).snapshots
    found = next((snapshot for snapshot in snapshots if snapshot.name == step.name), None)
    tags = mark_tags(mark_of(found, copy, work.vm.uuid)) if found else ()
    try:
        lvm.snapshot(copy.old, copy.made, size=copy.size, tags=tags)
    except Problem as problem:
        # The disk is back all the same, and nobody is helped if its volume stays hidden.
        work.notes.append(
            f"{work.vm.name}: disk {copy.target} is back at {step.name}, but that snapshot was used"
            f" up and could not be made anew: {problem.found}"
        )


def _note_reached(step: RevertStorage, placed: Sequence[Copy], work: Work) -> None:
    """Note how the images look now, so that one can see whether anything was written since."""
    record = read_record(work.host.state_dir, work.vm.uuid)
    at = {copy.target: (step.name, stamp(copy.image)) for copy in placed}
    write_record(work.host.state_dir, work.vm.uuid, replace(record, at={**record.at, **at}))
