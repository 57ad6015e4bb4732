# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps that put the memory of a VM into a file, or let it go on from there.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import time

from .._model.problem import Conflict, Problem, TimedOut, Unreachable
from .._model.save import COMPLETE
from .._model.step import RecordSave, RemoveSave, RestoreSave, SaveMemory
from .connection import call, call_within, wait_idle
from .durable import fsync_directory
from .libvirt_dep import libvirt
from .removal import remove
from .save_file import forget_save, read_save, record_save, save_at
from .work import Work, do

# An aborted save ends as soon as QEMU has written what is on its way.
_ABORT_SECONDS = 60.0
# virDomainState: running, blocked.
_RUNNING = (1, 2)


@do.register
def _save_memory(step: SaveMemory, work: Work) -> None:
    doing = f"VM {work.vm.name}: saving its memory"
    try:
        if step.managed:
            call_within(work.host.timeout, doing, work.dom.managedSave, 0)
        else:
            _create(step.file, work)
            call_within(work.host.timeout, doing, work.dom.save, step.file)
    except TimedOut:
        _abort(work)
        raise
    except Unreachable:
        raise
    except Problem as problem:
        if not _is_saved(step, work):
            raise
        note = f"its memory is saved although libvirt reported an error: {problem.found}"
        work.notes.append(f"{work.vm.name}: {note}")
    if not _is_saved(step, work):
        raise Problem(
            f"libvirt says that the memory of VM {work.vm.name} is saved, and it is not",
            wanted="a complete save, and a VM that is off",
            todo="look at QEMU's log of this VM",
        )
    _make_durable(step.file)
    record_save(work.host, work.vm.uuid, step.file, managed=step.managed)


def _create(path: str, work: Work) -> None:
    """Create the file that libvirt then writes to, so that nothing can be written over."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(path, flags, 0o600))
    except FileExistsError as error:
        raise Conflict(
            f"{path} has appeared in the meantime",
            wanted=f"to save the memory of VM {work.vm.name} there",
            todo="run the task again to see what it is",
        ) from error


def _abort(work: Work) -> None:
    """Let the VM go on where its memory takes too long to write."""
    with contextlib.suppress(libvirt.libvirtError):
        work.dom.abortJob()
    wait_idle(work.dom, time.monotonic() + _ABORT_SECONDS)


def _is_saved(step: SaveMemory, work: Work) -> bool:
    doing = f"VM {work.vm.name}: looking what came of its save"
    if call(doing, work.dom.isActive):
        return False
    if step.managed:
        return bool(call(doing, work.dom.hasManagedSaveImage, 0))
    save = read_save(work.host, work.vm.uuid, step.file)
    return save is not None and save.kind == COMPLETE


def _make_durable(path: str) -> None:
    """libvirt does not see to it that a save survives a power cut."""
    if not path:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fsync_directory(os.path.dirname(path))


@do.register
def _restore_save(step: RestoreSave, work: Work) -> None:
    """libvirt removes a managed save by itself once the VM runs."""
    where = "its managed save" if step.managed else step.file
    doing = f"VM {work.vm.name}: letting it go on from {where}"
    try:
        if step.managed:
            call_within(work.host.timeout, doing, work.dom.createWithFlags, 0)
        else:
            flags = libvirt.VIR_DOMAIN_SAVE_RUNNING
            restore = work.host.conn.restoreFlags
            call_within(work.host.timeout, doing, restore, step.file, None, flags)
    except Unreachable:
        raise
    except Problem as problem:
        if isinstance(problem, TimedOut) or not call(doing, work.dom.isActive):
            raise
        work.notes.append(f"{work.vm.name}: it runs although libvirt said: {problem.found}")
    if call(doing, work.dom.state)[0] == libvirt.VIR_DOMAIN_PAUSED:
        call(doing, work.dom.resume)
    forget_save(work.host, work.vm.uuid)


@do.register
def _remove_save(step: RemoveSave, work: Work) -> None:
    """Never the only copy: a complete save goes only when the VM runs."""
    save = save_at(work.host, work.vm, step.file)
    doing = f"VM {work.vm.name}: removing {step.file or 'its managed save'}, {step.why}"
    running = call(doing, work.dom.state)[0] in _RUNNING
    if save and save.kind == COMPLETE and save.of(work.vm.uuid) and not running:
        raise Problem(
            f"VM {work.vm.name} does not run, and {step.file or 'its managed save'} is a complete"
            " save of its memory",
            wanted=f"to remove it: {step.why}",
            todo="let the VM go on from it (vm_memory with 'state: running')",
        )
    if step.managed:
        if call(doing, work.dom.hasManagedSaveImage, 0):
            call(doing, work.dom.managedSaveRemove, 0)
    elif save and not save.of(work.vm.uuid) and os.path.getsize(step.file):
        work.notes.append(f"{work.vm.name}: {step.file} is none of its saves and was left alone")
    elif save:
        remove(step.file)
    forget_save(work.host, work.vm.uuid)


@do.register
def _record_save(step: RecordSave, work: Work) -> None:
    _make_durable(step.file)
    record_save(work.host, work.vm.uuid, step.file, managed=step.managed)
