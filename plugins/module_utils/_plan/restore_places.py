# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the files of a restored VM are made.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from .._model.backup import NVRAM, TPM, StoredDisk
from .._model.firmware import nvram_file, tpm_folder
from .._model.names import file_part
from .._model.problem import Unsupported
from .._model.restore import Places, RestoreWish, Seen, StoredVm
from .._model.restored_xml import stored_domain

_MOST_NAMES = 10_000
# What vm_backup writes before the name of each file.
_TPM = "tpm."


@dataclass(frozen=True)
class Place:
    """A directory, and the names that a file in it may have; ``what`` it is: a target, or nvram."""

    directory: str
    stem: str
    suffix: str
    what: str

    def path(self, number: int = 0) -> str:
        behind = f"-{number}" if number else ""
        return posixpath.join(self.directory, f"{self.stem}{behind}{self.suffix}")


def final_path(place: Place, places: Places) -> str:
    """The first name that nothing has, but for what a dead run left and this one removes."""
    gone = {draft.final for draft in places.drafts}
    paths = (place.path(number) for number in range(_MOST_NAMES))
    return next(path for path in paths if path not in places.taken or path in gone)


def wanted_places(wish: RestoreWish, seen: Seen) -> dict[str, Place]:
    """target -> where its new image is made. Unsupported where that has to be said."""
    return {disk.target: _place(wish, seen, disk) for disk in wish.wanted}


def _place(wish: RestoreWish, seen: Seen, disk: StoredDisk) -> Place:
    raw = disk.format == "raw" and not wish.instant
    return Place(
        directory=wish.directory or _beside(wish, seen, disk),
        stem=f"{file_part(wish.name)}-{disk.target}.{wish.point.id}",
        suffix=".raw" if raw else ".qcow2",
        what=disk.target,
    )


def _beside(wish: RestoreWish, seen: Seen, disk: StoredDisk) -> str:
    """The directory of the present image, or of the one that was backed up."""
    present = seen.vm.disk(disk.target)
    source = present.disk.source if present else None
    if source is not None and source.kind == "file" and source.path:
        return posixpath.dirname(source.path)
    if source is None and disk.source.startswith("/") and not disk.source.startswith("/dev/"):
        return posixpath.dirname(disk.source)
    shown = source if source is not None else disk.source or "not a file"
    raise Unsupported(
        f"the source of disk {disk.target} of VM {wish.name} is {shown}",
        wanted="a file, beside which a new image can be made",
        todo="set 'directory': the disk becomes a file there; or leave it out ('disks')",
    )


def tpm_files(wish: RestoreWish, seen: Seen, stored: StoredVm) -> Iterator[tuple[str, str]]:
    """The state of an emulated TPM: (name below the VM's directory for it, file of the point).

    Nothing where only some disks are restored, or the VM has no such device.
    """
    definition = stored.definition if seen.absent else seen.xml
    folder = tpm_folder(stored_domain(definition, wish.point.id), own=wish.clone)
    if wish.disks or not folder:
        return
    for file in wish.point.files:
        if file.role == TPM:
            name = file.name[len(_TPM) :] if file.name.startswith(_TPM) else file.name
            yield posixpath.join(folder, name), stored_path(wish, file.name)


def stored_path(wish: RestoreWish, name: str) -> str:
    """A file of the point, which is no image."""
    return posixpath.join(wish.stock.directory, wish.point.id, name)


def nvram_place(wish: RestoreWish, seen: Seen, stored: StoredVm) -> Iterator[tuple[Place, str]]:
    """Where the variables of the firmware go, and which file of the point they are.

    Nothing where only some disks are restored, or the VM has no such file.
    """
    file = wish.point.of_role(NVRAM)
    if file is None or wish.disks:
        return
    root = stored_domain(stored.definition, wish.point.id)
    then = nvram_file(root)
    now = then if seen.absent else seen.vm.live.nvram or then
    if not now.startswith("/"):
        return
    suffix = posixpath.splitext(now)[1] or ".fd"
    stem = f"{file_part(wish.name)}_VARS.{wish.point.id}"
    place = Place(posixpath.dirname(now), stem, suffix, "nvram")
    yield place, stored_path(wish, file.name)
