# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps of a plan for an image, each proved by a second look.

QEMU's own locks keep a VM from starting on an image while qemu-img changes it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from .._model.image_state import ImageState
from .._model.image_step import (
    ApplyTag,
    CommitOverlay,
    CreateTag,
    DeleteTag,
    ImageStep,
    NewOverlay,
    Rebase,
    RemoveDraft,
    RemoveOverlay,
    Repair,
)
from .._model.problem import Conflict, Damaged, Problem
from .._model.qcow2_content import flagged_entries
from .._model.reference import shown
from . import qemu_img
from .durable import fsync_directory
from .image_bitmaps import carry_bitmaps, remove_bitmap
from .image_file import read_image
from .image_lock import unwritten
from .image_observe import ImageHost, draft_path
from .journal import Journal
from .removal import remove

MIB = 1 << 20


@dataclass
class ImageWork:
    """One image in the hands of a run: what is to be done, how far it got, what to tell.

    ``begun`` words the mark of a step that has begun. ``resumed`` steps clean up after a dead
    run; its journal, which lists other steps, is then not marked. ``untouched`` says of a step
    that has failed that it had not changed anything yet.
    """

    host: ImageHost
    state: ImageState
    steps: tuple[ImageStep, ...]
    journal: Journal
    begun: Callable[[int], str]
    resumed: bool = False
    next: int = 0
    untouched: bool = False
    notes: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Note that the next step has begun, after which it can only be finished."""
        if not self.resumed:
            self.journal.mark(self.begun(self.next))

    def advance(self) -> None:
        """The next step is done. The last one needs no mark: the journal is closed after it."""
        self.next += 1
        if not self.resumed and self.next < len(self.steps):
            self.journal.done(self.next - 1)

    def heard(self, lines: tuple[str, ...]) -> None:
        """Keep what qemu-img has to say although it succeeded."""
        self.notes.extend(f"{self.state.path}: {line}" for line in lines)


def apply_steps(work: ImageWork) -> None:
    """Do the steps that are left, in order. Raises Problem."""
    while work.next < len(work.steps):
        try:
            _do(work.steps[work.next], work)
        except OSError as error:
            name = shown(work.state.path)
            raise Problem(f"{name}: {work.steps[work.next].step}: {error.strerror}") from error
        work.advance()


@functools.singledispatch
def _do(step: ImageStep, work: ImageWork) -> None:
    """Do one step; there is an implementation for each kind."""
    raise TypeError(f"no way to do {step} of {work.state.path}")


@_do.register
def _create_tag(step: CreateTag, work: ImageWork) -> None:
    path = work.state.real
    before = _ids(path)
    work.heard(qemu_img.snapshot_create(path, step.name, timeout=work.host.timeout))
    new = _ids(path).items() - before.items()
    if [name for _id, name in new] != [step.name]:
        raise _unproven(path, f"the new snapshot {shown(step.name)}", f"{sorted(new)} is new")
    _sync(path)


@_do.register
def _delete_tag(step: DeleteTag, work: ImageWork) -> None:
    path = work.state.real
    before = _ids(path)
    work.heard(qemu_img.snapshot_delete(path, step.name, timeout=work.host.timeout))
    gone = before.items() - _ids(path).items()
    if gone != {(step.id, step.name)}:
        raise _unproven(path, f"to lose snapshot {shown(step.id)} alone", f"it lost {sorted(gone)}")
    _sync(path)


@_do.register
def _apply_tag(step: ApplyTag, work: ImageWork) -> None:
    path = work.state.real
    work.begin()
    for bitmap in read_image(path, format="qcow2").bitmaps if step.bitmaps else ():
        work.heard(remove_bitmap(path, bitmap.name) if bitmap.name in step.bitmaps else ())
    _unflag(path, step.id)
    work.heard(qemu_img.snapshot_apply(path, step.id, timeout=work.host.timeout))
    _sync(path)


def _unflag(path: str, tag: str) -> None:
    """Let a qemu-img that is killed leave a snapshot that nobody can damage (flagged_entries)."""
    with unwritten(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            length = os.lseek(descriptor, 0, os.SEEK_END)
            entries = flagged_entries(
                lambda offset, size: os.pread(descriptor, size, offset), length, tag
            )
            for offset, byte in entries:
                os.pwrite(descriptor, byte, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@_do.register
def _new_overlay(step: NewOverlay, work: ImageWork) -> None:
    """The overlay gets its name when it is complete, and never that of a file that is there."""
    path, draft = work.state.real, draft_path(work.state.real)
    base = os.stat(step.backing)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if (step.owner, step.group) != (None, None) or os.geteuid() == 0:
            owner = base.st_uid if step.owner is None else step.owner
            group = base.st_gid if step.group is None else step.group
            os.fchown(descriptor, owner, group)
        os.fchmod(descriptor, step.mode)
        work.heard(qemu_img.create_overlay(draft, step.backing, step.backing_format, step.size))
        os.fsync(descriptor)
        _give_name(draft, path)
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
    fsync_directory(os.path.dirname(path))


def _give_name(draft: str, path: str) -> None:
    try:
        os.link(draft, path, follow_symlinks=False)
    except FileExistsError as error:
        raise Conflict(
            f"{shown(path)} has appeared in the meantime",
            wanted="to create it as an overlay",
            todo="run the task again to see what it is",
        ) from error


@_do.register
def _rebase(step: Rebase, work: ImageWork) -> None:
    path = work.state.real
    if step.copy:
        heard = qemu_img.rebase(path, step.backing, step.backing_format, timeout=work.host.timeout)
    else:
        heard = qemu_img.rebase_unsafe(path, step.backing, step.backing_format)
    work.heard(heard)
    image = read_image(path, format="qcow2", snapshots=False)
    found = (image.backing_filename, image.backing_format)
    if found != (step.backing, step.backing_format):
        raise _unproven(path, f"to stand on {shown(step.backing)}", f"its header says {found}")
    _sync(path)


@_do.register
def _commit_overlay(step: CommitOverlay, work: ImageWork) -> None:
    path = work.state.real
    work.begin()
    carry_bitmaps(step.base, path, [(path, *bitmap) for bitmap in step.bitmaps])
    rate = step.bandwidth * MIB if step.bandwidth else None
    written = os.stat(step.base).st_mtime_ns
    try:
        work.heard(qemu_img.commit(path, step.base, rate_limit=rate, timeout=work.host.timeout))
    except Problem:
        work.untouched = os.stat(step.base).st_mtime_ns == written
        raise
    _sync(step.base)
    _check_committed(step, path)


def _check_committed(step: CommitOverlay, path: str) -> None:
    base = read_image(step.base, format=step.base_format)
    kept = {bitmap.name for bitmap in base.bitmaps}
    lost = [name for name, _granularity, _auto in step.bitmaps if name not in kept]
    size = read_image(path, format="qcow2", snapshots=False).virtual_size
    if lost or base.virtual_size != size:
        found = f"it has {base.virtual_size} bytes, and lacks the bitmaps {lost}"
        raise _unproven(step.base, f"{size} bytes and all bitmaps of {shown(path)}", found)


@_do.register
def _remove_overlay(step: RemoveOverlay, work: ImageWork) -> None:
    """Nobody opens it for writing between the comparison and its end."""
    path = work.state.real
    with unwritten(path) as descriptor:
        if os.fstat(descriptor).st_ino != step.inode:
            raise Conflict(
                f"{shown(path)} has been replaced in the meantime",
                wanted="to remove the overlay that was there",
                todo="run the task again to see what it is",
            )
        if step.same_as and not qemu_img.same_content(
            path, "qcow2", step.same_as, step.same_as_format, timeout=work.host.timeout
        ):
            raise _unproven(step.same_as, f"all content of {shown(path)}", "they differ")
        remove(path)


@_do.register
def _remove_draft(step: RemoveDraft, _work: ImageWork) -> None:
    with contextlib.suppress(FileNotFoundError):
        remove(step.file)


@_do.register
def _repair(step: Repair, work: ImageWork) -> None:
    """A lazy writer's counts have to be made anew; else only what is not used is given back."""
    image = read_image(step.file, format="qcow2")
    found = qemu_img.repair(step.file, everything=image.dirty, timeout=work.host.timeout)
    if found != "clean":
        raise Damaged(
            f"{shown(step.file)} is not sound after an interrupted run, a check finds: {found}",
            wanted="a sound image",
            todo="look at it with qemu-img check, then mend it (qemu-img check -r all)",
        )
    _sync(step.file)


def _ids(path: str) -> dict[str, str]:
    """id -> name of the snapshots in an image."""
    return {each.id: each.name for each in read_image(path, format="qcow2").snapshots}


def _unproven(path: str, wanted: str, found: str) -> Problem:
    return Problem(
        f"{shown(path)} is not as wanted although qemu-img reported success: {found}",
        wanted=wanted,
        todo="nothing was deleted after that; look at it with qcow2_info",
    )


def _sync(path: str) -> None:
    """Make what qemu-img wrote durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
