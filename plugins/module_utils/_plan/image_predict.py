# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image as it will be after a plan, and the picture of it that a person compares.

Check mode shows the prediction, a real run what was observed; tests hold both together.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .._model.image import File, Image
from .._model.image_state import ImageState
from .._model.image_step import (
    ApplyTag,
    CreateTag,
    DeleteTag,
    ImageStep,
    NewOverlay,
    Rebase,
    RemoveOverlay,
)
from .._model.qcow2_content import PRESENT
from .._model.reference import shown

_NOWHERE = (0, 0)


def predict(state: ImageState, steps: Iterable[ImageStep]) -> ImageState:
    """The image after the steps; what nobody can know yet (times, allocation) is 0."""
    for step in steps:
        state = _after(state, step)
    return state


def _after(state: ImageState, step: ImageStep) -> ImageState:
    image = state.image
    if isinstance(step, NewOverlay):
        overlay = _overlay(state, step)
        return replace(state, kind="file", chain=(overlay, *state.wanted), trouble=None)
    if isinstance(step, RemoveOverlay):
        return replace(state, kind="", chain=(), trouble=None)
    if image is None:
        return state
    if isinstance(step, CreateTag):
        return _with_tag(state, image, step.name)
    if isinstance(step, DeleteTag):
        left = tuple(each for each in image.snapshots if each.id != step.id)
        return _with(state, image._replace(snapshots=left))
    if isinstance(step, ApplyTag):
        (size,) = {each.disk_size for each in image.snapshots if each.id == step.id}
        marks = {**state.marks, PRESENT: state.marks.get(step.id, b"")}
        back = image._replace(virtual_size=size, bitmaps=())
        return replace(_with(state, back), marks=marks)
    if isinstance(step, Rebase):
        named = image._replace(backing_filename=step.backing, backing_format=step.backing_format)
        return replace(state, chain=(named, *state.wanted), trouble=None, lost=False)
    return state


def _with(state: ImageState, image: Image) -> ImageState:
    return replace(state, chain=(image, *state.chain[1:]))


def _with_tag(state: ImageState, image: Image, name: str) -> ImageState:
    held = image.holding(name)
    new = held.snapshots[-1].id
    marks = {**state.marks, new: state.marks[PRESENT]} if PRESENT in state.marks else state.marks
    return replace(_with(state, held), marks=marks)


def _overlay(state: ImageState, step: NewOverlay) -> Image:
    return Image(
        File(state.path, state.real, 0, 0, _NOWHERE),
        "qcow2",
        "probed",
        step.size,
        backing_filename=step.backing,
        backing_format=step.backing_format,
    )


def picture(state: ImageState) -> str:
    """What stands there: the chain (base first), the snapshots, and whose content it has."""
    lines = [f"image {_name(state.path)}"]
    image = state.image
    if image is None:
        return f"{lines[0]}\n  not there\n"
    if image.backing_filename:
        lines.append(f"  chain: {' <- '.join(reversed(_chain(state, image)))}")
    if image.backing_format:
        lines.append(f"  format of the base: {image.backing_format}")
    tags = ", ".join(f"{_name(each.id)} {_name(each.name)}" for each in image.snapshots)
    lines.append(f"  snapshots: {tags or 'none'}")
    if PRESENT in state.marks:
        held = [each for each in image.snapshots if state.holds(each.id)]
        words = ", ".join(f"snapshot {_name(each.id)} {_name(each.name)}" for each in held)
        lines.append(f"  content: {f'that of {words}' if held else 'its own'}")
    return "\n".join(lines) + "\n"


def _name(text: str) -> str:
    """A name on one line, without quotes."""
    return shown(text, 1000)[1:-1]


def _chain(state: ImageState, image: Image) -> list[str]:
    if len(state.chain) > 1:
        return [_name(name) for name in state.files]
    return [_name(image.filename), f"{_name(image.backing_filename or '')} (not there)"]
