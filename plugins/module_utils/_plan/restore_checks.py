# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a VM from being restored, seen before anything is touched.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from .._model.backup import RestorePoint
from .._model.names import in_shell
from .._model.problem import BadInput, Conflict, Damaged, NotFound, Problem, Unsupported
from .._model.restore import Places, RestoreWish, Seen, StoredVm
from .._model.step import RestoreDisk, RestoreFile
from .._model.stock import Stock
from .restore_places import wanted_places
from .room import OVERLAY_ROOM


def check_wish(wish: RestoreWish) -> None:
    """Refuse disks that the point does not have, and values that were made to mislead."""
    known = [disk.target for disk in wish.point.disks]
    unknown = [target for target in wish.disks if target not in known]
    if unknown:
        raise NotFound(
            f"restore point {wish.point.id} of VM {wish.point.vm} has no disk {', '.join(unknown)}",
            wanted=f"some of: {', '.join(known) or '(none)'}",
            todo="correct the option 'disks'",
        )
    if wish.point.uuid != wish.stock.uuid:
        raise unusable(wish.stock, wish.point, f"its manifest is of VM {wish.point.uuid}")


def check_point(wish: RestoreWish) -> None:
    """Refuse a point that something is known against."""
    trouble = wish.stock.trouble_of(wish.point)
    if trouble:
        raise unusable(wish.stock, wish.point, trouble)


def unusable(stock: Stock, point: RestorePoint, trouble: str) -> Problem:
    """The error for a point that would not restore, with the newest that would."""
    bad = {each.id for each in (point, *_on(stock, point))}
    good = [each for each in stock.good if each.id not in bad]
    instead = f"restore from {good[-1].id} ({good[-1].time})" if good else "there is no other point"
    return Damaged(
        f"restore point {point.id} of VM {point.vm} cannot be restored: {trouble}",
        wanted="a restore point of which every byte is as its manifest says",
        todo=f"{instead}, and look at the storage of the repository",
    )


def _on(stock: Stock, point: RestorePoint) -> list[RestorePoint]:
    """What shares the point, or the full image that it stands on."""
    return [each for each in stock.points if point in stock.lineage(each)]


def check_target(wish: RestoreWish, seen: Seen) -> None:
    """Refuse a VM that must not, or cannot, be defined anew."""
    vm = seen.vm
    if seen.absent:
        return
    if wish.clone:
        was = "another point or repository" if seen.marker else "no restore point"
        raise Conflict(
            f"there is a VM {vm.name} already, which comes from {was}",
            wanted=f"to restore {wish.point.id} of VM {wish.point.vm} under that name",
            todo="choose another name ('as'), or remove that VM",
        )
    if not vm.persistent:
        raise Unsupported(
            f"VM {vm.name} is transient: it is gone when it is stopped",
            wanted="a VM that libvirt keeps a definition of",
            todo="restore it under another name ('as'), or make it persistent (virsh define)",
        )
    if not vm.off and not wish.force:
        raise Conflict(
            f"VM {vm.name} is {vm.status}",
            wanted="a VM that is off, so that nothing is lost that nobody wanted to give up",
            todo="switch it off, or set 'force: true' to have it stopped once all is ready",
        )
    if vm.off and seen.managed_save:
        raise Conflict(
            f"VM {vm.name} has a managed save: its memory continues on the disks as they are",
            wanted="a VM that is really off",
            todo="start it, or drop the saved memory (virsh managedsave-remove"
            f" {in_shell(vm.name)})",
        )


def check_present(wish: RestoreWish, seen: Seen) -> None:
    """Refuse disks that the definition has no place for."""
    if not seen.absent:
        gone = [disk.target for disk in wish.wanted if seen.vm.disk(disk.target) is None]
        if gone:
            raise NotFound(
                f"VM {wish.name} has no disk {', '.join(gone)} any more",
                wanted="to put back what it held, in the definition that the VM has now",
                todo="attach such a disk first, choose others with 'disks', or restore under"
                " another name ('as')",
            )
    elif wish.disks and not wish.clone:
        raise BadInput(
            f"VM {wish.name} does not exist any more, and only some of its disks are wanted",
            wanted="all disks of the restore point",
            todo="leave out 'disks', or restore under another name ('as')",
        )


def check_places(
    wish: RestoreWish,
    disks: Sequence[RestoreDisk],
    files: Sequence[RestoreFile],
    stored: StoredVm,
    places: Places,
) -> None:
    """Refuse directories that cannot take what is to be made there."""
    need: dict[str, int] = {}
    steps: list[RestoreDisk | RestoreFile] = [*disks, *files]
    for step in steps:
        folder = posixpath.dirname(step.file)
        need[folder] = need.get(folder, 0) + _room(wish, step, stored)
    for folder, size in need.items():
        fact = places.directories[folder]
        if fact.trouble:
            raise NotFound(
                f"the directory {folder} {fact.trouble}",
                wanted=f"to make the files of VM {wish.name} there",
                todo="create it and make it writable, or set 'directory'",
            )
        if fact.free < size:
            raise Unsupported(
                f"{folder} has {fact.free} bytes free",
                wanted=f"at least {size} bytes for VM {wish.name}",
                todo="free space there, or choose another 'directory'",
            )


def _room(wish: RestoreWish, step: RestoreDisk | RestoreFile, stored: StoredVm) -> int:
    if isinstance(step, RestoreFile):
        file = wish.point.file(posixpath.basename(step.source))
        return file.size if file else 0
    grows = not wish.instant or wish.start
    return max(OVERLAY_ROOM if wish.instant else 0, stored.room[step.target] if grows else 0)


def directories(wish: RestoreWish, seen: Seen) -> tuple[str, ...]:
    """Where the images will be made."""
    return tuple(dict.fromkeys(place.directory for place in wanted_places(wish, seen).values()))
