# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands on an image now, and what that tells of a snapshot which needs it as it was.

This is for images that no stamp tells of, as those of other tools' snapshots.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .._model.image import Image
from .._model.snapshot import Snapshot
from .._model.stamp import SECOND
from .._model.state import DiskState, VmState
from .snapshot_files import made_for


def part_of(found: Snapshot, target: str, path: str) -> str:
    """An image of a snapshot's disk in words."""
    if path == found.image_before(target):
        return f"image {path}, which held that point of {target}"
    return f"image {path}, on which that point of {target} stands"


def depth_of(disk: DiskState, image: Image) -> int | None:
    depth = disk.depth_of(image.filename)
    return disk.depth_of(image.file.real) if depth is None else depth


def _standing(disk: DiskState, images: Sequence[Image]) -> tuple[str, str]:
    """The topmost of these images that a disk's chain has, and what stands on it there; or ''."""
    for image in images:
        depth = depth_of(disk, image)
        if depth:
            return image.filename, disk.chain[depth - 1].filename
        if depth == 0:
            break
    return "", ""


def _origins(vm: VmState, target: str, overlay: str) -> tuple[str, ...]:
    """The images on which snapshots once put an overlay."""
    return tuple(
        snapshot.image_before(target)
        for snapshot in vm.snapshots
        if made_for(snapshot, target, overlay)
    )


def displaced(
    vm: VmState, found: Snapshot, target: str, images: Sequence[Image], image: Image
) -> Iterator[str]:
    """Whether newer data was merged into an image, as far as what stands on it now tells."""
    disk = vm.disk(target)
    below, above = _standing(disk, images) if disk else ("", "")
    origins = _origins(vm, target, above)
    if disk is None or below != image.filename or below in origins:
        return
    if any(origin == held_one.filename for held_one in images for origin in origins):
        return
    lost = lost_overlay(vm, found, target, below)
    if lost:
        yield lost
    elif origins:
        yield f"{part_of(found, target, below)}, carries {above} now, which stood on {origins[0]}"
    elif image.file.time >= (found.created + 1) * SECOND and below != found.image_before(target):
        yield (
            f"{part_of(found, target, below)}, was written to since, and carries {above} now, of"
            " which nobody knows what it was put on"
        )


def lost_overlay(vm: VmState, found: Snapshot, target: str, image: str) -> str:
    """What to say of a point in a chain without the overlay that was put on it; else ''."""
    disk, overlay = vm.disk(target), found.overlays.get(target, "")
    in_chain = disk is not None and disk.depth_of(image) is not None
    if not overlay or not in_chain or image != found.image_before(target):
        return ""
    if disk is not None and disk.depth_of(overlay) is not None:
        return ""
    return (
        f"its overlay {overlay} is no longer in the chain of {target}, so image {image} no longer"
        " holds that point"
    )
