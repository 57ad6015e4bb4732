# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a dead run left: its journal read, and what the VM shows of each of its steps.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._model.state import VmState
from .._model.step import (
    CommitDisk,
    CreateOverlay,
    PullDisk,
    RemoveFile,
    RestoreSave,
    SaveMemory,
    SetSource,
    Step,
    TakeSnapshot,
    from_dict,
)
from .._model.storage_steps import StorageStep
from .merge import merge
from .pull import still_between


@dataclass(frozen=True)
class Left:
    """What a dead run left: its steps with whether each was done, and notes made on the way.

    ``existing`` are those of its files that exist, ``written`` the overlays among them that hold
    data, on which the VM was then; ``group_complete`` is False if it took a
    snapshot of several VMs and not all of them have it; ``status`` is how it found the
    VM. ``proven`` is False if it froze the guest and died before it knew that the guest
    had stayed frozen until its snapshot was taken. ``saved``: the save that it was to make is
    complete. ``boot`` is the present boot of the host.
    """

    steps: tuple[Step, ...]
    done: tuple[bool, ...]
    marks: frozenset[str]
    existing: frozenset[str]
    group_complete: bool
    status: str
    proven: bool = True
    saved: bool = False
    boot: str = ""
    written: frozenset[str] = frozenset()


def left_by(
    journal: Mapping[str, Any],
    existing: frozenset[str],
    *,
    group_complete: bool,
    proven: bool = True,
    saved: bool = False,
    boot: str = "",
    written: frozenset[str] = frozenset(),
) -> Left:
    """Read a journal's content."""
    return Left(
        steps=tuple(from_dict(entry["step"]) for entry in journal["steps"]),
        done=tuple(bool(entry["done"]) for entry in journal["steps"]),
        marks=frozenset(journal.get("marks", ())),
        existing=existing,
        group_complete=group_complete,
        status=journal.get("status", ""),
        proven=proven,
        saved=saved,
        boot=boot,
        written=written,
    )


def point_of(journal: Mapping[str, Any]) -> tuple[TakeSnapshot, bool] | None:
    """The snapshot that a dead run was to take, and whether it had seen it done."""
    for entry in journal["steps"]:
        step = from_dict(entry["step"])
        if isinstance(step, TakeSnapshot):
            return step, bool(entry["done"])
    return None


def save_of(journal: Mapping[str, Any]) -> SaveMemory | None:
    """How a dead run was to save the memory, None if it was about something else."""
    steps = [from_dict(entry["step"]) for entry in journal["steps"]]
    return next((step for step in steps if isinstance(step, SaveMemory)), None)


def overlays_of(journal: Mapping[str, Any]) -> tuple[str, ...]:
    """The overlays that a journal's steps create."""
    steps = [from_dict(entry["step"]) for entry in journal["steps"]]
    return tuple(step.file for step in steps if isinstance(step, CreateOverlay))


def files_of(journal: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that a journal's steps create or remove."""
    steps = [from_dict(entry["step"]) for entry in journal["steps"]]
    memory = [s.spec.memory_file for s in steps if isinstance(s, TakeSnapshot)]
    of_a_file = (CreateOverlay, RemoveFile, SaveMemory, RestoreSave)
    files = [s.file for s in steps if isinstance(s, of_a_file)]
    copies = [copy for s in steps if isinstance(s, StorageStep) for copy in s.copies]
    stored = [thing for copy in copies for thing in (copy.made, copy.new, copy.old)]
    return tuple(path for path in (*files, *memory, *stored) if path)


def merge_again(step: CommitDisk, vm: VmState) -> CommitDisk | None:
    disk = vm.disk(step.target)
    top = disk.depth_of(step.top) if disk else None
    base = disk.depth_of(step.base) if disk else None
    if disk is None or top is None or base is None or top >= base:
        return None
    return replace(merge(vm, disk, top, base, step.bandwidth), resume=True)


def was_merged(step: CommitDisk, vm: VmState, left: Left, *, done: bool) -> bool:
    """Whether the dead run is known to have merged these images.

    That a disk does not stand on them any more can have other reasons: it was detached, or
    somebody has gone back to a snapshot. After a merge the base is where the images were.
    """
    if done and (step.how != "offline" or step.overlay or _moved(step.target, left)):
        return True
    # A VM that was off may have started from a merged image, before its definition was moved.
    disk = vm.disk(step.target)
    if disk is None:
        return False
    depth = disk.depth_of(step.base)
    above = disk.depth_of(step.overlay) if step.overlay else -1
    switched = step.how != "active" or step.pivot_mark in left.marks
    return switched and depth is not None and above is not None and above + 1 == depth


def _moved(target: str, left: Left) -> bool:
    return any(
        isinstance(step, SetSource) and step.target == target and done
        for step, done in zip(left.steps, left.done)
    )


def over(journal: Mapping[str, Any] | None, vm: VmState) -> frozenset[str]:
    """The disks whose chain shows that a job of a dead run has done its work."""
    steps = [from_dict(entry["step"]) for entry in journal["steps"]] if journal else []
    commits = {s.target: s.merged for s in steps if isinstance(s, CommitDisk) and s.how == "middle"}
    pulls = {s.target: s.pulled for s in steps if isinstance(s, PullDisk) and s.how == "running"}
    return frozenset(
        target
        for target, images in {**commits, **pulls}.items()
        if not any(vm.in_a_chain(path) for path in images)
    )


def unknown(left: Left, vm: VmState) -> frozenset[str]:
    """Images in no chain that may hold the only copy of what the guest wrote."""
    images: set[str] = set()
    for step, done in zip(left.steps, left.done):
        if isinstance(step, CommitDisk) and not was_merged(step, vm, left, done=done):
            images.update(step.merged if merge_again(step, vm) is None else ())
        elif isinstance(step, PullDisk) and still_between(step, vm) is None:
            images.update(step.pulled)
        elif isinstance(step, CreateOverlay) and not was_unused(step, vm):
            images.add(step.file)
    return frozenset(path for path in images if not vm.in_a_chain(path))


def was_unused(step: CreateOverlay, vm: VmState) -> bool:
    disk = vm.disk(step.target)
    return disk is not None and disk.depth_of(step.backing) is not None


def kept(left: Left, vm: VmState) -> tuple[str, ...]:
    return tuple(left_alone(vm, path) for path in sorted(unknown(left, vm) & left.existing))


def left_alone(vm: VmState, path: str) -> str:
    """A note of an image that stays."""
    return f"{vm.name}: {path} was left alone, since it may hold what the guest wrote"
