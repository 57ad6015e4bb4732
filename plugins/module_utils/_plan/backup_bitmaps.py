# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bitmaps of ours that stayed in images when libvirt lost the records of their checkpoints.

Such a one is never used again, makes every write of the guest dearer, and is in the way of another
one of its name.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._model.backup import is_id
from .._model.backup_steps import RemoveBitmap
from .._model.backups import Backups
from .._model.state import VmState


def lost_bitmaps(vm: VmState, known: Backups) -> Iterator[RemoveBitmap]:
    """Their removal: by name those of this repository alone, and from active images alone."""
    found: dict[str, list[tuple[str, str]]] = {}
    for disk in vm.writable:
        if not disk.chain:
            continue
        active, *below = disk.chain
        names = {bitmap.name for bitmap in active.bitmaps}
        names.update(name for target, name in known.bitmaps if target == disk.target)
        # One that images below have as well is perhaps of the template that they are.
        names -= {bitmap.name for image in below for bitmap in image.bitmaps}
        for name in sorted(names):
            if _is_ours(name, known) and name not in known.checkpoints:
                found.setdefault(name, []).append((disk.target, active.filename))
    for name, disks in sorted(found.items()):
        yield RemoveBitmap(name, tuple(disks))


def _is_ours(name: str, known: Backups) -> bool:
    return name.startswith(known.prefix) and is_id(name[len(known.prefix) :])
