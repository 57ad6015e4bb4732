# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps of a plan, each proved and then marked in the journal.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import functools
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._model.domain import domain_with_sources
from .._model.problem import Conflict, Problem
from .._model.state import VmState
from .._model.step import (
    CommitDisk,
    CreateOverlay,
    DeleteInternal,
    ForgetSnapshot,
    RemoveFile,
    ResumeVm,
    RewriteSnapshot,
    SetSource,
    Step,
    TakeSnapshot,
)
from . import blockjob, qemu_img
from .connection import call, call_within
from .freeze import Guard
from .image_file import read_image
from .journal import Journal, fsync_directory
from .libvirt_dep import libvirt
from .observe import Host
from .removal import remove
from .snapshots import Taking, redefine, take_together

if TYPE_CHECKING:
    from .libvirt_dep import Domain

# virDomainPausedReason: unknown, user, migration, save, snapshot, failed API call. By number,
# since bindings lack the newer names. Not an I/O error, a watchdog or a crash.
_RESUMABLE = (0, 1, 2, 3, 9, 14)


@dataclass
class Work:
    """One VM in the hands of a run: what is to be done, how far it got, what to report.

    ``resumed`` steps clean up after a dead run; its journal, which lists other steps, is then
    not marked.
    """

    host: Host
    dom: Domain
    vm: VmState
    steps: tuple[Step, ...]
    journal: Journal
    resumed: bool = False
    next: int = 0
    report: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def advance(self) -> None:
        """The next step is done."""
        self.done(self.next)
        self.next += 1

    def done(self, index: int) -> None:
        """A step is done, perhaps before an earlier one."""
        if not self.resumed:
            self.journal.done(index)


def apply(work: Work, guard: Guard | None = None, *, until_point: bool = False) -> None:
    """Do the steps that are left, in order; with ``until_point`` stop before TakeSnapshot."""
    while work.next < len(work.steps):
        step = work.steps[work.next]
        if isinstance(step, TakeSnapshot):
            if until_point:
                return
            take([work], guard)
        elif isinstance(step, CommitDisk) and step.how != "offline":
            _commit_side_by_side(work)
        else:
            _do(step, work)
            work.advance()


def take(works: Sequence[Work], guard: Guard | None) -> None:
    """The point in time of one VM or of a group: each work stands before its TakeSnapshot."""
    takings = []
    for work in works:
        step = work.steps[work.next]
        if isinstance(step, TakeSnapshot):
            takings.append(Taking(work.dom, work.vm, step))
    if guard:
        guard.ready()
    try:
        take_together(takings, guard, works[0].host.timeout)
    finally:
        for work, taking in zip(works, takings):
            work.report["frozen_ms"] = taking.frozen_ms
            work.notes.extend(f"{work.vm.name}: {note}" for note in taking.notes)
    for work in works:
        work.advance()


def _commit_side_by_side(work: Work) -> None:
    """All block jobs that follow each other in the plan run together."""
    first = work.next
    batch: list[CommitDisk] = []
    for step in work.steps[first:]:
        if not isinstance(step, CommitDisk):
            break
        batch.append(step)
    started = time.monotonic()
    blockjob.commit(
        work.host.conn,
        work.dom,
        batch,
        started + work.host.timeout,
        lambda step: work.journal.mark(step.pivot_mark),
        lambda step: work.done(first + batch.index(step)),
    )
    work.next = first + len(batch)


@functools.singledispatch
def _do(step: Step, work: Work) -> None:
    """Do one step; there is an implementation for each kind."""
    raise TypeError(f"no way to do {step} of VM {work.vm.name}")


@_do.register
def _create_overlay(step: CreateOverlay, work: Work) -> None:
    owner = os.stat(step.backing)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(step.file, flags, 0o600)
    except FileExistsError as error:
        raise Conflict(
            f"{step.file} has appeared in the meantime",
            wanted=f"to create it as the overlay of disk {step.target} of VM {work.vm.name}",
            todo="run the task again to see what it is",
        ) from error
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        qemu_img.create_overlay(step.file, step.backing, step.backing_format, step.size)
        for name, granularity in step.bitmaps:
            qemu_img.bitmap_add(step.file, name, granularity)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fsync_directory(os.path.dirname(step.file))


@_do.register
def _commit_offline(step: CommitDisk, work: Work) -> None:
    """Offline: QEMU's own image locks keep the VM from starting meanwhile."""
    if call(f"reading VM {work.vm.name}", work.dom.isActive):
        raise Conflict(
            f"VM {work.vm.name} was started in the meantime",
            wanted="to commit its images while it is off",
            todo="run the task again",
        )
    known = {bitmap.name for bitmap in read_image(step.base, format=step.base_format).bitmaps}
    for image, bitmap, granularity in step.bitmaps:
        if bitmap not in known:
            qemu_img.bitmap_add(step.base, bitmap, granularity)
            known.add(bitmap)
        qemu_img.bitmap_merge(step.base, bitmap, image, bitmap)
    qemu_img.commit(
        step.top, step.base, rate_limit=step.bandwidth * 1024 * 1024, timeout=work.host.timeout
    )
    if step.overlay:
        qemu_img.rebase_unsafe(step.overlay, step.base, step.base_format)


@_do.register
def _set_source(step: SetSource, work: Work) -> None:
    doing = f"VM {work.vm.name}: pointing disk {step.target} at {step.new}"
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    xml = call(doing, work.dom.XMLDesc, flags)
    goes = (step.old, *step.gone)
    moved = domain_with_sources(xml, dict.fromkeys(goes, (step.new, step.format)))
    call(doing, work.host.conn.defineXML, moved)


@_do.register
def _rewrite_snapshot(step: RewriteSnapshot, work: Work) -> None:
    redefine(work.dom, step.name, sources=step.sources, without=step.without)


@_do.register
def _forget_snapshot(step: ForgetSnapshot, work: Work) -> None:
    doing = f"VM {work.vm.name}: forgetting snapshot {step.name}"
    found = call(doing, work.dom.snapshotLookupByName, step.name, 0)
    call(doing, found.delete, libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


@_do.register
def _delete_internal(step: DeleteInternal, work: Work) -> None:
    doing = f"VM {work.vm.name}: deleting internal snapshot {step.name}"
    found = call(doing, work.dom.snapshotLookupByName, step.name, 0)
    call_within(work.host.timeout, doing, found.delete, 0)
    for path in step.images:
        image = read_image(path, format="qcow2")
        if any(left.name == step.name for left in image.snapshots):
            raise Problem(
                f"image {path} of VM {work.vm.name} still holds snapshot {step.name} though"
                " libvirt says that it is deleted",
                wanted="an image without it",
                todo=f"stop the VM and run: qemu-img snapshot -d {step.name} {path}",
            )


@_do.register
def _remove_file(step: RemoveFile, work: Work) -> None:
    try:
        status = os.lstat(step.file)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        work.notes.append(f"{work.vm.name}: {step.file} is not a regular file and was left alone")
        return
    remove(step.file)


@_do.register
def _resume_vm(_step: ResumeVm, work: Work) -> None:
    """Only what such a run could have paused; a VM that hit an I/O error stays paused."""
    state, reason = call(f"reading VM {work.vm.name}", work.dom.state)
    if state == libvirt.VIR_DOMAIN_PAUSED and reason in _RESUMABLE:
        call(f"VM {work.vm.name}: resuming it", work.dom.resume)
