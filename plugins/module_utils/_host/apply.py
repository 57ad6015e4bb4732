# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps of a plan, each proved and then marked in the journal.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from .._model.step import CommitDisk, PullDisk, ResumeVm, Step, TakeSnapshot
from . import (
    blockjob,
    do_checkpoints,
    do_images,
    do_memory,
    do_power,
    do_records,
    do_storage,
    do_storage_revert,
)
from .freeze import Guard
from .snapshots import Taking, take_together
from .work import Work, do

DOERS = (
    do_checkpoints,
    do_images,
    do_memory,
    do_power,
    do_records,
    do_storage,
    do_storage_revert,
)
"""What has to be loaded to do steps: each registers how to do some of them."""


def apply(work: Work, guard: Guard | None = None, *, until_point: bool = False) -> None:
    """Do the steps that are left, in order.

    With ``until_point`` stop before that which a group does at once: TakeSnapshot or ResumeVm.
    """
    while work.next < len(work.steps):
        step = work.steps[work.next]
        if until_point and isinstance(step, (TakeSnapshot, ResumeVm)):
            return
        if isinstance(step, TakeSnapshot):
            take([work], guard)
        elif _is_job(step):
            _run_side_by_side(work)
        else:
            do(step, work)
            work.advance()


def take(works: Sequence[Work], guard: Guard | None) -> None:
    """The point in time of one VM or of a group: each work stands before its TakeSnapshot."""
    takings = []
    for work in works:
        step = work.steps[work.next]
        if isinstance(step, TakeSnapshot):
            takings.append(Taking(work.dom, work.vm, step))
    try:
        take_together(takings, guard, works[0].host.timeout)
    finally:
        for work, taking in zip(works, takings):
            work.report["frozen_ms"] = taking.frozen_ms
            work.report["flush_ms"] = taking.flush_ms
            work.notes.extend(f"{work.vm.name}: {note}" for note in taking.notes)
    for work in works:
        work.advance()


def _is_job(step: Step) -> bool:
    """Whether it is a job of the QEMU that runs the VM."""
    return isinstance(step, (CommitDisk, PullDisk)) and step.how != "offline"


def _run_side_by_side(work: Work) -> None:
    """All commits that follow each other in the plan run together, one for each disk; a pull alone.

    QEMU 7.2 was seen to crash when two pulls of a VM ended at the same time.
    """
    first = work.next
    batch = _batch(work.steps[first:])
    blockjob.run(
        work.host.conn,
        work.dom,
        batch,
        time.monotonic() + work.host.timeout,
        work.journal.mark,
        lambda step: work.done(first + batch.index(step)),
        work.host.uri,
    )
    work.next = first + len(batch)


def _batch(steps: Sequence[Step]) -> list[CommitDisk | PullDisk]:
    """The jobs at the beginning of these steps that can run side by side."""
    if isinstance(steps[0], PullDisk):
        return [steps[0]]
    batch: list[CommitDisk | PullDisk] = []
    for step in steps:
        if not isinstance(step, CommitDisk) or step.target in {other.target for other in batch}:
            break
        batch.append(step)
    return batch
