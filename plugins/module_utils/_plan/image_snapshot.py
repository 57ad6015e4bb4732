# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Internal snapshots of an image that no VM uses: taken, deleted, gone back to.

qemu-img deletes by name, the first one that it finds, and goes back by id or name, whichever
fits. Names need not be unique, and may look like the id of another. So a snapshot is chosen here,
deleted only where qemu-img would find the same one, and gone back to by its id.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from .._model.checkpoint_steps import is_ours
from .._model.image import Image, InternalSnapshot, damaged
from .._model.image_state import ImageState
from .._model.image_step import ApplyTag, CreateTag, DeleteTag, ImagePlan, ImageStep
from .._model.problem import Conflict, NotFound, Unsupported
from .._model.qcow2_tables import MAX_ENTRIES
from .._model.reference import shown
from .image_sound import check_sound


@dataclass(frozen=True)
class TagWish:
    """What is wanted: ``state`` is present, absent or applied; ``name`` or ``id`` may be ''."""

    state: str
    name: str
    id: str = ""
    keep_current: str = ""

    def chosen(self, snapshots: Iterable[InternalSnapshot]) -> tuple[InternalSnapshot, ...]:
        """The snapshots that it is about, in the order of the image's table."""
        return tuple(
            snapshot
            for snapshot in snapshots
            if self.name in ("", snapshot.name) and self.id in ("", snapshot.id)
        )

    def compared(self, image: Image) -> tuple[str, ...]:
        """The ids of the snapshots that the image's content has to be compared with."""
        if self.state != "applied":
            return ()
        kept = [found for found in image.snapshots if found.name == self.keep_current]
        found = [*self.chosen(image.snapshots), *kept]
        return tuple(snapshot.id for snapshot in found) if len(found) <= _MOST_COMPARED else ()


_MOST_COMPARED = 16


def plan_tags(wish: TagWish, state: ImageState) -> ImagePlan:
    """The steps for one image. Raises Problem where it cannot be done."""
    image = state.image
    if image is None:
        raise state.trouble or NotFound(f"{shown(state.path)} does not exist")
    steps, notes = _PLANS[wish.state](wish, state, image)
    if steps:
        check_sound(image, "internal snapshots")
        _check_number(image, steps)
    return ImagePlan(state.path, tuple(steps), tuple(notes))


_Decision = tuple[list[ImageStep], list[str]]


def _present(wish: TagWish, state: ImageState, image: Image) -> _Decision:
    found = wish.chosen(image.snapshots)
    if not found:
        return [CreateTag(wish.name)], []
    several = f"{state.path}: {len(found)} snapshots have this name: {_listed(found)}"
    return [], [several] if len(found) > 1 else []


def _absent(wish: TagWish, state: ImageState, image: Image) -> _Decision:
    """All of that name go, since none is wanted; with an id just that one."""
    found = wish.chosen(image.snapshots)
    for number, snapshot in enumerate(found):
        first = next(each for each in image.snapshots if each.name == snapshot.name)
        if wish.id and (first.id != snapshot.id or number):
            raise Unsupported(
                f"{shown(state.path)} has several snapshots named {shown(snapshot.name)}, and"
                f" snapshot {shown(snapshot.id)} is not the first of them",
                wanted=f"to delete it alone; qemu-img would delete snapshot {shown(first.id)}",
                todo=f"delete snapshot {shown(first.id)} first, or all by 'name' without 'id'",
            )
    return [DeleteTag(snapshot.name, snapshot.id) for snapshot in found], []


def _applied(wish: TagWish, state: ImageState, image: Image) -> _Decision:
    snapshot = _the_one(wish, state, image)
    if state.holds(snapshot.id):
        return [], []
    _check_applicable(state, image, snapshot)
    steps: list[ImageStep] = []
    kept = [each for each in image.snapshots if each.name == wish.keep_current]
    if wish.keep_current and not any(state.holds(each.id) for each in kept):
        if kept:
            raise Conflict(
                f"{shown(state.path)} already has a snapshot named {shown(wish.keep_current)}"
                f" ({_listed(kept)}), of another content",
                wanted="to keep the present content under this name",
                todo="choose another name for 'keep_current', or delete that snapshot",
            )
        steps.append(CreateTag(wish.keep_current))
    bitmaps = tuple(bitmap.name for bitmap in image.bitmaps)
    steps.append(ApplyTag(snapshot.name, snapshot.id, bitmaps))
    return steps, [*_memory_note(state, snapshot), *_bitmap_note(state, bitmaps)]


_PLANS = {"present": _present, "absent": _absent, "applied": _applied}


def _the_one(wish: TagWish, state: ImageState, image: Image) -> InternalSnapshot:
    found = wish.chosen(image.snapshots)
    asked = " and ".join(
        f"the {what} {shown(value)}"
        for what, value in (("name", wish.name), ("id", wish.id))
        if value
    )
    if not found:
        raise NotFound(
            f"{shown(state.path)} has no snapshot with {asked}",
            wanted=f"one of: {_listed(image.snapshots) or '(it has none)'}",
            todo="correct 'name' or 'id'",
        )
    if len(found) > 1:
        raise Conflict(
            f"{shown(state.path)} has {len(found)} snapshots with {asked}: {_listed(found)}",
            wanted="exactly one to go back to",
            todo="choose one by its 'id'",
        )
    return found[0]


def _memory_note(state: ImageState, snapshot: InternalSnapshot) -> list[str]:
    if not snapshot.vm_state_size:
        return []
    what = f"snapshot {shown(snapshot.name)} includes the memory of a VM, which is not used here"
    return [f"{state.path}: {what}: for a guest it is as after a power cut"]


def _bitmap_note(state: ImageState, bitmaps: Sequence[str]) -> list[str]:
    if not bitmaps:
        return []
    given_up = f"the bitmap {', '.join(map(shown, bitmaps))} of its backups is given up"
    return [f"{state.path}: {given_up}, so the next restore point is a full one"]


def _check_applicable(state: ImageState, image: Image, snapshot: InternalSnapshot) -> None:
    """What qemu-img would refuse, or do by half, is refused before it is asked."""
    if [each.id for each in image.snapshots].count(snapshot.id) > 1:
        raise damaged(f"{shown(state.path)} has several snapshots with the id {shown(snapshot.id)}")
    foreign = [bitmap.name for bitmap in image.bitmaps if not is_ours(bitmap.name)]
    if foreign:
        names = ", ".join(map(shown, foreign))
        raise Unsupported(
            f"{shown(state.path)} has persistent bitmaps: {names}",
            wanted="an image without any, since QEMU goes back to no snapshot with them",
            todo="remove them (qemu-img bitmap --remove), then the next backup is a full one",
        )


def _check_number(image: Image, steps: Iterable[ImageStep]) -> None:
    """No more snapshots than this collection reads."""
    new = sum(isinstance(step, CreateTag) for step in steps)
    if new and len(image.snapshots) + new > MAX_ENTRIES:
        raise Unsupported(
            f"{shown(image.filename)} has {len(image.snapshots)} snapshots",
            wanted=f"at most {MAX_ENTRIES}",
            todo="delete those that are no longer needed",
        )


def _listed(snapshots: Sequence[InternalSnapshot]) -> str:
    """Up to 20 snapshots for a message."""
    texts = [
        f"id {shown(each.id)} {shown(each.name)} of {_date(each.date_sec)}"
        for each in snapshots[:20]
    ]
    return ", ".join([*texts, *(["..."] if len(snapshots) > 20 else [])])


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
