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
THAW_COMMAND, STATUS_COMMAND = "guest-fsfreeze-thaw", "guest-fsfreeze-status"
FREEZE_COMMANDS = ("guest-fsfreeze-freeze", THAW_COMMAND, STATUS_COMMAND)
"""What an agent has to allow before a guest is frozen: one that may not thaw stays frozen."""
PART_COMMANDS = ("guest-fsfreeze-freeze-list", "guest-get-fsinfo")
"""What it has to allow to freeze only some file systems."""
PROGRAM_COMMANDS = ("guest-exec", "guest-exec-status")
"""What it has to allow to run a program."""
NOT_WRITTEN_OUT = "not all was written out before the freeze"
ALLOW = (
    "allow it in the guest (block-rpcs and allow-rpcs in /etc/qemu/qemu-ga.conf, BLOCK_RPCS or"
    " FILTER_RPC_ARGS in /etc/sysconfig/qemu-ga), and restart its agent"
)


@dataclass(frozen=True)
class Guest:
    """What the guest agent says: ``status`` is thawed or frozen, or '' if ``trouble`` says why not.

    ``mounts`` are (mount point, file system) of what can be frozen, as far as the agent tells: it
    does not while the guest is frozen. ``blocked`` are the commands that it does not allow.
    """

    status: str
    trouble: str = ""
    mounts: tuple[tuple[str, str], ...] = ()
    blocked: tuple[str, ...] = ()


@dataclass(frozen=True)
class FreezeRecord:
    """A freeze of ours that outlives its run, as the state directory records it.

    ``deadline`` is how many seconds it may last, ``until`` the time when they are over (ISO 8601,
    '' where it is only foreseen). ``asked`` are the mount points that were asked for, none for
    all; ``mountpoints`` are those that were frozen. ``flush_ms`` is how long the guest wrote out
    before.
    """

    token: str
    deadline: int
    until: str
    asked: tuple[str, ...]
    mountpoints: tuple[str, ...]
    expired: bool = False
    flush_ms: int = 0


@dataclass(frozen=True)
class FreezeGuest:
    """Freeze the guest's file systems and leave it so, for at most ``deadline`` seconds.

    ``mountpoints`` are what will be frozen; they were ``chosen``, or are all that there are.
    ``flush_timeout`` is how many seconds the guest may write out before, 0 where it need not.
    """

    step: ClassVar[str] = "freeze_guest"
    mountpoints: tuple[str, ...]
    deadline: int
    chosen: bool = False
    flush_timeout: int = 0


@dataclass(frozen=True)
class ThawGuest:
    """Thaw the guest's file systems, whoever has frozen them."""

    step: ClassVar[str] = "thaw_guest"
