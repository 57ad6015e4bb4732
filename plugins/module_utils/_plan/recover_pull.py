# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left to do of a pull that a dead run had begun.

A pull that has not ended can be begun anew. One that has ended may have lost something: QEMU
writes the new backing file into the image at once, and what it has copied when it pleases. As long
as the QEMU that did it runs, it can be made to; if it is gone, the image has to go back on what it
stood on.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import replace

from .._model.problem import Conflict
from .._model.state import VmState
from .._model.step import PullDisk, RemoveFile
from .left import Left
from .pull import pull, still_between


def pull_again(step: PullDisk, vm: VmState, left: Left, *, done: bool) -> PullDisk | None:
    """The pull as it has to be done now; None if it is done, or the disk is somewhere else."""
    disk, between = vm.disk(step.target), still_between(step, vm)
    if done or disk is None or between is None:
        return None
    if between:
        return replace(pull(vm, disk, 1 + len(between), step.bandwidth), resume=True)
    if step.how == "offline" or _was_proved(step, left):
        return None
    if vm.off:
        return replace(step, how="offline", resume=True, doubtful=True)
    if step.mark(vm.live.number, left.boot) not in left.marks:
        raise _ran_since(step, vm)
    return replace(step, resume=True)


def _was_proved(step: PullDisk, left: Left) -> bool:
    """Whether a run has begun to remove what was pulled, the last thing that it does."""
    return any(
        isinstance(after, RemoveFile)
        and after.file in step.pulled
        and after.file not in left.existing
        for after in left.steps
    )


def _ran_since(step: PullDisk, vm: VmState) -> Conflict:
    return Conflict(
        f"VM {vm.name} went off while {', '.join(step.pulled)} were pulled into {step.into} (disk"
        f" {step.target}), and was started again: part of that may be missing in the image",
        wanted="to put it back on what it stood on before the VM starts again",
        todo=f"stop the VM, let the image stand on {step.pulled[0]} again (qemu-img rebase -u -f"
        f" qcow2 -F {step.pulled_format} -b {step.pulled[0]} {step.into}), check the file systems"
        " of the guest, then run the task again",
    )
