# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that let the storage below the images take, drop and bring back snapshots.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .storage import Copy


@dataclass(frozen=True)
class SnapshotStorage:
    """Make all copies of a storage snapshot, and then its record: only that completes it.

    ``frozen`` is the snapshot of the running VM that keeps the images as they are meanwhile, ''
    for a VM that is off, which cannot start until this is done.
    """

    step: ClassVar[str] = "snapshot_storage"
    name: str
    copies: tuple[Copy, ...]
    frozen: str = ""


@dataclass(frozen=True)
class RemoveStorage:
    """Remove what there is of these copies, and then the record."""

    step: ClassVar[str] = "remove_storage"
    name: str
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class RevertStorage:
    """Let the disks of a VM that is off hold what these copies hold; the copies stay.

    While only some of them do the VM cannot start, since an image is missing. ``resume`` goes on
    where an earlier run has left.
    """

    step: ClassVar[str] = "revert_storage"
    name: str
    copies: tuple[Copy, ...]
    resume: bool = False

    @property
    def mark(self) -> str:
        """The note made in the journal when all is prepared, before the first disk changes."""
        return f"prepared {self.name}"

    def placed(self, copy: Copy) -> str:
        """The note made when a disk holds what its copy holds."""
        return f"placed {copy.target}"


@dataclass(frozen=True)
class UnprepareRevert:
    """Remove what was prepared for going back, before anything was changed."""

    step: ClassVar[str] = "unprepare_revert"
    name: str
    copies: tuple[Copy, ...]


StorageStep = (SnapshotStorage, RemoveStorage, RevertStorage, UnprepareRevert)
"""All of these, for isinstance."""


def is_about_storage(journal: Mapping[str, Any] | None) -> bool:
    """Whether a journal has such a step."""
    names = {kind.step for kind in StorageStep}
    return journal is not None and any(entry["step"]["step"] in names for entry in journal["steps"])
