# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deciding how a VM gets a restore point that is young enough.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from .._model.backup import (
    FULL,
    INCREMENTAL,
    RestorePoint,
    StoredDisk,
    id_at,
    in_utc,
    moment,
)
from .._model.backup_steps import (
    OFF,
    RUNNING,
    BackUp,
    CreateRepository,
    DiskBackup,
    DropCheckpoint,
    EndBackup,
)
from .._model.backups import Backups
from .._model.names import in_shell
from .._model.problem import Conflict, Problem
from .._model.state import DiskState, VmState
from .._model.step import Plan, ResumeVm, Step
from .._model.stock_step import RemoveDebris
from .backup_bitmaps import lost_bitmaps
from .backup_disks import allocated, check_disk, chosen, same_disk, size_of
from .backup_state import state_notes

AUTO = "auto"


@dataclass(frozen=True)
class BackupWish:
    """What is asked for.

    ``max_age`` is in seconds, None for a new restore point in any case; ``max_increments`` is how
    many may stand on a full one. No ``disks`` are all that a guest writes to. ``without`` are
    states that need not be kept: nvram, tpm.
    """

    type: str = AUTO
    max_age: int | None = None
    max_increments: int = 30
    disks: tuple[str, ...] = ()
    protected: bool = False
    quiesce: str = "preferred"
    freeze_timeout: int = 10
    flush_timeout: int = 0
    without: tuple[str, ...] = ()


def plan_backup(wish: BackupWish, vm: VmState) -> Plan:
    """Tidy up, and make a restore point unless there is one that is young enough."""
    known = backups_of(vm)
    young = _young(wish, vm, known)
    if young:
        note = f"{vm.name}: restore point {young.id} is young enough"
        return Plan(vm.name, (*_tidy(vm, known), *lost_bitmaps(vm, known)), (note,))
    _check_job(vm, known)
    step = _back_up(wish, vm, known)
    notes = tuple(state_notes(vm, known, wish.without))
    stale = () if step.how == OFF else tuple(_replaced(known))
    return Plan(vm.name, (*_tidy(vm, known), *lost_bitmaps(vm, known), step, *stale), notes)


def left_to_do(vm: VmState) -> Plan:
    """What a run should not have left."""
    return Plan(vm.name, tuple(_tidy(vm, backups_of(vm))))


def backups_of(vm: VmState) -> Backups:
    """What was seen of its restore points; a run about backups has looked."""
    if vm.backups is None:
        raise Problem(f"nobody has looked at the restore points of VM {vm.name}")
    return vm.backups


def _young(wish: BackupWish, vm: VmState, known: Backups) -> RestorePoint | None:
    """The newest restore point with all disks that are asked for, if it is young enough."""
    targets = [disk.target for disk in chosen(wish.disks, vm)[0]]
    newest = next((point for point in known.stock.good[::-1] if point.covers(targets)), None)
    taken = moment(newest.time) if newest else None
    if wish.max_age is None or taken is None:
        return None
    age = (known.now - taken).total_seconds()
    return newest if 0 <= age < wish.max_age else None


def _tidy(vm: VmState, known: Backups) -> Iterator[Step]:
    """What dead runs have left; a checkpoint can be dropped only while the VM runs."""
    if known.new:
        yield CreateRepository(known.stock.repository, known.repository_id)
    folder = _folder_of_job(known)
    if folder:
        yield EndBackup(folder)
    for path in known.stock.debris:
        yield RemoveDebris(path)
    if known.stopped and _had_begun(known):
        yield ResumeVm()
    if not vm.off:
        wanted = known.tracked.checkpoint if known.tracked else ""
        for name in known.ours:
            if name != wanted:
                yield DropCheckpoint(name, "no restore point needs it")


def _had_begun(known: Backups) -> bool:
    """Whether a dead run got as far as QEMU's job, which stops a guest where it has no room."""
    made = {known.prefix + posixpath.basename(path) for path in known.stock.debris}
    return bool(_folder_of_job(known)) or not made.isdisjoint(known.checkpoints)


def _folder_of_job(known: Backups) -> str:
    """The folder without a manifest that a running backup job writes to, '' for none."""
    folders = {posixpath.dirname(path) for path in known.job or ()}
    return next((path for path in known.stock.debris if folders == {path}), "")


def _check_job(vm: VmState, known: Backups) -> None:
    if known.job is not None and not _folder_of_job(known):
        raise Conflict(
            f"VM {vm.name} has a backup job of somebody else (it writes"
            f" {', '.join(known.job) or 'to nobody yet'})",
            wanted="to make a restore point",
            todo=f"let it end, or end it (virsh domjobabort {in_shell(vm.name)})",
        )


def _replaced(known: Backups) -> Iterator[Step]:
    if known.tracked:
        yield DropCheckpoint(known.tracked.checkpoint, "a newer restore point replaces it")


def _back_up(wish: BackupWish, vm: VmState, known: Backups) -> BackUp:
    disks, left_out = chosen(wish.disks, vm)
    for disk in disks:
        check_disk(vm, disk)
    parent, reason = _parent(wish, vm, known)
    copies = tuple(_copy(disk, parent, vm) for disk in disks)
    if parent and all(copy.type == FULL for copy in copies):
        reason = f"no disk can be incremental since {parent.id}"
        parent = None
    if parent is None and wish.type == INCREMENTAL:
        raise Conflict(
            f"VM {vm.name} cannot have an incremental restore point: {reason}",
            wanted="type: incremental",
            todo="use 'type: auto', which makes a full one where it must",
        )
    id = id_at(known.now, (*known.stock.broken, *(point.id for point in known.stock.points)))
    tracks = not vm.off and any(copy.tracked for copy in copies)
    quiesce = "never" if vm.off else wish.quiesce
    return BackUp(
        id=id,
        repository=known.stock.repository,
        directory=known.stock.directory,
        type=INCREMENTAL if parent else FULL,
        reason=reason,
        how=OFF if vm.off else RUNNING,
        copies=copies,
        parent=parent.id if parent else "",
        since=parent.checkpoint if parent and not vm.off else "",
        checkpoint=f"{known.prefix}{id}" if tracks else "",
        left_out=left_out,
        protected=wish.protected,
        time=in_utc(known.now),
        quiesce=quiesce,
        freeze_timeout=wish.freeze_timeout,
        flush_timeout=wish.flush_timeout if quiesce != "never" else 0,
        bytes=sum(allocated(disk) for disk, copy in zip(disks, copies) if copy.type == FULL),
    )


def _parent(wish: BackupWish, vm: VmState, known: Backups) -> tuple[RestorePoint | None, str]:
    """What the new restore point can stand on, or None; and why."""
    if wish.type == FULL:
        return None, "asked for"
    if not known.stock.points:
        return None, "the first restore point"
    if known.newest is None:
        last = known.stock.points[-1]
        return None, f"{last.id} would not restore: {known.stock.trouble_of(last)}"
    parent = known.newest if vm.off else known.tracked
    if parent is None:
        return (
            None,
            f"libvirt has no checkpoint of a restore point (the newest is {known.newest.id})",
        )
    trouble = known.stock.trouble_of(parent)
    if trouble:
        return None, f"{parent.id} would not restore: {trouble}"
    unsound = "" if vm.off else _without_bitmap(parent, vm) or known.unsound
    if unsound:
        return None, f"the bitmaps since {parent.id} cannot be used: {unsound}"
    depth = len(known.stock.lineage(parent))
    if depth > wish.max_increments:
        return None, f"{depth - 1} increments stand on the last full restore point"
    how = (
        "by comparison, since the VM is off" if vm.off else f"by the bitmaps of {parent.checkpoint}"
    )
    return parent, f"what has changed since {parent.id}, {how}"


def _copy(disk: DiskState, parent: RestorePoint | None, vm: VmState) -> DiskBackup:
    stored = parent.disk(disk.target) if parent else None
    size, file = size_of(disk), f"{disk.target}.qcow2"
    tracked = _tracked(disk)
    goes_on = (
        parent is not None
        and stored is not None
        and stored.virtual_size == size
        and (vm.off or (_was_tracked(stored, disk) and same_disk(disk, parent, vm)))
    )
    backing = f"../{parent.id}/{stored.file}" if parent and stored and goes_on else ""
    return DiskBackup(
        target=disk.target,
        source=disk.chain[0].filename,
        format=disk.chain[0].format,
        size=size,
        file=file,
        type=INCREMENTAL if backing else FULL,
        backing=backing,
        tracked=tracked,
    )


def _tracked(disk: DiskState) -> bool:
    """Whether its changes can be recorded: only qcow2 of version 3 has room for bitmaps."""
    top = disk.chain[0]
    return top.format == "qcow2" and top.header is not None and top.header.version >= 3


def _without_bitmap(parent: RestorePoint, vm: VmState) -> str:
    """What libvirt will have against them: it uses those of all disks, or none."""
    for disk in vm.writable:
        stored = parent.disk(disk.target)
        if stored and stored.tracked and disk.chain and not _tracked(disk):
            return f"{disk.target} is on {disk.files[0]} now, which holds none"
    return ""


def _was_tracked(stored: StoredDisk, disk: DiskState) -> bool:
    return stored.tracked and _tracked(disk)
