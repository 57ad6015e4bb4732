# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether what a plan writes to can be written to, told before anything is touched.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from .._model.problem import BadInput, Conflict, Unsupported
from .._model.state import Facts, VmState
from .._model.step import (
    CommitDisk,
    CreateOverlay,
    DeleteInternal,
    Plan,
    PullDisk,
    RevertInternal,
    TakeSnapshot,
)


def written_images(plan: Plan, vm: VmState) -> tuple[str, ...]:
    """The images that are there already and that the steps write to, each once."""
    return tuple(dict.fromkeys(_written(plan, vm)))


def _written(plan: Plan, vm: VmState) -> Iterator[str]:
    for step in plan.steps:
        if isinstance(step, CommitDisk):
            yield step.base
        elif isinstance(step, PullDisk):
            yield step.into
        elif isinstance(step, (DeleteInternal, RevertInternal)):
            yield from step.images
        elif isinstance(step, TakeSnapshot) and step.spec.mode == "internal":
            yield from (disk.disk.path for disk in vm.writable)


def merged_images(plan: Plan) -> tuple[str, ...]:
    """The images that merges change or take away, each once."""
    commits = [step for step in plan.steps if isinstance(step, CommitDisk)]
    return tuple(dict.fromkeys(path for step in commits for path in (step.base, *step.merged)))


def check_written(plan: Plan, vm: VmState, facts: Facts) -> None:
    """Raise Unsupported for an image that is only read, Conflict for one of a restore point.

    BadInput for two overlays in one file.
    """
    for path, repository in facts.stocked.items():
        raise Conflict(
            f"image {path} of VM {vm.name} lies in the repository {repository}",
            wanted="to leave restore points as they are, and to merge other images",
            todo="let the VM stand for itself first (vm_blockpull)",
        )
    for path in facts.read_only:
        raise Unsupported(
            f"image {path} of VM {vm.name} is on a read-only file system",
            wanted="to write to it",
            todo="look in the kernel's log why that is so, and mount it for writing",
        )
    made = [step for step in plan.steps if isinstance(step, CreateOverlay)]
    seen: dict[str, CreateOverlay] = {}
    for step in made:
        folder, name = posixpath.split(step.file)
        place = posixpath.join(facts.directories[folder].real or folder, name)
        if place in seen:
            raise BadInput(
                f"{step.file} and {seen[place].file} are the same file",
                wanted=f"an overlay of disk {step.target} of VM {vm.name}, and another one of"
                f" {seen[place].target}",
                todo="correct the 'file' entries",
            )
        seen[place] = step
