# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan for a backup wants to know of a VM beside the VM.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .backup import RestorePoint
from .stock import Stock


@dataclass(frozen=True)
class Backups:
    """A VM's restore points in one repository, and libvirt's side of them.

    ``repository_id`` is what it is to get where it is ``new``, a directory that is none yet.
    ``checkpoints`` are all that libvirt has of the VM, and ``unsound`` says why the bitmaps of one
    cannot be used, where that was looked at. ``job`` are the files that a backup job writes, None
    for no job. ``saved``: the VM is off and its memory is saved. ``stopped``: an I/O error has
    paused it, for which its own images give no reason. ``tpm`` are the files with the state of its
    emulated TPM, ``tpm_place`` is where they are to be, '' without such a device.
    ``bitmaps`` are those that QEMU has of the disks of a running VM, as (target, name), where
    records of libvirt seem to be lost. ``nvram`` is the file with the variables of its firmware,
    ``nvram_place`` where it is to be.
    """

    repository_id: str
    stock: Stock
    now: datetime
    checkpoints: tuple[str, ...] = ()
    unsound: str = ""
    job: tuple[str, ...] | None = None
    saved: bool = False
    new: bool = False
    stopped: bool = False
    tpm: tuple[str, ...] = ()
    tpm_place: str = ""
    bitmaps: tuple[tuple[str, str], ...] = ()
    nvram: str = ""
    nvram_place: str = ""

    @property
    def prefix(self) -> str:
        """How the names of our checkpoints for this repository begin."""
        return f"vmkeep-{self.repository_id}-"

    @property
    def ours(self) -> tuple[str, ...]:
        """The checkpoints that were made for this repository."""
        return tuple(name for name in self.checkpoints if name.startswith(self.prefix))

    @property
    def tracked(self) -> RestorePoint | None:
        """The newest restore point that libvirt has the checkpoint of, None without one."""
        known = (point for point in reversed(self.stock.points) if point.checkpoint)
        return next((point for point in known if point.checkpoint in self.checkpoints), None)

    @property
    def newest(self) -> RestorePoint | None:
        """The newest restore point that nothing is known against."""
        return self.stock.good[-1] if self.stock.good else None
