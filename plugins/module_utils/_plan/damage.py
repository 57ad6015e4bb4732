# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a snapshot that libvirt lists could not be gone back to.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._model.snapshot import Snapshot
from .._model.state import VmState


def damages(vm: VmState, found: Snapshot) -> Iterator[str]:
    """Each thing that an external snapshot has lost, in words; none for one that is whole.

    An image holds its point as long as nothing is written to it: it must not be an active image,
    and what stands on it in a chain must be the overlay that the snapshot records. An overlay may
    be gone, as that of a snapshot beside the present state is.
    """
    for target, point in found.points.items():
        disk, file = vm.disk(target), found.overlays[target]
        depth = disk.depth_of(point) if disk else None
        if point in vm.missing:
            yield f"image {point}, which held that point of {target}, is gone"
        elif disk is not None and depth is not None and disk.depth_of(file) is None:
            yield (
                f"its overlay {file} is no longer in the chain of {target}, so image {point} no"
                " longer holds that point"
            )
    if found.memory_file in vm.missing:
        yield f"its memory file {found.memory_file} is gone"
