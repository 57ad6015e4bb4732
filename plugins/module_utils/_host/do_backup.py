# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making restore points, and tidying up after runs that died while they did.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from .._model.backup import IMAGE, Parent, RestorePoint, StoredDisk, StoredFile, in_utc
from .._model.backup_steps import OFF, BackUp, DiskBackup, DropCheckpoint, EndBackup, RemoveBitmap
from .._model.backups import Backups
from .._model.problem import Problem, TimedOut
from .._model.snapshot import CRASH, FILESYSTEM, OFFLINE
from .._model.state import VmState
from .._model.step import ResumeVm, Step
from .._model.stock_step import RemoveDebris
from . import backup_bitmaps, backup_hold, backup_job, io_error, repository_write
from .backup_files import copy_images, new_images, other_files
from .backups import written_by_job
from .checkpoints import drop_checkpoint
from .connection import call, check_off
from .digest import stored_file
from .digest_beside import all_written_out
from .freeze import Guard
from .hold import recorded
from .image_file import read_image
from .image_lock import all_unwritten
from .quiesce import points_now, quiesced
from .stamp import start_of
from .under_way import PROGRESS
from .write_out import WriteOut, write_out

if TYPE_CHECKING:
    from .libvirt_dep import Domain
    from .observe import Host

_WHILE_OFF = "to copy its images while it is off"


@dataclass
class Making:
    """A restore point in the making, and how it goes."""

    host: Host
    dom: Domain
    vm: VmState
    known: Backups
    step: BackUp
    guard: Guard | None = None
    started: float = field(default_factory=time.time)
    consistency: str = ""
    frozen_ms: int = 0
    flush_ms: int = 0
    versions: tuple[str, str] = ("", "")
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> str:
        return os.path.join(self.step.directory, self.step.id)

    @property
    def parent(self) -> RestorePoint | None:
        return self.known.stock.point(self.step.parent)


def make(making: Making) -> RestorePoint:
    """Make the restore point. Where that fails nothing of it is left, and the others are good."""
    step = making.step
    try:
        repository_write.new_folder(step.directory, step.id)
        making.versions = _versions(making.host)
        others = list(other_files(making.dom, making.vm, making.known, making.folder))
        if step.how == OFF:
            _copy(making)
        else:
            new_images(step)
            _by_libvirt(making)
        return repository_write.commit(step.directory, _point(making, others))
    except OSError as error:
        _undo(making)
        raise Problem(
            f"the restore point {step.id} of VM {making.vm.name} cannot be written to"
            f" {step.repository}: {error.strerror}",
            wanted="a complete restore point",
            todo="look at the free space and the mount of the repository, then run the task again",
        ) from error
    except Problem:
        _undo(making)
        raise


def _copy(making: Making) -> None:
    """QEMU's own image locks keep the VM off meanwhile."""
    chains = [image.filename for disk in making.vm.disks for image in disk.chain]
    check_off(making.dom, _WHILE_OFF)
    depth = len(making.known.stock.lineage(making.parent)) if making.parent else 1
    with all_unwritten(chains):
        copy_images(making.step, depth, making.host.timeout)
    check_off(making.dom, _WHILE_OFF)
    making.consistency = CRASH if making.known.saved else OFFLINE


def _by_libvirt(making: Making) -> None:
    host, dom, step = making.host, making.dom, making.step
    xml = (
        backup_job.backup_xml(step),
        backup_job.checkpoint_xml(step, start_of(making.vm.live.number)),
    )
    _write_out(making)
    deadline = time.monotonic() + host.timeout
    if making.guard:
        making.guard.ready()
    made = backup_hold.hold(dom, making.vm, step)
    with backup_job.listening(host, dom) as bell:
        _begin(making, xml)
        backup_hold.top_up(dom, made)
        with all_written_out(backup_job.paths_of(step)):
            making.host, making.dom = backup_job.await_end(
                host, dom, step, bell, deadline, lambda dom: _harm(dom, made)
            )
            backup_job.released(step)
    backup_hold.release(step)
    _relieve(making, made)


def _relieve(making: Making, made: backup_hold.Hold) -> None:
    """Let a guest go on that the job has stopped, and that was not seen before the job was over.

    Raises Problem where it would soon stop again: without the restore point it has more room.
    """
    dom, vm = making.dom, making.vm
    if not made.free or vm.status != "running" or not io_error.stopped(dom):
        return
    if why := backup_hold.starved(made):
        raise Problem(
            f"VM {vm.name}: the backup {making.step.id} was given up, since an I/O error has"
            f" paused the guest: {why}",
            wanted="a backup that the guest does not notice",
            todo="make room, then run the task again; the restore points that there are stay good",
        )
    making.notes.extend(filter(None, [io_error.relieve(dom, vm)]))


def _harm(dom: Domain, made: backup_hold.Hold) -> str:
    """Why the job must not go on; only where it can do harm, since it could not hold its room."""
    if made.free and io_error.stopped(dom):
        return "an I/O error has paused the guest"
    return backup_hold.trouble(made)


def _write_out(making: Making) -> None:
    """Let the guest write out while it goes on."""
    part = WriteOut(making.dom, min(making.step.flush_timeout, making.host.timeout))
    write_out([part])
    making.flush_ms = part.milliseconds
    making.notes.extend(part.notes)


def _begin(making: Making, xml: tuple[str, str | None]) -> None:
    """The point in time. Everything that it needs is there; the guest thaws right after it."""
    host, dom, step = making.host, making.dom, making.step
    still = quiesced(dom, making.guard, step, making.notes, points_now(dom, step))
    with recorded(host, making.vm.uuid, step), still as freeze:
        told = backup_job.begin(dom, step, xml, host.timeout)
        lapsed = freeze is not None and freeze.lapsed()
    making.notes.extend(filter(None, [told]))
    making.consistency = CRASH
    if freeze is None:
        return
    making.frozen_ms = freeze.milliseconds
    if freeze.thawed and not lapsed:
        making.consistency = FILESYSTEM
        return
    why = f"thawed, after {step.freeze_timeout} s or by somebody else, before the backup had begun"
    if step.quiesce == "required":
        raise TimedOut(
            f"VM {making.vm.name} was {why}",
            wanted="a quiesced restore point",
            todo="raise 'freeze_timeout', or look why it took so long and who thaws",
        )
    making.notes.append(f"not quiesced: {why}")


def _point(making: Making, others: Sequence[tuple[str, str]]) -> RestorePoint:
    """What the manifest will say, from what is on the disk."""
    step, vm, parent = making.step, making.vm, making.parent
    disks = tuple(_stored(making, copy) for copy in step.copies)
    files = _files(making.folder, [(disk.file, IMAGE) for disk in disks] + list(others))
    finished = time.time()
    return RestorePoint(
        id=step.id,
        vm=vm.name,
        uuid=vm.uuid,
        sequence=making.known.stock.next_sequence,
        time=step.time,
        type=step.type,
        reason=step.reason,
        consistency=making.consistency,
        files=files,
        disks=disks,
        started=_time(making.started),
        finished=_time(finished),
        seconds=round(finished - making.started, 3),
        frozen_ms=making.frozen_ms,
        flush_ms=making.flush_ms,
        parent=Parent(parent.id, parent.digest) if parent else None,
        checkpoint=step.checkpoint,
        left_out=step.left_out,
        protected=step.protected,
        libvirt=making.versions[0],
        qemu=making.versions[1],
    )


def _stored(making: Making, copy: DiskBackup) -> StoredDisk:
    """A disk of the restore point, after a look at its image."""
    image = read_image(os.path.join(making.folder, copy.file), format="qcow2")
    found = (image.virtual_size, image.backing_filename or "")
    if found != (copy.size, copy.backing) or image.corrupt:
        raise Problem(
            f"{image.filename} has {found[0]} bytes and stands on {found[1] or 'nothing'}"
            + (", and QEMU found it corrupt" if image.corrupt else ""),
            wanted=f"{copy.size} bytes on {copy.backing or 'nothing'}",
            todo="look at QEMU's log of this VM, then run the task again",
        )
    tracked = copy.tracked and bool(making.step.checkpoint)
    return StoredDisk(
        copy.target, copy.file, copy.type, copy.format, copy.size, copy.source, tracked
    )


def _files(folder: str, names: Sequence[tuple[str, str]]) -> tuple[StoredFile, ...]:
    """All files, on disk and with their digests; ours again where QEMU was another user."""
    for name, _role in names:
        if os.geteuid() == 0:
            os.chown(os.path.join(folder, name), 0, 0, follow_symlinks=False)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, PROGRESS))
    with ThreadPoolExecutor(max_workers=2) as pool:
        return tuple(pool.map(lambda entry: stored_file(folder, *entry), names))


def _time(seconds: float) -> str:
    return in_utc(datetime.fromtimestamp(seconds, timezone.utc))


def _versions(host: Host) -> tuple[str, str]:
    """Those of libvirt and QEMU."""
    doing = "asking for versions"
    numbers = call(doing, host.conn.getLibVersion), call(doing, host.conn.getVersion)
    return _version(numbers[0]), _version(numbers[1])


def _version(number: int) -> str:
    """libvirt's number of a version as people write it."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _undo(making: Making) -> None:
    """Leave nothing of a restore point that failed; what cannot be undone now the next run does."""
    dom, step = making.dom, making.step
    with contextlib.suppress(Problem):
        if written_by_job(dom) == backup_job.paths_of(step):
            backup_job.end(dom)
    with contextlib.suppress(Problem, OSError):
        repository_write.remove_point(step.directory, step.id)
    with contextlib.suppress(Problem, OSError):
        if making.vm.status == "running":
            making.notes.extend(filter(None, [io_error.relieve(dom, making.vm)]))
    with contextlib.suppress(Problem):
        if step.checkpoint and backup_job.runs(dom):
            drop_checkpoint(dom, step.checkpoint)


def tidy(dom: Domain, vm: VmState, step: Step) -> str:
    """Do a step that is not the backup itself; what there is to tell, or ''."""
    if isinstance(step, EndBackup):
        backup_job.end(dom)
    elif isinstance(step, RemoveDebris):
        repository_write.remove_debris(step.path)
    elif isinstance(step, DropCheckpoint):
        return drop_checkpoint(dom, step.name)
    elif isinstance(step, ResumeVm):
        return f"{vm.name}: {io_error.let_go_on(dom, vm)}"
    elif isinstance(step, RemoveBitmap):
        backup_bitmaps.remove(dom, step)
    return ""
