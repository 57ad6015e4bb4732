# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Persistent bitmaps in qcow2 images that nothing uses, by qemu-img.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from .image_file import read_image
from .qemu_img import LONG, absolute, change, resize


def remove_bitmap(path: str, name: str) -> tuple[str, ...]:
    """Remove a bitmap from an image."""
    return change("bitmap", "--remove", "-f", "qcow2", "--", absolute(path), name)


def bitmap_add(
    path: str, name: str, granularity: int | None = None, *, disabled: bool = False
) -> tuple[str, ...]:
    """Add a persistent bitmap; ``granularity`` in bytes, by default what QEMU takes."""
    more = [*(["-g", str(granularity)] if granularity else []), *["--disable"] * disabled]
    return change("bitmap", "--add", *more, "-f", "qcow2", "--", absolute(path), name)


def bitmap_merge(path: str, name: str, source: str, source_name: str) -> tuple[str, ...]:
    """Add to the bitmap ``name`` what the bitmap ``source_name`` of the image ``source`` has.

    QEMU does it only where both images are of one size.
    """
    place = ["-b", absolute(source), "-F", "qcow2", "-f", "qcow2"]
    return change(
        "bitmap", "--merge", source_name, *place, "--", absolute(path), name, timeout=LONG
    )


def carry_bitmaps(base: str, top: str, bitmaps: Sequence[tuple[str, str, int, bool]]) -> None:
    """Add to the bitmaps of ``base`` those of the images that are to be committed into it.

    ``bitmaps`` are (image, name, granularity, whether QEMU goes on with it); ``top`` is the
    uppermost image. What a process that died has left unusable stays behind.
    """
    if not bitmaps:
        return
    if _size(base) < _size(top):  # else it has no room for what they say
        resize(base, _size(top))
    usable = {path: _usable(path) for path in {base, *(image for image, *_rest in bitmaps)}}
    for image, name, granularity, goes_on in bitmaps:
        if not usable[image].get(name) or not usable[base].get(name, True):
            continue
        if name not in usable[base]:
            bitmap_add(base, name, granularity, disabled=not goes_on)
            usable[base][name] = True
        carry_bitmap(base, name, image)


def _usable(path: str) -> dict[str, bool]:
    """The bitmaps of an image by name."""
    return {each.name: not each.inconsistent for each in read_image(path, format="qcow2").bitmaps}


def carry_bitmap(path: str, name: str, source: str) -> None:
    """The same for a bitmap of one name, also where one of the images has grown since."""
    size, wanted = _size(source), _size(path)
    if size == wanted:
        bitmap_merge(path, name, source, name)
        return
    found = {each.name: each for each in read_image(source, format="qcow2").bitmaps}
    # What is in memory alone is never left by a run that dies.
    descriptor = os.memfd_create("bitmap")
    try:
        copy = f"/proc/{os.getpid()}/fd/{descriptor}"
        change("create", "-q", "-f", "qcow2", "--", copy, str(size))
        bitmap_add(copy, name, found[name].granularity)
        bitmap_merge(copy, name, source, name)
        resize(copy, wanted)
        bitmap_merge(path, name, copy, name)
    finally:
        os.close(descriptor)


def _size(path: str) -> int:
    return read_image(path, format="qcow2", snapshots=False).virtual_size or 0
