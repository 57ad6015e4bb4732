# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that a person can act on.

This util is PRIVATE to the collection.
"""

from __future__ import annotations


class Problem(Exception):
    """What was found, what was wanted, and what to do about it.

    ``found`` names the VM, disk or file; ``wanted`` and ``todo`` may be left out
    only where ``found`` says it all.
    """

    def __init__(self, found: str, *, wanted: str = "", todo: str = "") -> None:
        self.found = found
        self.wanted = wanted
        self.todo = todo
        parts = [found, f"Wanted: {wanted}" if wanted else "", f"To do: {todo}" if todo else ""]
        super().__init__(". ".join(part.rstrip(".") for part in parts if part) + ".")


class BadInput(Problem):
    """An option that can never work, seen before anything was touched."""


class NotFound(Problem):
    """A VM, disk, snapshot or file that does not exist (and only that: see Unreachable)."""


class Conflict(Problem):
    """Something is in the way: a file, a snapshot that differs, a foreign job or user."""


class Unsupported(Problem):
    """This libvirt, QEMU, disk type or state cannot do it."""


class Busy(Problem):
    """Another run or job holds the VM; trying again later may work."""


class TimedOut(Problem):
    """A deadline passed."""


class Unreachable(Problem):
    """The daemon or the connection to it failed; the outcome of a call is unknown."""


class Damaged(Problem):
    """A file whose content breaks the rules of its format: truncated, torn or made to mislead."""


class Denied(Problem):
    """The system refuses this user something. That tells nothing about what is there."""


class Unwritten(Problem):
    """A record could not be written or removed: the one that was there is as it was."""
