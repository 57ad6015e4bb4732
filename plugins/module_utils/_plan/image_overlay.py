# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overlays that no VM uses: made, put on another base, merged into their base, removed.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.image import Image
from .._model.image_state import ImageState
from .._model.image_step import ImagePlan, NewOverlay, Rebase, RemoveOverlay
from .._model.problem import BadInput, Conflict, Unsupported
from .._model.reference import shown
from .image_commit import plan_commit
from .image_sound import BASES, check_open, check_sound, check_usable
from .image_wish import (
    Decision,
    OverlayWish,
    check_recorded,
    check_removable,
    overlay_at,
    tag_names,
)

# What libvirt accepts (VIR_STORAGE_MAX_CHAIN).
_DEEPEST = 200


def plan_overlay(wish: OverlayWish, state: ImageState) -> ImagePlan:
    """The steps for one overlay. Raises Problem where it cannot be done."""
    steps, notes = _PLANS[wish.state](wish, state)
    return ImagePlan(state.path, tuple(steps), tuple(notes))


def _present(wish: OverlayWish, state: ImageState) -> Decision:
    if not state.kind:
        return _created(wish, state)
    overlay = overlay_at(state)
    if wish.size is not None and _sectors(wish.size) != overlay.virtual_size:
        raise Conflict(
            f"{shown(state.path)} exists and has {overlay.virtual_size} bytes",
            wanted=f"{_sectors(wish.size)} bytes",
            todo="correct 'size', or resize it (qemu-img resize)",
        )
    base = state.wanted[0]
    if overlay.identity in (image.identity for image in state.wanted):
        raise BadInput(
            f"{shown(base.filename)} stands on {shown(state.path)}, or is the same image",
            wanted="a base that does not need the overlay",
            todo="correct 'base'",
        )
    if len(state.chain) > 1 and state.chain[1].identity == base.identity:
        return _on_its_base(wish, state, overlay, base)
    return _on_another(wish, state, overlay, base)


def _created(wish: OverlayWish, state: ImageState) -> Decision:
    base = state.wanted[0]
    check_usable(base, "the base of an overlay", BASES)
    check_open(state.wanted)
    size = base.virtual_size if wish.size is None else _sectors(wish.size)
    if size is None or size < (base.virtual_size or 0):
        raise BadInput(
            f"size is {size}, and {shown(base.filename)} has {base.virtual_size} bytes",
            wanted="an overlay that is at least as large as its base",
            todo="correct 'size'",
        )
    if len(state.wanted) >= _DEEPEST:
        raise Unsupported(
            f"{shown(base.filename)} stands on {len(state.wanted) - 1} other images",
            wanted=f"chains of at most {_DEEPEST} images, which is libvirt's limit",
            todo="merge some of them",
        )
    step = NewOverlay(base.filename, base.format, size, wish.mode, wish.owner, wish.group)
    return [step], _bitmap_note(state, base)


def _bitmap_note(state: ImageState, base: Image) -> list[str]:
    names = [shown(bitmap.name) for bitmap in base.bitmaps if not bitmap.inconsistent]
    if not names:
        return []
    what = f"the base has the bitmaps {', '.join(names)}, and the overlay begins without any"
    return [f"{state.path}: {what}: the next backup of a VM that goes on with it is a full one"]


def _sectors(size: int) -> int:
    return -(-size // 512) * 512


def _on_its_base(wish: OverlayWish, state: ImageState, overlay: Image, base: Image) -> Decision:
    """Nothing to do, unless its header does not say of which format the base is."""
    recorded = state.chain[1].format if overlay.backing_format else None
    if not wish.base_format or recorded == base.format:
        missing = f"{state.path}: no format is recorded for its base; libvirt takes it for raw"
        return [], [] if recorded else [missing]
    if recorded:
        raise Conflict(
            f"{shown(state.path)} records its base as {recorded}",
            wanted=base.format,
            todo="correct 'base_format'; with the other format it would have another content",
        )
    if not wish.rebase:
        raise Conflict(
            f"{shown(state.path)} does not record the format of its base",
            wanted=base.format,
            todo="set 'rebase: true' to write it into the overlay",
        )
    check_sound(overlay, "a rebase")
    return [Rebase(overlay.backing_filename or "", base.format, copy=False)], []


def _on_another(wish: OverlayWish, state: ImageState, overlay: Image, base: Image) -> Decision:
    stands_on = shown(overlay.full_backing_filename or "")
    if not (wish.rebase or wish.base_moved):
        raise Conflict(
            f"{shown(state.path)} stands on {stands_on}",
            wanted=f"an overlay on {shown(base.filename)}",
            todo="set 'rebase: true' to keep its content, 'base_moved: true' if its base was moved"
            " there, or choose another path",
        )
    check_sound(overlay, "a rebase")
    check_usable(base, "the base of an overlay", BASES)
    if wish.base_moved:
        _check_moved(state, overlay, base)
    else:
        _check_copied(state, overlay)
    return [Rebase(base.filename, base.format, copy=not wish.base_moved)], []


def _check_moved(state: ImageState, overlay: Image, base: Image) -> None:
    """The name alone may change only if the image of the old name is nowhere else."""
    if not state.lost:
        raise Conflict(
            f"{shown(overlay.full_backing_filename or '')}, on which {shown(state.path)} stands,"
            " is still there",
            wanted="a base that was moved away ('base_moved')",
            todo="use 'rebase: true', which compares both images and keeps the content",
        )
    if overlay.backing_format not in (None, base.format):
        raise Conflict(
            f"{shown(state.path)} records its base as {overlay.backing_format},"
            f" {shown(base.filename)} is {base.format}",
            wanted="the image that was moved",
            todo="correct 'base' or 'base_format'",
        )


def _check_copied(state: ImageState, overlay: Image) -> None:
    if state.trouble:
        raise Conflict(
            f"what {shown(state.path)} stands on cannot be read: {state.trouble.found}",
            wanted="to compare it with the new base, to keep the content",
            todo="repair it, or set 'base_moved: true' if the base was only moved or renamed",
        )
    check_recorded(state, len(state.chain))
    check_open((*state.chain, *state.wanted))
    if overlay.snapshots:
        raise Unsupported(
            f"{shown(state.path)} holds internal snapshots: {tag_names(overlay)}",
            wanted="an overlay without any: their content would change with the base",
            todo="delete them first (qcow2_snapshot)",
        )


def _absent(_wish: OverlayWish, state: ImageState) -> Decision:
    if not state.kind:
        return [], []
    overlay = overlay_at(state)
    check_removable(state)
    return [RemoveOverlay("as asked, with what only it held", overlay.identity[1])], []


_PLANS = {"present": _present, "committed": plan_commit, "absent": _absent}
