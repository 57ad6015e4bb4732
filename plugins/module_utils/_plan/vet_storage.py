# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holding the steps of the storage against facts, before anything is touched.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import replace

from .._model.problem import Conflict, Unsupported
from .._model.state import Facts, VmState
from .._model.step import Plan, RemoveStorage, RevertStorage, SnapshotStorage
from .._model.storage import BTRFS, LVM, REFLINK, Copy
from .._model.volume import Volume

_FULLEST_POOL = 95.0


def copies_in(
    plan: Plan, kind: type[SnapshotStorage | RemoveStorage | RevertStorage]
) -> tuple[Copy, ...]:
    """The copies that steps of this kind are about."""
    steps = [step for step in plan.steps if isinstance(step, kind)]
    return tuple(copy for step in steps for copy in step.copies)


def new_things(plan: Plan) -> Iterator[str]:
    """The files, subvolumes and volumes that must not exist before."""
    yield from (copy.made for copy in copies_in(plan, SnapshotStorage))
    for copy in _reverting(plan):
        yield from (copy.new, copy.old)


def _reverting(plan: Plan) -> tuple[Copy, ...]:
    """The copies that a plan begins to go back to, unlike what an earlier run has begun."""
    steps = (s for s in plan.steps if isinstance(s, RevertStorage) and not s.resume)
    return tuple(copy for step in steps for copy in step.copies)


def given_up(plan: Plan) -> tuple[str, ...]:
    """Images that are replaced or removed, which nobody else may stand on."""
    replaced = (copy.image for copy in copies_in(plan, RevertStorage))
    removed = (copy.file for copy in copies_in(plan, RemoveStorage))
    return (*replaced, *removed)


def without_leaving(plan: Plan, facts: Facts) -> Facts:
    """The facts without the images that go with a subvolume which the plan removes.

    It also has the overlays that the VM had while it was made, which stand on what is there now.
    """
    removed = [c.made for c in copies_in(plan, RemoveStorage) if c.backend == BTRFS]
    leaving = tuple(f"image {made.rstrip('/')}/" for made in removed)
    uses = tuple(use for use in facts.uses if not (leaving and use.user.startswith(leaving)))
    return replace(facts, uses=uses)


def clone_directories(plan: Plan) -> tuple[str, ...]:
    """The directories in which files have to share blocks."""
    cloned = [c.image for c in copies_in(plan, SnapshotStorage) if c.backend == REFLINK]
    cloned += [c.image for c in _reverting(plan) if c.backend != LVM]
    return tuple(dict.fromkeys(posixpath.dirname(path) for path in cloned))


def subvolumes(plan: Plan) -> tuple[str, ...]:
    """The subvolumes in which no other VM may have images."""
    found = (c.volume for c in copies_in(plan, SnapshotStorage) if c.backend == BTRFS)
    return tuple(dict.fromkeys(found))


def check_storage(plan: Plan, vm: VmState, facts: Facts, ours: frozenset[str]) -> None:
    """Raise Conflict or Unsupported where the storage is against the plan."""
    for thing in new_things(plan):
        _check_new(thing, vm, facts, ours)
    for directory in clone_directories(plan):
        trouble = facts.clones.get(directory, "")
        if trouble:
            raise Unsupported(
                f"files in {directory} cannot be cloned ({trouble})",
                wanted=f"a file system where files share blocks, for the images of VM {vm.name}",
                todo="keep them on XFS (made with reflink=1) or btrfs, or take a snapshot by"
                " libvirt (vm_snapshot)",
            )
    for use in facts.dwellers:
        raise Conflict(
            f"the subvolume {use.image} of VM {vm.name} holds {use.user} as well",
            wanted="a subvolume of its own for each VM whose snapshots are made by btrfs",
            todo="use 'backend: auto', or move the images to a subvolume of their own",
        )
    _check_volumes(plan, vm)


def _check_new(thing: str, vm: VmState, facts: Facts, ours: frozenset[str]) -> None:
    file = facts.files.get(thing)
    there = bool(file.kind) if file else vm.storage.volume(thing) is not None
    if there and thing not in ours:
        raise Conflict(
            f"{thing} exists already" + (f" ({file.kind}, {file.size} bytes)" if file else ""),
            wanted=f"to create it for VM {vm.name}",
            todo="move it away if it is not needed, or choose another snapshot name",
        )


def _check_volumes(plan: Plan, vm: VmState) -> None:
    taken = [copy for copy in copies_in(plan, SnapshotStorage) if copy.backend == LVM]
    for copy in taken:
        volume = vm.storage.volume(copy.volume)
        if volume and volume.merging:
            raise _busy(vm, copy, "a snapshot is being merged into it")
        pool = vm.storage.volume(volume.pool) if volume and volume.pool else None
        if pool and (pool.used or 0.0) > _FULLEST_POOL:
            raise Unsupported(
                f"the thin pool {pool.name} of VM {vm.name}, disk {copy.target}, is {pool.used} %"
                " full",
                wanted=f"at most {_FULLEST_POOL} %, since it has to take what is written from now"
                " on",
                todo="extend it (lvextend), or remove snapshots",
            )
    for group in dict.fromkeys(copy.volume.partition("/")[0] for copy in taken):
        _check_group(group, [c for c in taken if c.volume.startswith(f"{group}/")], vm)
    for copy in _reverting(plan):
        if copy.backend == LVM:
            _check_revert(copy, vm)


def _check_group(group: str, taken: list[Copy], vm: VmState) -> None:
    wanted = sum(copy.size for copy in taken)
    volume = vm.storage.volume(taken[0].volume)
    if volume and volume.free < wanted:
        raise Unsupported(
            f"the volume group {group} has {volume.free} bytes free",
            wanted=f"{wanted} bytes for what is written to VM {vm.name} from now on",
            todo="extend it (vgextend), or set a smaller 'cow_size'",
        )


def _check_revert(copy: Copy, vm: VmState) -> None:
    volume = vm.storage.volume(copy.volume)
    if volume is None or volume.merging or volume.is_open:
        why = "is gone" if volume is None else "is open" if volume.is_open else "is being merged"
        raise _busy(vm, copy, f"it {why}")
    if copy.is_merged:
        merged = vm.storage.volume(copy.made)
        for other in vm.storage.volumes:
            if other.origin == copy.volume and other.name != copy.made and not other.invalid:
                _check_overflow(copy, merged, other)


def _check_overflow(copy: Copy, merged: Volume | None, other: Volume) -> None:
    """A merge writes to the origin, and each other snapshot of it has to keep what was there."""
    if merged is None or other.thin:
        return
    coming = merged.size * (merged.used or 0.0)
    room = other.size * (100.0 - (other.used or 0.0))
    if coming > room:
        raise Unsupported(
            f"{other.name}, another snapshot of {copy.volume}, has room for {int(room / 100)} bytes"
            f" of changes, and going back may change {int(coming / 100)}",
            wanted="a snapshot that does not overflow, which would make it invalid",
            todo=f"extend it (lvextend {other.name}), or remove it",
        )


def _busy(vm: VmState, copy: Copy, why: str) -> Conflict:
    return Conflict(
        f"the logical volume {copy.volume} of VM {vm.name}, disk {copy.target}, cannot be worked"
        f" on: {why}",
        wanted="a volume that nobody uses",
        todo="look at it (lvs -a, dmsetup info) and run the task again",
    )
