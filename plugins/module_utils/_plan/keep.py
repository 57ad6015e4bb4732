# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which overlays of a chain can be merged without harm to what somebody needs.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._model.snapshot import CHECKPOINT, Snapshot
from .._model.state import DiskState, VmState
from .own import doubt, own_disk


def spans_by_depth(
    vm: VmState, disk: DiskState, max_depth: int
) -> tuple[tuple[tuple[int, int], ...], str]:
    """(depth of top, depth of base) of each merge, lowest first, and a note if that is not enough.

    Of the overlays that nobody needs the oldest go, until ``max_depth`` images are left down to the
    VM's own disk.
    """
    own = own_disk(vm, disk)
    excess = own.depth + 1 - max_depth
    needed = dict(_needed(vm, disk)) if excess > 0 else {}
    spans: list[tuple[int, int]] = []
    base = own.depth
    for depth in reversed(range(own.depth)):
        if excess <= 0:
            break
        if depth in needed:
            base = depth
            continue
        if spans and spans[-1][1] == base:
            spans.pop()
        spans.append((depth, base))
        excess -= 1
    note = _note(vm, disk, max_depth + excess, needed) if excess > 0 else ""
    if own.doubt and not note and own.lowest >= max_depth:
        note = f"{vm.name}: {doubt(vm, disk, own).found}; neither was written"
    return tuple(spans), note


def _note(vm: VmState, disk: DiskState, left: int, needed: dict[int, str]) -> str:
    reasons = "; ".join(dict.fromkeys(needed.values()))
    return f"{vm.name}: {left} images stay in the chain of {disk.target}: {reasons}"


def _needed(vm: VmState, disk: DiskState) -> Iterator[tuple[int, str]]:
    """The depth of each overlay that has to stay, and why.

    It may not be merged for its own sake, or since the image below it is not to be written.
    """
    for snapshot in vm.snapshots:
        overlay = disk.depth_of(snapshot.overlays.get(disk.target, ""))
        point = disk.depth_of(snapshot.points.get(disk.target, ""))
        why = _why(snapshot, beside=overlay is None)
        for depth in (overlay, None if point is None else point - 1):
            if why and depth is not None:
                yield depth, why
    others = {real for other in vm.disks if other.target != disk.target for real in other.real}
    for depth, image in enumerate(disk.chain):
        if image.filename in vm.shared or image.file.real in others:
            why = f"something else stands on {image.filename}"
            yield depth, why
            yield depth - 1, why
        elif image.snapshots:
            yield depth, f"{image.filename} holds internal snapshots"


def _why(snapshot: Snapshot, *, beside: bool) -> str:
    """Why a snapshot is to be kept, '' if it may go."""
    if snapshot.kind == CHECKPOINT:
        return f"checkpoint {snapshot.name} is kept"
    if not snapshot.ours:
        return f"snapshot {snapshot.name} was taken by another tool"
    return f"snapshot {snapshot.name} is beside the present state" if beside else ""
