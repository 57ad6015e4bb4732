# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that put the memory of a VM into a file, and let it go on from there.

In each, ``file`` is where the save is (for a ``managed`` one '' if that is not known).

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class SaveMemory:
    """Write the memory to the file, mode 0600, and switch the VM off.

    ``disks`` are those that it will go on from. ``paused``: its vCPUs wait already.
    """

    step: ClassVar[str] = "save_memory"
    file: str
    managed: bool
    disks: tuple[str, ...]
    paused: bool = False


@dataclass(frozen=True)
class RestoreSave:
    """Let the VM go on from the save."""

    step: ClassVar[str] = "restore_save"
    file: str
    managed: bool


@dataclass(frozen=True)
class RemoveSave:
    """Remove a save that the VM cannot go on from any more; ``why`` says what it was."""

    step: ClassVar[str] = "remove_save"
    file: str
    managed: bool
    why: str


@dataclass(frozen=True)
class RecordSave:
    """Record what the disks are, as it is done after each save."""

    step: ClassVar[str] = "record_save"
    file: str
    managed: bool
