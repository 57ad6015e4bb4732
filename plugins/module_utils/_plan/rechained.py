# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that a snapshot needs and that somebody has put on another base since it was taken.

None of the images has to change for that, but for a name in one header: the content is another one
all the same. What an image stood on then is in its stamp.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .._model.image import Image
from .._model.reference import full_name
from .._model.snapshot import Snapshot
from .._model.stamp import Stamp
from .._model.state import VmState


@dataclass(frozen=True)
class OtherBase:
    """``image`` stands on ``now``, and not on ``then`` as it did; '' is for nothing at all."""

    image: str
    now: str
    then: str


def other_bases(
    vm: VmState, found: Snapshot, target: str, images: Sequence[Image]
) -> Iterator[OtherBase]:
    """For each image of a disk that a snapshot needs whether it stands on what it did.

    One that is known to have been written to by a run of ours is left out, and what has been moved
    to another place together with all that stands on it is the same.
    """
    stamps = {stamp.image: stamp for stamp in _known(vm, found)}
    above = () if target in found.overlays else (found.image_before(target),)
    names = (*above, *(image.filename for image in images))
    for name, below in zip(names, (*images[1 - len(above) :], None)):
        stamp = stamps.get(name)
        then = _stood_on(stamp) if stamp else ""
        if stamp and stamp.tables and not _same(vm, found, then, below):
            yield OtherBase(name, below.filename if below else "", then)


def higher_point(vm: VmState, found: Snapshot, target: str) -> str:
    """The image that held a disk's point where the record names one below it now, else ''.

    When the record of a snapshot is deleted (``virsh snapshot-delete --metadata``), libvirt lets
    those above it name what that one went back to.
    """
    point = found.image_before(target)
    stamps = {stamp.image: stamp for stamp in _known(vm, found) if not stamp.inside}
    if target not in found.overlays or point not in stamps:
        return ""
    return next((name for name, stamp in stamps.items() if _stood_on(stamp) == point), "")


def _known(vm: VmState, found: Snapshot) -> Iterator[Stamp]:
    """The stamps that are not out of date."""
    looked_at = {seen.image for seen in vm.seen if seen.snapshot == found.name}
    return (stamp for stamp in found.stamps if stamp.image in looked_at)


def _stood_on(stamp: Stamp) -> str:
    return posixpath.normpath(full_name(stamp.image, stamp.backing)) if stamp.backing else ""


def _same(vm: VmState, found: Snapshot, then: str, below: Image | None) -> bool:
    """Whether an image is the one of then, perhaps in another place."""
    if not then or below is None:
        return not then and below is None
    names = (posixpath.normpath(below.filename), below.file.real)
    moved = then in vm.missing and all(stamp.image not in names for stamp in found.stamps)
    return then in names or moved
