# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore points of a VM after the steps of a plan, and how a person sees them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .._model.backup import RestorePoint, StoredDisk
from .._model.backup_steps import (
    BackUp,
    CreateRepository,
    DropCheckpoint,
    EndBackup,
    RemoveBitmap,
)
from .._model.backups import Backups
from .._model.state import VmState
from .._model.step import Step
from .._model.stock_step import RemoveDebris
from .foreseen import point_to_be


def after_backup(vm: VmState, step: Step) -> VmState:
    """The VM after a step of a backup, unchanged by all others."""
    known = vm.backups
    if known is None:
        return vm
    if isinstance(step, CreateRepository):
        return replace(vm, backups=replace(known, new=False))
    if isinstance(step, EndBackup):
        return replace(vm, backups=replace(known, job=None))
    if isinstance(step, RemoveDebris):
        left = tuple(path for path in known.stock.debris if path != step.path)
        return replace(vm, backups=replace(known, stock=replace(known.stock, debris=left)))
    if isinstance(step, DropCheckpoint):
        names = tuple(name for name in known.checkpoints if name != step.name)
        return _without_bitmap(replace(vm, backups=replace(known, checkpoints=names)), step.name)
    if isinstance(step, RemoveBitmap):
        bitmaps = tuple(found for found in known.bitmaps if found[1] != step.name)
        return _without_bitmap(replace(vm, backups=replace(known, bitmaps=bitmaps)), step.name)
    return _with_point(vm, known, step) if isinstance(step, BackUp) else vm


def _without_bitmap(vm: VmState, name: str) -> VmState:
    """The VM without a bitmap in its active images."""
    disks = []
    for disk in vm.disks:
        for active in disk.chain[:1]:
            left = tuple(bitmap for bitmap in active.bitmaps if bitmap.name != name)
            chain = (active._replace(bitmaps=left), *disk.chain[1:])
            disk = replace(disk, chain=chain)
        disks.append(disk)
    return replace(vm, disks=tuple(disks))


def _with_point(vm: VmState, known: Backups, step: BackUp) -> VmState:
    point = _expected(step, vm, known)
    stock = replace(known.stock, points=(*known.stock.points, point))
    names = (*known.checkpoints, step.checkpoint) if step.checkpoint else known.checkpoints
    return replace(vm, backups=replace(known, stock=stock, checkpoints=names))


def _expected(step: BackUp, vm: VmState, known: Backups) -> RestorePoint:
    """The restore point as far as it can be foreseen."""
    parent = known.stock.point(step.parent)
    disks = (
        StoredDisk(copy.target, copy.file, copy.type, copy.format, copy.size, copy.source)
        for copy in step.copies
    )
    point = point_to_be(known.stock, step.id, step.time, disks, parent)
    return replace(point, vm=vm.name, uuid=vm.uuid, reason=step.reason, checkpoint=step.checkpoint)


def backup_lines(vm: VmState) -> Iterator[str]:
    """What a picture of the VM shows of its restore points, where a run is about these."""
    if vm.backups is None:
        return
    stock = vm.backups.stock
    yield f"  restore points in {stock.repository}:" + ("" if stock.points else " none")
    for point in stock.points:
        since = f" since {point.parent.id}" if point.parent else ""
        yield f"    {point.id} {point.type}{since}"
    yield from (f"    {path} (left by an interrupted run)" for path in stock.debris)
    names = ", ".join(vm.backups.ours)
    yield f"  backup checkpoint: {names or 'none'}"
