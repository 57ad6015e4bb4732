# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block jobs that are in the way of a plan, and those that it goes on with.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.names import in_shell
from .._model.problem import Conflict
from .._model.state import Job, VmState
from .._model.step import (
    BackUp,
    CommitDisk,
    PullDisk,
    RevertInternal,
    SaveMemory,
    Step,
    StopVm,
    TakeSnapshot,
)


def job_disks(step: Step, vm: VmState) -> tuple[str, ...]:
    """The disks on which a step suffers no job of others."""
    if isinstance(step, (CommitDisk, PullDisk)):
        return (step.target,)
    if isinstance(step, SaveMemory):
        return step.disks
    if isinstance(step, BackUp):
        return tuple(copy.target for copy in step.copies)
    if isinstance(step, (StopVm, RevertInternal)):
        return tuple(disk.target for disk in vm.writable)
    if isinstance(step, TakeSnapshot):
        return tuple(disk.target for disk in step.spec.disks if disk.mode != "no")
    return ()


def refuse_job(job: Job | None, vm: VmState) -> None:
    if job is not None:
        raise Conflict(
            f"a block job ({job.kind}) is running on disk {job.target} of VM {vm.name}",
            wanted="a disk without a block job",
            todo=f"let it end, or end it (virsh blockjob {in_shell(vm.name)} {job.target})",
        )


def check_job(step: CommitDisk | PullDisk, job: Job | None, vm: VmState) -> None:
    """The job of an interrupted run of ours goes on; any other is refused, even one like it."""
    wanted = {"active": "active-commit", "middle": "commit", "running": "pull"}.get(step.how, "")
    same = job is not None and job.kind == wanted
    if job is not None and same and step.how == "active":
        same = job.base == step.base
    if not (step.resume and same):
        refuse_job(job, vm)
