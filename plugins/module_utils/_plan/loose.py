# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of ours that nothing needs any more when snapshots go, whatever lets them go.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from .._model.image import Image
from .._model.snapshot import Snapshot
from .._model.state import VmState
from .._model.step import RemoveFile

HELD = "held the point of a removed snapshot"


def abandoned(
    vm: VmState, doomed: Sequence[Snapshot], but: Container[str] = ()
) -> tuple[RemoveFile, ...]:
    """The removal of what these snapshots have made, or only they stand on, in no chain.

    The files of ``but`` are the business of others.
    """
    steps = (*loose_overlays(vm, doomed), *held_beside(vm, doomed))
    return tuple(step for step in steps if step.file not in but)


def loose_overlays(vm: VmState, doomed: Sequence[Snapshot]) -> Iterator[RemoveFile]:
    """Overlays of the snapshots that are in no chain any more (changed by hand, or reverted)."""
    needed = needed_without(vm, doomed)
    for snapshot in doomed:
        for target, file in snapshot.overlays.items():
            loose = file not in vm.missing and not vm.in_a_chain(file)
            if loose and file not in needed and vm.disk(target) is not None:
                yield RemoveFile(file, f"overlay of snapshot {snapshot.name}, in no chain")
        for file in snapshot.former:
            if file not in vm.missing and not vm.in_a_chain(file) and file not in needed:
                yield RemoveFile(file, f"former overlay of snapshot {snapshot.name}", spare=True)


def held_beside(vm: VmState, doomed: Sequence[Snapshot]) -> Iterator[RemoveFile]:
    """Images of ours beside the present state that only these snapshots go back to."""
    needed = needed_without(vm, doomed)
    made = {file for snapshot in vm.snapshots if snapshot.ours for file in snapshot.made}
    found = {image.filename: image for snapshot in doomed for image in points_of(vm, snapshot)}
    for path in found:
        gone = path in made and path not in needed and not vm.in_a_chain(path)
        # What a snapshot of these made itself goes as its overlay.
        if gone and not any(path in snapshot.made for snapshot in doomed):
            yield RemoveFile(path, HELD, spare=True)


def needed_without(vm: VmState, doomed: Sequence[Snapshot]) -> set[str]:
    """What the snapshots that stay are made of."""
    staying = surviving(vm, doomed)
    needed = {image.filename for s in staying for image in points_of(vm, s)}
    return needed.union(file for s in staying for file in s.overlays.values())


def surviving(vm: VmState, doomed: Sequence[Snapshot]) -> list[Snapshot]:
    return [snapshot for snapshot in vm.snapshots if snapshot not in doomed]


def points_of(vm: VmState, snapshot: Snapshot) -> Iterator[Image]:
    """All images that a snapshot needs to be gone back to."""
    for entry in snapshot.taken:
        yield from vm.chain_of(snapshot.image_before(entry.target))
