# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that switch a VM off or on, or let it go on from somewhere.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ResumeVm:
    """Let the vCPUs run that this run, or one that died, has paused."""

    step: ClassVar[str] = "resume_vm"


@dataclass(frozen=True)
class StopVm:
    """Cut the power. What the guest holds in memory is lost; its disks stay as they are."""

    step: ClassVar[str] = "stop_vm"


@dataclass(frozen=True)
class StartVm:
    """Boot the VM from what its definition says; ``paused``: its vCPUs wait."""

    step: ClassVar[str] = "start_vm"
    paused: bool = False


@dataclass(frozen=True)
class DefineAsOf:
    """Define the VM as it was when a snapshot was taken, with its disks on these images.

    ``disks`` are (target, image, format) of all disks that have a source, ``attached`` those that
    the VM does not have, or not on what they were, ``media`` what is put into drives again, and
    ``detached`` what leaves it: each (target, image).
    """

    step: ClassVar[str] = "define_as_of"
    snapshot: str
    disks: tuple[tuple[str, str, str], ...]
    attached: tuple[tuple[str, str], ...] = ()
    media: tuple[tuple[str, str], ...] = ()
    detached: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RestoreMemory:
    """Let the VM go on from a memory file, with its disks on these images (see DefineAsOf)."""

    step: ClassVar[str] = "restore_memory"
    file: str
    disks: tuple[tuple[str, str, str], ...]
    paused: bool = False


@dataclass(frozen=True)
class RevertInternal:
    """Bring back what the images hold under this name, the memory too if it is there.

    ``status`` is how the VM is to be afterwards: running, paused or shutoff. ``attached``,
    ``media`` and ``detached``: see DefineAsOf.
    """

    step: ClassVar[str] = "revert_internal"
    name: str
    images: tuple[str, ...]
    status: str
    attached: tuple[tuple[str, str], ...] = ()
    media: tuple[tuple[str, str], ...] = ()
    detached: tuple[tuple[str, str], ...] = ()

    def mark(self, number: str) -> str:
        """The note made in the journal before libvirt is told; ``number``: see Definition."""
        return f"reverting to {self.name} from {number}"
