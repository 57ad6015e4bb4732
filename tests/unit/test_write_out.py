# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often guests write out before they are frozen, and what is said where they cannot."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import guest_exec, write_out
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.agent_rpcs import agent_state
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.write_out import WriteOut
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.freeze import (
    FREEZE_COMMANDS,
    PART_COMMANDS,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Problem,
    TimedOut,
    Unreachable,
)
from hypothesis import given
from hypothesis import strategies as st

AGENT = "ansible_collections.vmkeep.libvirt.plugins.module_utils._host"
DOM: Any = SimpleNamespace(name=lambda: "db")


@dataclass
class Guest:
    """A guest whose rounds take so many seconds, and then next to none."""

    rounds: list[float]
    now: float = 100.0
    allowed: list[float] = field(default_factory=list)

    def execute(
        self, _dom: object, command: tuple[str, ...], timeout: float, patience: float
    ) -> dict[str, Any]:
        assert command == ("sync",) and 1 <= patience <= max(1, timeout)
        self.allowed.append(timeout)
        takes = self.rounds.pop(0) if self.rounds else 0.05
        self.now += min(takes, timeout)
        if takes > timeout:
            raise TimedOut("it takes too long")
        return {"rc": 0}


def written(monkeypatch: pytest.MonkeyPatch, guest: Guest, seconds: float = 60) -> WriteOut:
    monkeypatch.setattr(write_out, "execute", guest.execute)
    monkeypatch.setattr(write_out, "time", SimpleNamespace(monotonic=lambda: guest.now))
    part = WriteOut(DOM, seconds)
    write_out.write_out([part])
    return part


@pytest.mark.parametrize(
    ("rounds", "count"),
    [
        ([0.1], 1),  # there was next to nothing
        ([6.0, 0.1], 2),
        ([6.0, 3.0, 1.0, 0.1], 4),
        ([6.0, 5.0, 0.1], 2),  # a guest that goes on writing as fast as it writes out
        ([6.0, 6.5, 0.1], 2),
    ],
)
def test_again_as_long_as_it_gets_clearly_shorter(
    monkeypatch: pytest.MonkeyPatch, rounds: list[float], count: int
) -> None:
    guest = Guest(list(rounds))
    part = written(monkeypatch, guest)
    assert len(guest.allowed) == count and part.notes == []
    assert part.milliseconds == round(sum(rounds[:count]) * 1000)


@given(st.lists(st.floats(0, 100), max_size=30), st.integers(1, 90))
def test_never_for_longer_than_allowed(rounds: list[float], seconds: int) -> None:
    guest = Guest(list(rounds))
    with pytest.MonkeyPatch.context() as monkeypatch:
        part = written(monkeypatch, guest, seconds)
    assert guest.now - 100 <= seconds + 0.001
    assert part.milliseconds == pytest.approx((guest.now - 100) * 1000, abs=1)
    assert all(f"takes longer than {seconds} s" in note for note in part.notes)


def test_a_guest_does_not_pay_for_another_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hangs until its seconds are over. What the other has written by then is written out."""
    asked: list[tuple[str, float]] = []
    clock = SimpleNamespace(now=0.0)
    both = threading.Barrier(2)

    def execute(dom: Any, _command: object, timeout: float, _patience: float) -> dict[str, Any]:
        asked.append((dom.name(), timeout))
        if clock.now == 0:
            both.wait(5)
        if dom.name() == "hangs":
            time.sleep(0.1)  # its end is the end of the round
            clock.now = timeout
            raise TimedOut("it hangs")
        return {"rc": 0}

    monkeypatch.setattr(write_out, "execute", execute)
    monkeypatch.setattr(write_out, "time", SimpleNamespace(monotonic=lambda: clock.now))
    hangs, quick = (
        WriteOut(cast(Any, SimpleNamespace(name=lambda name=name: name)), 60)
        for name in ("hangs", "quick")
    )
    write_out.write_out([hangs, quick])
    assert sorted(asked) == [("hangs", 60), ("quick", 60), ("quick", 60)]
    assert quick.notes == [] and quick.milliseconds == hangs.milliseconds == 60000
    assert "takes longer than 60 s" in hangs.notes[0]


def test_one_that_need_not_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest([5.0])
    part = written(monkeypatch, guest, 0)
    assert guest.allowed == [] and (part.milliseconds, part.notes) == (0, [])


def test_a_refusal_is_noted_and_a_lost_daemon_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(problem: Problem) -> WriteOut:
        def execute(*_args: object) -> None:
            raise problem

        monkeypatch.setattr(write_out, "execute", execute)
        part = WriteOut(DOM, 60)
        write_out.write_out([part])
        return part

    part = raising(Problem("there is no sync"))
    assert part.notes == ["not all was written out before the freeze: there is no sync"]
    assert part.milliseconds == 0
    with pytest.raises(Unreachable):
        raising(Unreachable("the daemon is gone"))


# --- agents that answer anything ---


@pytest.mark.parametrize("answer", [None, 7, "x", [], {}, {"pid": "x"}, {"pid": None}])
def test_a_senseless_answer_to_guest_exec(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    monkeypatch.setattr(guest_exec, "agent", lambda *_args, **_more: answer)
    with pytest.raises(Problem, match="agent of VM db answers guest-exec with"):
        guest_exec.execute(DOM, ("sync",), 5)


def test_an_agent_that_is_slow_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the program from a disk that is busy with what the guest writes out by itself."""
    allowed: list[int] = []

    def agent(_dom: object, command: str, seconds: int, **_more: object) -> object:
        allowed.append(seconds)
        return {"pid": 1} if command == "guest-exec" else {"exited": True, "exitcode": 0}

    monkeypatch.setattr(guest_exec, "agent", agent)
    for seconds in (0.4, 7.5, 60):
        write_out.write_out([WriteOut(DOM, seconds)])
    assert allowed == [1, 5, 8, 5, 15, 5]


@pytest.mark.parametrize("status", [None, [], {"exited": True, "out-data": 5}, {}])
def test_a_senseless_status(monkeypatch: pytest.MonkeyPatch, status: object) -> None:
    def agent(_dom: object, command: str, *_args: object, **_more: object) -> object:
        return {"pid": 1} if command == "guest-exec" else status

    monkeypatch.setattr(guest_exec, "agent", agent)
    with pytest.raises(Problem, match="answers guest-exec-status with"):
        guest_exec.execute(DOM, ("sync",), 5)


ALLOWED = (*FREEZE_COMMANDS, *PART_COMMANDS)
PROGRAMS = ("guest-exec", "guest-exec-status")


def info(*names: str, off: tuple[str, ...] = ()) -> dict[str, Any]:
    commands = [{"name": name, "enabled": name not in off} for name in names]
    return {"version": "9", "supported_commands": commands}


@pytest.mark.parametrize(
    ("answer", "status", "found"),
    [
        (info(*ALLOWED, *PROGRAMS), "thawed", ()),
        (info(*ALLOWED, *PROGRAMS, off=("guest-exec",)), "thawed", ("guest-exec",)),
        (info(*ALLOWED), "thawed", PROGRAMS),
        (info(*ALLOWED, *PROGRAMS, off=("guest-fsfreeze-freeze",)), "frozen", ()),
        (None, "thawed", ()),
        ({"supported_commands": [3]}, "thawed", ()),
        ({"supported_commands": {}}, "thawed", ()),
    ],
)
def test_what_an_agent_may_not_do(
    monkeypatch: pytest.MonkeyPatch, answer: object, status: str, found: tuple[str, ...]
) -> None:
    monkeypatch.setattr(f"{AGENT}.agent_rpcs.agent", lambda *_args: answer)
    monkeypatch.setattr(f"{AGENT}.agent_rpcs.freeze_status", lambda _dom: status)
    assert agent_state(DOM) == (status, found)


def test_an_agent_that_does_not_tell_whether_it_may_thaw(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried before: a guest that may be frozen and not thawed would stay frozen."""

    def agent(_dom: object, command: str, _seconds: int) -> object:
        raise Problem(f"{command} has been disabled")

    monkeypatch.setattr(f"{AGENT}.agent_rpcs.agent", agent)
    monkeypatch.setattr(f"{AGENT}.agent_rpcs.freeze_status", lambda _dom: "thawed")
    assert agent_state(DOM) == ("thawed", ("guest-fsfreeze-thaw",))
