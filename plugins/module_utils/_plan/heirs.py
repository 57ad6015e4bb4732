# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who records an overlay from now on that another snapshot needs, when the one that made it goes.

Without a record nobody would know that it is ours, and it would stand in the way of all that is to
be merged below it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from .._model.snapshot import Snapshot
from .._model.state import VmState
from .._model.step import RewriteSnapshot


def handed_on(
    vm: VmState,
    dying: Sequence[Snapshot],
    *,
    gone: Container[str] = (),
    leaving: Container[str] = (),
    active: Container[str] = (),
) -> Iterator[RewriteSnapshot]:
    """The snapshots of ours that stay and get overlays of dying ones as former overlays of theirs.

    Only what is in no chain, or is ``leaving`` it, since the rest has its place; files that are
    ``gone`` afterwards have no heir. What another tool's snapshot needs any of ours records, since
    that cannot. So does any what stays ``active``, and would be left by going back to it.
    """
    staying = _staying(vm, dying)
    recorded = {file for found in staying for file in found.made}
    inherited: dict[str, list[str]] = {}
    for file in dict.fromkeys(file for found in dying if found.ours for file in found.made):
        chained = any(disk.depth_of(file) is not None for disk in vm.disks)
        heir = next((found for found in staying if _needs(vm, found, file)), None)
        if heir is None and staying and (file in active or _of_others(vm, dying, file)):
            heir = staying[0]
        free = not chained or file in leaving or file in active
        if heir and free and file not in recorded and file not in gone:
            inherited.setdefault(heir.name, []).append(file)
    for name, files in inherited.items():
        yield RewriteSnapshot(name, former=tuple(files))


def unrecorded(vm: VmState, dying: Sequence[Snapshot]) -> Iterator[str]:
    """Notes of overlays of dying ones that only other tools' snapshots need, where none has them.

    The removal of such a snapshot cannot know that they are ours.
    """
    made = dict.fromkeys(file for found in dying if found.ours for file in found.made)
    for file in made if not _staying(vm, dying) else ():
        user = _of_others(vm, dying, file)
        if user and not any(disk.depth_of(file) is not None for disk in vm.disks):
            how = f"qcow2_overlay with path {file}, state absent"
            yield (
                f"{vm.name}: {file} was kept, since snapshot {user} of another tool needs it; when"
                f" that is gone, remove it ({how if vm.chain_of(file)[1:] else 'delete the file'})"
            )


def _of_others(vm: VmState, dying: Sequence[Snapshot], file: str) -> str:
    """A snapshot of another tool that stays and needs an image, '' if none does."""
    others = (found for found in vm.snapshots if not found.ours and found not in dying)
    return next((found.name for found in others if _needs(vm, found, file)), "")


def _staying(vm: VmState, dying: Sequence[Snapshot]) -> list[Snapshot]:
    return [found for found in vm.snapshots if found.ours and found not in dying]


def _needs(vm: VmState, found: Snapshot, file: str) -> bool:
    """Whether a snapshot could not be gone back to without an image."""
    return any(
        file in (image.filename, image.file.real)
        for entry in found.taken
        for image in vm.chain_of(found.image_before(entry.target))
    )
