# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running programs in a guest by its agent.

Follows https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from .._model.problem import Conflict, Problem, TimedOut, Unreachable
from .agent_answer import number, text, understood
from .connection import call
from .freeze import agent

if TYPE_CHECKING:
    from .libvirt_dep import Domain

_ANSWER_SECONDS = 5
_POLL_SECONDS = 0.2
# A program is asked for often at first, and then less and less often.
_FIRST_POLL_SECONDS, _LONGER = 0.02, 1.3
# A status by a signal is told as a shell tells it.
_SIGNAL = 128
T = TypeVar("T")


def wait_for_agent(dom: Domain, seconds: float) -> float:
    """Return once the agent answers, with how long that took; it is asked at least once.

    Conflict for a VM that is off, Unreachable where the agent does not answer in time.
    """
    began = time.monotonic()
    while True:
        if not call(f"reading VM {dom.name()}", dom.isActive):
            raise Conflict(
                f"VM {dom.name()} is off", wanted="a guest whose agent answers", todo="start it"
            )
        try:
            agent(dom, "guest-ping", _ANSWER_SECONDS)
            return round(time.monotonic() - began, 3)
        except Problem as problem:
            if time.monotonic() - began >= seconds:
                raise Unreachable(
                    f"the agent of VM {dom.name()} does not answer: {problem.found}",
                    wanted=f"an answer within {seconds} s",
                    todo="see whether the guest boots and runs qemu-guest-agent, or wait longer"
                    " (option 'wait')",
                ) from problem
        time.sleep(_POLL_SECONDS)


def execute(
    dom: Domain, command: Sequence[str], timeout: float, patience: float = _ANSWER_SECONDS
) -> dict[str, Any]:
    """Run a program to its end: ``rc``, ``stdout``, ``stderr``, ``truncated``, ``seconds``.

    TimedOut if it takes longer than ``timeout`` seconds; it goes on then. The agent may take
    ``patience`` seconds to begin.
    """
    began, pause = time.monotonic(), _FIRST_POLL_SECONDS
    wanted = {"path": command[0], "arg": list(command[1:]), "capture-output": True}
    within = math.ceil(patience)
    pid = _understood(dom, "guest-exec", lambda answer: number(answer["pid"]), within, **wanted)
    while True:
        ended = _understood(dom, "guest-exec-status", _ended, _ANSWER_SECONDS, pid=pid)
        seconds = time.monotonic() - began
        if ended is not None:
            return {**ended, "seconds": round(seconds, 3)}
        if seconds >= timeout:
            raise TimedOut(
                f"VM {dom.name()}: {command[0]} (process {pid} in the guest) still runs after"
                f" {timeout} s",
                wanted="an end",
                todo="look at it in the guest, or allow more time (option 'timeout')",
            )
        time.sleep(min(pause, timeout - seconds))
        pause = min(_POLL_SECONDS, pause * _LONGER)


def _understood(
    dom: Domain, command: str, read: Callable[[Any], T], within: int, **arguments: object
) -> T:
    """What ``read`` makes of the answer to a command; Problem if the guest answers nonsense."""
    answer = agent(dom, command, within, **arguments)
    return understood(dom, command, answer, read)


def _ended(status: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a program has ended, None while it runs."""
    if not isinstance(status["exited"], bool):
        raise TypeError("neither true nor false")
    if not status["exited"]:
        return None
    code = number(status["exitcode"]) if "exitcode" in status else None
    return {
        "rc": _SIGNAL + number(status.get("signal", 0)) if code is None else code,
        "stdout": _text(status.get("out-data", "")),
        "stderr": _text(status.get("err-data", "")),
        "truncated": bool(status.get("out-truncated") or status.get("err-truncated")),
    }


def _text(data: str) -> str:
    return base64.b64decode(text(data)).decode("utf-8", "replace")
