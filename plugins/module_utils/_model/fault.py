# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any exception as the problem of the one entry that met it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import traceback

from .problem import Problem
from .reference import shown

_OURS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
# What an exception says may hold what it stumbled over, which can be long.
_LONGEST_TEXT, _LONGEST_TRACE = 200, 20_000


class Fault(Problem):
    """What this collection should have foreseen, and has not; the exception is its cause."""


def as_problem(error: Exception, what: str) -> Problem:
    """An exception that ended the work on one entry; a problem stays as it is.

    ``what`` names the entry, such as ``VM db01``.
    """
    if isinstance(error, Problem):
        return error
    made = _of_the_system(error, what) if isinstance(error, OSError) else None
    if made is None:
        kind = type(error).__name__
        made = Fault(
            f"{what}: {kind} ({_said(error)}) in {_place(error)}, which nobody had expected",
            wanted="to go on; this is a fault of the collection vmkeep.libvirt, not of the task",
            todo="report it with the key 'exception' of this result, and run the task again, which"
            " brings in order what was begun",
        )
    made.__cause__ = error
    return made


def trace_of(problem: Problem) -> str:
    """The traceback of a fault, from the outermost call to the innermost; '' for other problems."""
    if not isinstance(problem, Fault):
        return ""
    error: BaseException | None = problem
    seen: set[int] = set()
    while isinstance(error, Problem) and id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__
    if error is None or isinstance(error, Problem):
        return ""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines)[-_LONGEST_TRACE:]


def _of_the_system(error: OSError, what: str) -> Problem | None:
    """What the system has refused, None for an OSError that does not come from there."""
    if not error.strerror:
        return None
    named = error.filename
    where = shown(named) if isinstance(named, str) else _place(error)
    return Problem(
        f"{what}: {where}: {error.strerror}",
        wanted="to work on this file",
        todo="look at its owner and mode, at the space and the mount of its file system, and in the"
        " kernel's log for what AppArmor or SELinux denied; then run the task again",
    )


def _said(error: Exception) -> str:
    """The text of an exception, short and in one line."""
    try:
        text = str(error)
    except Exception:
        text = "it cannot be shown"
    return shown(text, _LONGEST_TEXT) if text else "without a text"


def _place(error: Exception) -> str:
    """The innermost line of ours that was at work, else the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_OURS)]
    if ours:
        return f"{ours[-1].filename[len(_OURS) :]}:{ours[-1].lineno}"
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "no line"
