# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest agent may not do: who runs it can block each of its commands.

Follows https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html (guest-info).

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._model.freeze import (
    FREEZE_COMMANDS,
    FROZEN,
    PART_COMMANDS,
    PROGRAM_COMMANDS,
    THAW_COMMAND,
    THAWED,
)
from .._model.problem import Problem, Unreachable
from .connection import AGENT_SILENT, code_of
from .freeze import STATUS_SECONDS, agent, freeze_status

if TYPE_CHECKING:
    from .libvirt_dep import Domain


def agent_state(dom: Domain) -> tuple[str, tuple[str, ...]]:
    """What it says of a freeze (see ``freeze_status``), and the commands that it does not allow.

    Of the latter those that freeze or run programs, as far as it tells. A guest that is frozen does
    not: it allows next to nothing then. Unreachable where libvirt is lost.
    """
    try:
        info = agent(dom, "guest-info", STATUS_SECONDS)
    except Unreachable:
        raise
    except Problem as problem:
        if code_of(problem.__cause__) in AGENT_SILENT:
            return "silent", ()
        info = None
    status = freeze_status(dom)
    if status == FROZEN:
        return status, ()
    allowed = _enabled(info)
    if allowed:
        return status, _missing(allowed)
    return status, _not_thawing(dom) if status == THAWED else ()


def _not_thawing(dom: Domain) -> tuple[str, ...]:
    """Whether an agent that tells nothing allows a thaw: it is tried on a guest that is thawed."""
    try:
        agent(dom, THAW_COMMAND, STATUS_SECONDS)
    except Unreachable:
        raise
    except Problem:
        return (THAW_COMMAND,)
    return ()


def _missing(allowed: frozenset[str]) -> tuple[str, ...]:
    wanted = (*FREEZE_COMMANDS, *PART_COMMANDS, *PROGRAM_COMMANDS)
    return tuple(name for name in wanted if name not in allowed)


def _enabled(info: Any) -> frozenset[str]:
    """The commands that a guest may be asked for; it may answer anything."""
    try:
        entries = info["supported_commands"]
        return frozenset(str(entry["name"]) for entry in entries if entry["enabled"])
    except (KeyError, TypeError):
        return frozenset()
