# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merging an overlay that no VM uses into the image that it stands on.

qemu-img writes the data and leaves bitmaps behind; so these are carried over before. The overlay
stays as it is until a comparison has shown that its base holds all of it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.image import Image
from .._model.image_state import ImageState
from .._model.image_step import CommitOverlay, RemoveOverlay
from .._model.problem import Conflict, Unsupported
from .._model.reference import shown
from .image_sound import BASES, check_open, check_sound
from .image_wish import (
    Decision,
    OverlayWish,
    check_recorded,
    check_removable,
    overlay_at,
    tag_names,
)


def plan_commit(wish: OverlayWish, state: ImageState) -> Decision:
    """The steps and notes for one overlay. Raises Problem where it cannot be done."""
    if not state.kind:
        return [], [f"{state.path} does not exist: there is nothing to commit"]
    overlay = overlay_at(state)
    check_removable(state)
    if state.trouble:
        raise state.trouble
    base = state.chain[1]
    _check_base(wish, state, base)
    check_recorded(state, len(state.chain))
    check_sound(overlay, "a commit")
    check_sound(base, "a commit", BASES)
    check_open(state.chain)
    if overlay.snapshots:
        raise Unsupported(
            f"{shown(state.path)} holds internal snapshots: {tag_names(overlay)}",
            wanted="an overlay without any: they would be lost with it",
            todo="delete them first (qcow2_snapshot)",
        )
    _check_sizes(overlay, base)
    bitmaps, notes = _bitmaps(state, overlay, base)
    commit = CommitOverlay(base.filename, base.format, bitmaps, overlay.actual_size, wish.bandwidth)
    verified = (base.filename, base.format) if wish.verify else ("", "")
    why = f"merged into {base.filename}"
    return [commit, RemoveOverlay(why, overlay.identity[1], *verified)], notes


def _check_base(wish: OverlayWish, state: ImageState, base: Image) -> None:
    wanted = state.wanted[0] if state.wanted else base
    if wanted.identity != base.identity:
        raise Conflict(
            f"{shown(state.path)} stands on {shown(base.filename)}",
            wanted=f"to commit it into {shown(wanted.filename)}",
            todo="correct 'base', or commit what is between them first",
        )
    if wish.base_format not in ("", base.format):
        raise Conflict(
            f"{shown(state.path)} records its base as {base.format}",
            wanted=wish.base_format,
            todo="correct 'base_format'",
        )


def _check_sizes(overlay: Image, base: Image) -> None:
    """The base can grow to the overlay's size, where it can; it never shrinks."""
    large, small = overlay.virtual_size or 0, base.virtual_size or 0
    if large < small:
        raise Unsupported(
            f"{shown(overlay.filename)} has {large} bytes, its base {shown(base.filename)} {small}",
            wanted="an overlay that is at least as large, since what follows would come back",
            todo="resize the overlay first (qemu-img resize)",
        )
    if large == small:
        return
    why = ""
    if base.file.identity[1] == 0 and base.file.length < large:
        why = "is a block device, which cannot grow"
    elif base.snapshots and base.compat == "0.10":
        why = "has internal snapshots and is of version 2, which then cannot grow"
    if why:
        raise Unsupported(
            f"{shown(base.filename)} has {small} bytes and {why}",
            wanted=f"{large} bytes, the size of {shown(overlay.filename)}",
            todo="enlarge the device, or convert the base (qemu-img amend -o compat=1.1)",
        )


def _bitmaps(
    state: ImageState, overlay: Image, base: Image
) -> tuple[tuple[tuple[str, int, bool], ...], list[str]]:
    """The bitmaps to carry over: qemu-img commit leaves them behind without a word."""
    good = [bitmap for bitmap in overlay.bitmaps if not bitmap.inconsistent]
    broken = {bitmap.name for bitmap in base.bitmaps if bitmap.inconsistent}
    lost = [bitmap.name for bitmap in good if bitmap.name in broken]
    if lost or (good and base.compat != "1.1"):
        names = ", ".join(shown(name) for name in lost or [bitmap.name for bitmap in good])
        raise Unsupported(
            f"{shown(overlay.filename)} has the persistent bitmaps {names}, which its base"
            f" {shown(base.filename)} cannot take over",
            wanted="a base of qcow2 version 3 without unusable bitmaps of these names",
            todo="remove them (qemu-img bitmap --remove), then the next backup is a full one",
        )
    carried = tuple((bitmap.name, bitmap.granularity, bitmap.auto) for bitmap in good)
    useless = [shown(bitmap.name) for bitmap in overlay.bitmaps if bitmap.inconsistent]
    note = f"{state.path}: the bitmaps {', '.join(useless)} were not usable and go with it"
    return carried, [note] if useless else []
