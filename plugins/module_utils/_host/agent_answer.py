# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests answer by their agents. A guest is not trusted, so that may be anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, TypeVar

from .._model.problem import Problem
from .._model.reference import shown

if TYPE_CHECKING:
    from .libvirt_dep import Domain

T = TypeVar("T")
_STATES = ("thawed", "frozen")


def understood(dom: Domain, command: str, answer: Any, read: Callable[[Any], T]) -> T:
    """What ``read`` makes of the answer to a command; Problem if the guest answers nonsense."""
    try:
        return read(answer)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise nonsense(dom, command, str(answer)) from error


def nonsense(dom: Domain, command: str, answer: str) -> Problem:
    """The problem of an answer that means nothing."""
    return Problem(
        f"the agent of VM {dom.name()} answers {command} with {shown(answer)}",
        wanted="what the protocol of the guest agent says",
        todo="look at qemu-guest-agent in the guest",
    )


def number(answer: Any) -> int:
    """A number of things. TypeError or ValueError for anything else."""
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise TypeError("no number")
    if answer < 0:
        raise ValueError("less than none")
    return answer


def text(answer: Any) -> str:
    """TypeError for what is none."""
    if not isinstance(answer, str):
        raise TypeError("no text")
    return answer


def freeze_state(answer: Any) -> str:
    """'thawed' or 'frozen'. ValueError for anything else."""
    if answer not in _STATES:
        raise ValueError("no state of a freeze")
    return str(answer)


def mounts(answer: Any) -> tuple[tuple[str, str], ...]:
    """(mount point, name of the file system). TypeError or LookupError for anything else."""
    return tuple((text(entry["mountpoint"]), text(entry["name"])) for entry in answer)
