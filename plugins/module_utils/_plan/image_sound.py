# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images qemu-img may change: what it cannot do, or would do by half, is refused by name.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable

from .._model.image import Image
from .._model.problem import Damaged, Unsupported
from .._model.reference import shown

BASES = ("qcow2", "raw")
"""The formats of images that overlays are made on and merged into."""


def check_sound(image: Image, what: str, formats: tuple[str, ...] = ("qcow2",)) -> None:
    """Raise Unsupported or Damaged unless qemu-img can change the image for ``what``.

    That is an image in one of ``formats``, not encrypted, with its data in it, in a clean state.
    """
    check_usable(image, what, formats)
    if image.data_file:
        raise Unsupported(
            f"{shown(image.filename)} has its data in another file, {shown(image.data_file)}",
            wanted=f"an image that holds its data for {what}",
            todo="convert it with qemu-img convert",
        )


def check_usable(image: Image, what: str, formats: tuple[str, ...]) -> None:
    """The same for an image that is only stood on, whose data may be in another file."""
    name = shown(image.filename)
    if image.format not in formats:
        raise Unsupported(
            f"{name} is {image.format}",
            wanted=f"{' or '.join(formats)} for {what}",
            todo="convert it with qemu-img convert, or correct the path",
        )
    check_open((image,))
    _check_clean(image)


def check_open(chain: Iterable[Image]) -> None:
    """Raise Unsupported where an image is encrypted, or one that others stand on."""
    for image in chain:
        if image.encrypted:
            raise Unsupported(
                f"{shown(image.filename)} is encrypted",
                wanted="images without encryption: qemu-img gets no key here, and what it makes is"
                " in the clear",
                todo="copy it as it is; for a disk of a VM that is off, vm_storage_snapshot does",
            )


def _check_clean(image: Image) -> None:
    states = (("corrupt", "marked as corrupt"), ("dirty", "not closed properly by a lazy writer"))
    for flag, meaning in states:
        if getattr(image, flag):
            raise Damaged(
                f"{shown(image.filename)} is {meaning} (flag '{flag}')",
                wanted="an image whose reference counts can be relied on",
                todo="look at it with qemu-img check, then mend it (qemu-img check -r all)",
            )
