# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests whose file systems are frozen for longer than one run.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

FROZEN, THAWED = "frozen", "thawed"


@dataclass(frozen=True)
class Guest:
    """What the guest agent says: ``status`` is thawed or frozen, or '' if ``trouble`` says why not.

    ``mounts`` are (mount point, file system) of what can be frozen, as far as the agent tells: it
    does not while the guest is frozen.
    """

    status: str
    trouble: str = ""
    mounts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class FreezeRecord:
    """A freeze of ours that outlives its run, as the state directory records it.

    ``deadline`` is how many seconds it may last, ``until`` the time when they are over (ISO 8601,
    '' where it is only foreseen). ``asked`` are the mount points that were asked for, none for
    all; ``mountpoints`` are those that were frozen.
    """

    token: str
    deadline: int
    until: str
    asked: tuple[str, ...]
    mountpoints: tuple[str, ...]
    expired: bool = False


@dataclass(frozen=True)
class FreezeGuest:
    """Freeze the guest's file systems and leave it so, for at most ``deadline`` seconds.

    ``mountpoints`` are what will be frozen; they were ``chosen``, or are all that there are.
    """

    step: ClassVar[str] = "freeze_guest"
    mountpoints: tuple[str, ...]
    deadline: int
    chosen: bool = False


@dataclass(frozen=True)
class ThawGuest:
    """Thaw the guest's file systems, whoever has frozen them."""

    step: ClassVar[str] = "thaw_guest"
