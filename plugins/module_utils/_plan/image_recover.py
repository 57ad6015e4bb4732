# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to follow a run on an image that died or failed in the middle.

A qemu-img that is killed leaves an image that lacks nothing: it counts a cluster before it uses
it, and gives it up after the last use is gone. (Two exceptions are seen to where it is started,
see flagged_entries and rebase.) So there are clusters that are counted and not used, which are
given back. Beyond that,

* a snapshot that was being taken or deleted is there or not, and whoever comes next decides;
* going back to a snapshot, once begun, is finished: the content is neither one nor the other;
* an overlay that was being made has no name yet and is removed;
* a rebase changes the header last, with the same content before and after;
* a commit, once begun, is finished: the base alone is no whole image until then.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .._model.image_state import ImageState
from .._model.image_step import (
    ApplyTag,
    CommitOverlay,
    ImagePlan,
    ImageStep,
    NewOverlay,
    RemoveDraft,
    RemoveOverlay,
    Repair,
    from_dict,
)
from .._model.problem import Conflict
from .._model.reference import shown


def begun_mark(index: int) -> str:
    """The note made in the journal before a step that cannot be undone."""
    return f"begun {index}"


def bases_of(journal: Mapping[str, Any]) -> tuple[str, ...]:
    """The images that the dead run has begun to write into on behalf of its overlay."""
    return tuple(
        step.base for step, begun in _left(journal) if begun and isinstance(step, CommitOverlay)
    )


def plan_image_recovery(state: ImageState, *, finish: bool = True) -> ImagePlan:
    """The steps that bring an image in order, none if there is no journal.

    Without ``finish`` nothing that failed is tried again. Raises Conflict.
    """
    if state.journal is None:
        return ImagePlan(state.path)
    steps: list[ImageStep] = [RemoveDraft(file) for file in state.drafts]
    left = list(_left(state.journal))
    if left and state.kind and not isinstance(left[0][0], (NewOverlay, RemoveOverlay)):
        steps.append(Repair(state.real))
    for step, begun in left:
        if finish and isinstance(step, ApplyTag):
            steps.extend(_applied(state, step) if begun else ())
        elif finish and isinstance(step, CommitOverlay):
            steps.extend(_committed(state, step) if begun else ())
    steps.extend(_removed(state, left) if finish and _merged(state.journal) else ())
    what = "finished" if _finishes(steps) else "brought in order"
    note = f"{state.path}: {what} what an interrupted run had begun ({state.journal['run']})"
    return ImagePlan(state.path, tuple(steps), (note, *_bitmap_notes(state)))


def _bitmap_notes(state: ImageState) -> Iterable[str]:
    """QEMU marks bitmaps as in use while it has an image open; who dies then leaves it so."""
    for image in state.chain[:2]:
        names = [shown(bitmap.name) for bitmap in image.bitmaps if bitmap.inconsistent]
        if names:
            lost = f"the bitmaps {', '.join(names)} of {shown(image.filename)} are not usable"
            yield f"{state.path}: {lost}; the next backup has to be a full one"


def _left(journal: Mapping[str, Any]) -> Iterable[tuple[ImageStep, bool]]:
    """The steps that are not marked as done, and whether each was begun."""
    for index, entry in enumerate(journal["steps"]):
        if not entry["done"]:
            yield from_dict(entry["step"]), begun_mark(index) in journal["marks"]


def _merged(journal: Mapping[str, Any]) -> bool:
    """Whether a commit of the dead run was done or at least begun, so that its removal follows."""
    return any(
        isinstance(from_dict(entry["step"]), CommitOverlay)
        and (entry["done"] or begun_mark(index) in journal["marks"])
        for index, entry in enumerate(journal["steps"])
    )


def _applied(state: ImageState, step: ApplyTag) -> Iterable[ImageStep]:
    if any(each.id == step.id for each in state.snapshots):
        return [] if state.holds(step.id) else [step]
    raise _cannot(state, f"snapshot {shown(step.id)} ({shown(step.name)}) is gone")


def _committed(state: ImageState, step: CommitOverlay) -> Iterable[ImageStep]:
    if not state.kind:
        raise _cannot(state, f"{shown(state.path)} is gone, with what only it held")
    below = state.chain[1] if len(state.chain) > 1 else None
    if below is None and state.trouble:
        raise _cannot(state, f"{shown(step.base)} cannot be read: {state.trouble.found}")
    if below is None or step.base not in (below.filename, below.file.real):
        raise _cannot(state, f"{shown(state.path)} no longer stands on {shown(step.base)}")
    return [Repair(step.base), step] if step.base_format == "qcow2" else [step]


def _removed(state: ImageState, left: list[tuple[ImageStep, bool]]) -> Iterable[ImageStep]:
    """The removal that follows a commit, unless it is done, or another file stands there now."""
    for step, _begun in left:
        image = state.image
        if isinstance(step, RemoveOverlay) and image and image.identity[1] == step.inode:
            yield step


def _finishes(steps: Iterable[ImageStep]) -> bool:
    return any(isinstance(step, (ApplyTag, CommitOverlay, RemoveOverlay)) for step in steps)


def _cannot(state: ImageState, found: str) -> Conflict:
    run = state.journal["run"] if state.journal else ""
    return Conflict(
        f"{found}, though an interrupted run was at work there ({run})",
        wanted="to finish what it had begun",
        todo="look at the images, and remove the journal when they are as they should be",
    )
