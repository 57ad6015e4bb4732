# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of an overlay that no VM uses, and what every change to one asks first.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._model.image import Image
from .._model.image_state import ImageState
from .._model.image_step import ImageStep
from .._model.problem import Conflict, NotFound, Unsupported
from .._model.reference import shown
from .image_sound import check_sound

Decision = tuple[list[ImageStep], list[str]]
"""Steps, and notes beside them."""


@dataclass(frozen=True)
class OverlayWish:
    """What is wanted: ``state`` is present, committed or absent.

    ``base`` and ``base_format`` may be ''; ``size`` in bytes, None for that of the base;
    ``owner`` and ``group`` as numbers, None for those of the base; ``bandwidth`` in MiB/s.
    """

    state: str
    base: str = ""
    base_format: str = ""
    rebase: bool = False
    base_moved: bool = False
    size: int | None = None
    mode: int = 0o600
    owner: int | None = None
    group: int | None = None
    bandwidth: int | None = None
    verify: bool = True


def overlay_at(state: ImageState) -> Image:
    """The image at the path, which has to be an overlay; its own trouble if it is unreadable."""
    image = state.image
    if image is None:
        raise state.trouble or NotFound(f"{shown(state.path)} does not exist")
    if image.format != "qcow2" or not image.backing_filename:
        what = "stands on no other image" if image.format == "qcow2" else f"is {image.format}"
        raise Conflict(
            f"{shown(state.path)} exists and {what}",
            wanted="a qcow2 overlay, or nothing there",
            todo="correct the path; an image that is no overlay is left alone, whatever is asked",
        )
    return image


def check_removable(state: ImageState) -> None:
    if state.kind != "file":
        raise Conflict(
            f"{shown(state.path)} is a {state.kind}",
            wanted="a regular file to remove",
            todo="name the overlay itself",
        )
    if state.image and state.image.data_file:
        check_sound(state.image, "its removal")


def check_recorded(state: ImageState, depth: int) -> None:
    """qemu-img guesses a format that is not recorded, from what a guest may have written."""
    for above, image in zip(state.chain, state.chain[1:depth]):
        if image.format_source == "assumed":
            raise Unsupported(
                f"{shown(above.filename)} does not record the format of its base",
                wanted="a chain in which nothing has to be guessed",
                todo="write it: 'state: present' with 'base', 'base_format' and 'rebase: true'",
            )


def tag_names(image: Image) -> str:
    return ", ".join(shown(snapshot.name) for snapshot in image.snapshots[:20])
