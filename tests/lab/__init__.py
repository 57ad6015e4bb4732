# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small lab of real virtual machines; see README.md beside this file."""

from __future__ import annotations

from .agent import CommandFailed, GuestSilent
from .core import Lab
from .disks import Disk
from .programs import LabError
from .records import Record, RecordsDamaged
from .vm import VM, wait_until

__all__ = [
    "VM",
    "CommandFailed",
    "Disk",
    "GuestSilent",
    "Lab",
    "LabError",
    "Record",
    "RecordsDamaged",
    "wait_until",
]
