# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holding room for the backup of a running VM, so that it cannot stop the guest.

Before QEMU lets a guest write over what is not copied yet, it copies that. Where the copy finds no
room, the guest's own write fails with the same error, and QEMU pauses the guest. So the file system
gives all blocks to the new images before the job begins, beyond their ends, where nobody sees them
(fallocate(2)). Nothing has to be watched for that, and it holds when we are killed.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._model.backup import INCREMENTAL
from .._model.backup_steps import BackUp
from .._model.problem import Unsupported
from .._model.state import VmState
from .backup_job import paths_of
from .backup_room import allocated, backup_rooms, left_to_guests

if TYPE_CHECKING:
    from .libvirt_dep import Domain

_KEEP_SIZE = 1
_NOT_THERE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
# What a guest may write between the first look and the point in time.
_SPARE = 16 << 20
# What is to stay free where nothing can be held.
_UNHELD = 64 << 20


@dataclass(frozen=True)
class Hold:
    """Room for the images of a step: ``rooms`` by target (see backup_rooms), ``before`` what the
    active images took then. ``free`` are the bytes that have to stay free beside it, ``own`` those
    of them that the guest's own images may need, with and without the job.
    """

    vm: VmState
    step: BackUp
    rooms: Mapping[str, int]
    before: Mapping[str, int]
    free: int
    own: int


def hold(dom: Domain, vm: VmState, step: BackUp) -> Hold:
    """Get the room, before the job begins. Unsupported where there is not enough."""
    before = {copy.target: _active(vm, copy.target) for copy in step.copies}
    rooms = backup_rooms(dom, vm, step)
    spare = _SPARE // len(step.copies)
    held = _take(vm, step, {target: size + spare for target, size in rooms.items()})
    held = held and len(rooms) == len(step.copies)  # else libvirt could not tell
    own = left_to_guests(vm, step.repository)
    made = Hold(vm, step, rooms, before, own if held else max(own, _UNHELD), own)
    if _free(step) < made.free:
        raise _too_little(vm, step, made.free)
    return made


def top_up(dom: Domain, made: Hold) -> None:
    """Get what the guest wrote until the point in time, right after that."""
    now = backup_rooms(dom, made.vm, made.step) if made.step.since else {}
    rooms = {}
    for copy in made.step.copies:
        size = made.rooms.get(copy.target, 0)
        if copy.type == INCREMENTAL:
            rooms[copy.target] = max(size, now.get(copy.target, 0))
        else:
            grown = _active(made.vm, copy.target) - made.before[copy.target]
            rooms[copy.target] = size + max(0, grown)
    _take(made.vm, made.step, rooms)


def trouble(made: Hold) -> str:
    """Why the job cannot go on without harm to the guest, '' while it can."""
    return _lacks(made.step, made.free)


def starved(made: Hold) -> str:
    """The same once the job is over, and has given back what it did not need."""
    return _lacks(made.step, made.own)


def _lacks(step: BackUp, wanted: int) -> str:
    free = _free(step)
    if free >= wanted // 2:
        return ""
    return f"only {free} bytes are left in {step.repository}, and the guest may need them"


def release(step: BackUp) -> None:
    """Give back what the images did not need; nobody writes to them any more.

    A journaling file system has it for the manifest only once that is on the disk.
    """
    for path in paths_of(step):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _take(vm: VmState, step: BackUp, rooms: Mapping[str, int]) -> bool:
    """Whether the file system has given the room, or cannot give any."""
    for copy, path in zip(step.copies, paths_of(step)):
        failure = _allocate(path, rooms.get(copy.target, 0))
        if failure in _NOT_THERE:
            return False
        if failure in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _too_little(vm, step, sum(rooms.values()))
        if failure:
            raise OSError(failure, os.strerror(failure), path)
    return True


def _allocate(path: str, size: int) -> int:
    """Have the first ``size`` bytes allocated, whatever the length; an errno, 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while size > 0 and fallocate(descriptor, _KEEP_SIZE, 0, size):
            if ctypes.get_errno() != errno.EINTR:
                return ctypes.get_errno()
    finally:
        os.close(descriptor)
    return 0


def _active(vm: VmState, target: str) -> int:
    disk = vm.disk(target)
    return allocated(disk.chain[:1]) if disk else 0


def _free(step: BackUp) -> int:
    space = os.statvfs(step.repository)
    return space.f_bavail * space.f_frsize


def _too_little(vm: VmState, step: BackUp, wanted: int) -> Unsupported:
    return Unsupported(
        f"{step.repository} has {_free(step)} bytes free, or the quota has",
        wanted=f"at least {wanted} bytes for VM {vm.name}, held before the backup begins",
        todo="free space there, or choose another place",
    )
