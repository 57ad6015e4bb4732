# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finishing what a dead run had begun, or bringing in order what it had done of it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from .._model.snapshot_steps import displaced
from .._model.state import VmState
from .._model.step import (
    CommitDisk,
    DeleteInternal,
    ForgetSnapshot,
    PullDisk,
    RemoveFile,
    RewriteSnapshot,
    SetSource,
    Step,
)
from .left import Left, merge_again, unknown, was_merged
from .merge import consequences, moved_sources
from .pull import pull_consequences, pull_sources, still_between
from .recover_pull import pull_again
from .recover_storage import storage_as_of_now


def finish_all(left: Left, vm: VmState) -> Iterator[Step]:
    """The steps of the dead run that are still to be done, merges as they have to be done now."""
    merging: set[str] = set()
    lost = unknown(left, vm)
    for step, done in zip(left.steps, left.done):
        yield from storage_as_of_now(step, left, vm, done=done)
        if isinstance(step, CommitDisk):
            again = merge_again(step, vm)
            if again is not None:
                merging.update((step.target, *again.merged))
                yield again
                yield from moved_sources(vm, [again])
            continue
        if isinstance(step, PullDisk):
            once_more = pull_again(step, vm, left, done=done)
            if once_more is not None:
                merging.update((step.target, *once_more.pulled))
                yield once_more
                yield from pull_sources(vm, [once_more])
            continue
        if isinstance(step, ForgetSnapshot) and not done:
            yield from _put_right(step, left, vm)
        step = _as_of_now(step, vm, lost)
        if _still_needed(step, vm, left.existing - lost, merging):
            yield step


def _as_of_now(step: Step, vm: VmState, lost: frozenset[str]) -> Step:
    """A step without what has lost its ground: disks may have gone since it was planned."""
    if isinstance(step, RewriteSnapshot):
        return replace(step, sources=tuple(s for s in step.sources if s[0] not in lost))
    if isinstance(step, DeleteInternal):
        return replace(step, images=tuple(path for path in step.images if vm.in_a_chain(path)))
    return step


def close_up(left: Left, vm: VmState) -> Iterator[Step]:
    """What follows from the merges that were done, as if only they had been asked for."""
    finished = [
        step
        for step, done in zip(left.steps, left.done)
        if isinstance(step, CommitDisk) and was_merged(step, vm, left, done=done)
    ]
    for step, done in zip(left.steps, left.done):
        yield from storage_as_of_now(step, left, vm, done=done)
    pulls, pulled = _pulled(left, vm)
    yield from pulls
    for step, done in zip(left.steps, left.done):
        if isinstance(step, ForgetSnapshot) and not done:
            yield from _put_right(step, left, vm)
    following = (*consequences(vm, finished), *pull_consequences(vm, pulled))
    for after in (*following, *_orphaned(left, vm, finished, following)):
        if not isinstance(after, RemoveFile) or after.file in left.existing:
            yield after


def _put_right(step: ForgetSnapshot, left: Left, vm: VmState) -> Iterator[RewriteSnapshot]:
    """libvirt had forgotten it, and the others name what it went back to (see `displaced`)."""
    points = step.noted(left.marks)
    for snapshot in vm.snapshots:
        sources = displaced(snapshot, points)
        if sources:
            yield RewriteSnapshot(snapshot.name, sources)


def _orphaned(
    left: Left, vm: VmState, finished: Collection[Step], following: Collection[Step]
) -> Iterator[RemoveFile]:
    """The files that nobody would know of any more, once all their snapshots are gone."""
    merges = [step for step in left.steps if isinstance(step, CommitDisk)]
    forgotten = {step.name for step in following if isinstance(step, ForgetSnapshot)}
    doomed = {s.name for s in left.steps if isinstance(s, (ForgetSnapshot, DeleteInternal))}
    if any(vm.snapshot(name) for name in doomed - forgotten) or len(merges) > len(finished):
        return
    known = {step.file for step in following if isinstance(step, RemoveFile)} | unknown(left, vm)
    for step, done in zip(left.steps, left.done):
        if isinstance(step, RemoveFile) and doomed and not done and step.file not in known:
            yield from () if vm.in_a_chain(step.file) else (step,)


def _pulled(left: Left, vm: VmState) -> tuple[list[PullDisk], list[PullDisk]]:
    """Pulls that have ended and must be made sure of, and all that then are done."""
    doubtful: list[PullDisk] = []
    finished: list[PullDisk] = []
    for step, done in zip(left.steps, left.done):
        if isinstance(step, PullDisk) and still_between(step, vm) == ():
            again = pull_again(step, vm, left, done=done)
            doubtful.extend([again] if again else [])
            finished.append(step)
    return doubtful, finished


def _still_needed(step: Step, vm: VmState, existing: frozenset[str], merging: set[str]) -> bool:
    if isinstance(step, SetSource):
        disk = vm.disk(step.target)
        if disk is None or disk.persistent != step.old or step.target in merging:
            return False
        return step.old != step.new or any(path in step.gone for path in disk.recorded)
    if isinstance(step, (ForgetSnapshot, DeleteInternal)):
        return vm.snapshot(step.name) is not None
    if isinstance(step, RewriteSnapshot):
        return _rewrite_needed(step, vm)
    if isinstance(step, RemoveFile):
        return step.file in existing and (step.file in merging or not vm.in_a_chain(step.file))
    return False


def _rewrite_needed(step: RewriteSnapshot, vm: VmState) -> bool:
    snapshot = vm.snapshot(step.name)
    if snapshot is None:
        return False
    stale = any(old in snapshot.named for old, _new, _format in step.sources)
    moved = any(snapshot.overlays.get(target, file) != file for target, file in step.files)
    heir = not set(step.former).issubset(snapshot.former)
    return stale or moved or heir or any(target in snapshot.overlays for target in step.without)
