# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots that nothing is left of, since their overlays were committed by hand.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from .._model.snapshot import CHECKPOINT, Snapshot
from .._model.state import VmState
from .._model.step import CommitDisk, RemoveFile
from .users import removal_of


def spent(
    vm: VmState, merges: Sequence[CommitDisk], targets: Container[str]
) -> tuple[Snapshot, ...]:
    """Snapshots of ours that these merges end, with what was committed by hand before.

    Where nothing is merged it has to be about one of ``targets``.
    """
    merged = {path for step in merges for path in step.merged}
    return tuple(found for found in vm.snapshots if _is_spent(vm, found, merged, targets))


def _is_spent(
    vm: VmState, found: Snapshot, merged: Container[str], targets: Container[str]
) -> bool:
    by_hand = [target for target, file in found.overlays.items() if _is_over(vm, found, target)]
    now = [target for target, file in found.overlays.items() if file in merged]
    if not found.ours or found.kind == CHECKPOINT or not by_hand:
        return False
    concerned = bool(now) or any(target in targets for target in by_hand)
    return concerned and len(by_hand) + len(now) == len(found.overlays)


def _is_over(vm: VmState, found: Snapshot, target: str) -> bool:
    """Whether its overlay was committed by hand, or removed, and the disk writes to its point.

    Where several were removed, each stood on the next one.
    """
    file, point, disk = found.overlays[target], found.image_before(target), vm.disk(target)
    if file in vm.committed:
        return True
    if file not in vm.missing or disk is None:
        return False
    below = next((other for other in vm.snapshots if point in other.overlays.values()), None)
    over = below is not None and below is not found and _is_over(vm, below, target)
    return over or disk.depth_of(point) == 0


def removed_with(vm: VmState, gone: Sequence[Snapshot]) -> Iterator[RemoveFile]:
    """Their overlays that were committed by hand; what was in them is in the chains."""
    for found in gone:
        for file in found.overlays.values():
            if file in vm.committed:
                yield RemoveFile(file, f"overlay of snapshot {found.name}, committed by hand")


def left_by_hand(vm: VmState, gone: Sequence[Snapshot], targets: Container[str]) -> Iterator[str]:
    """A note for each snapshot that stays on record though it cannot be gone back to.

    What was in its overlay may be nowhere else, so only one who names it has it removed.
    """
    for found in vm.snapshots:
        for target, file in found.overlays.items() if found not in gone else ():
            disk = vm.disk(target)
            on_top = disk is not None and disk.depth_of(found.image_before(target)) == 0
            if on_top and target in targets and file not in vm.missing:
                yield (
                    f"{vm.name}: snapshot {found.name} stays on record, and cannot be gone back to:"
                    f" {target} is on {found.image_before(target)} again, and {file} may hold what"
                    f" nothing else does; to have both gone, {removal_of(found)}"
                )
