# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest may answer anything: it is a problem of that guest, and never more."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import (
    agent_rpcs,
    freeze,
    freeze_guard,
    guest_exec,
    hold,
    quiesce,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Problem
from hypothesis import given, settings
from hypothesis import strategies as st

WORDS = ("pid", "exited", "exitcode", "signal", "out-data", "err-data", "mountpoint", "name")
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(WORDS)
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.sampled_from((*WORDS, "supported_commands")), inner)
    ),
)


class Liar:
    """A domain whose agent answers all with the same."""

    def name(self) -> str:
        return "db01"

    def UUIDString(self) -> str:
        return "b4a1b8a4-7d0c-4b5b-9c53-0a1de4bd1d4f"


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setattr(freeze, "_THAW_SECONDS", 0.001)

    def say(text: str) -> None:
        def answer(*_args: object) -> str:
            return text

        fake = type("Binding", (), {"qemuAgentCommand": staticmethod(answer)})
        monkeypatch.setattr(freeze, "libvirt_qemu", fake)

    return say


def heard(ask: Callable[[Any], Any]) -> Any:
    """What comes of it, a Problem as its text."""
    try:
        return ask(Liar())
    except Problem as problem:
        assert "VM db01" in problem.found
        return str(problem)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(answer=ANYTHING)
def test_anything(answer: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(freeze, "_THAW_SECONDS", 0.001)
        text = json.dumps({"return": answer})
        fake = type("Binding", (), {"qemuAgentCommand": staticmethod(lambda *_args: text)})
        patch.setattr(freeze, "libvirt_qemu", fake)
        assert freeze.freeze_status(Liar()) in ("thawed", "frozen", "silent")
        assert isinstance(freeze.thaw(Liar()), (int, type(None)))
        assert isinstance(heard(lambda dom: freeze.freeze_now(dom, 1)), (int, str))
        assert isinstance(hold._mounts(Liar()), tuple)
        assert hold._guest(Liar()).status in ("thawed", "frozen", "")
        assert isinstance(agent_rpcs.agent_state(Liar()), tuple)
        ended = heard(lambda dom: guest_exec.execute(dom, ["true"], 0))
        assert isinstance(ended, str) or isinstance(ended["rc"], int)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"return"', '{"error": {}}', "[" * 100_000, "1e999"]
)
def test_what_is_no_answer(text: str, says: Callable[[str], None]) -> None:
    says(text)
    assert freeze.freeze_status(Liar()) == "silent"
    assert "what the protocol" in heard(lambda dom: guest_exec.execute(dom, ["true"], 1))


def test_bytes_that_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_args: object) -> str:
        return b"\xff".decode()

    fake = type("Binding", (), {"qemuAgentCommand": staticmethod(answer)})
    monkeypatch.setattr(freeze, "libvirt_qemu", fake)
    assert freeze.freeze_status(Liar()) == "silent"


@pytest.mark.parametrize(("obeys", "wanted"), [(1, 2), (2, 1), (9, None)])
def test_a_thaw_counts_when_the_guest_calls_itself_thawed(
    monkeypatch: pytest.MonkeyPatch, obeys: int, wanted: int | None
) -> None:
    """`obeys`: the thaw that does what it says. The first tells of 2, others of 1 file system."""
    thaws: list[str] = []

    def answer(_domain: object, command: str, *_rest: object) -> str:
        if "thaw" in command:
            thaws.append(command)
            return json.dumps({"return": 2 if len(thaws) == 1 else 1})
        return json.dumps({"return": "thawed" if len(thaws) >= obeys else "frozen"})

    monkeypatch.setattr(freeze, "libvirt_qemu", SimpleNamespace(qemuAgentCommand=answer))
    monkeypatch.setattr(freeze, "_THAW_SECONDS", 0.2)
    assert freeze.thaw(Liar()) == wanted and len(thaws) >= min(obeys, 3)


@pytest.mark.parametrize("thawed", [1, None])
def test_a_guest_that_is_not_thawed_is_told_of(
    monkeypatch: pytest.MonkeyPatch, thawed: int | None
) -> None:
    monkeypatch.setattr(freeze, "freeze_now", lambda *_args: 1)
    monkeypatch.setattr(freeze, "thaw", lambda _dom: thawed)
    guard, notes = mock.Mock(), []
    step = SimpleNamespace(quiesce="required", freeze_timeout=5)
    with quiesce.quiesced(Liar(), guard, step, notes) as held:
        assert held is not None and notes == []
    assert [("may still be frozen" in note) for note in notes] == ([] if thawed else [True])
    assert guard.disarm.called == bool(thawed)


@pytest.mark.parametrize(
    "status",
    [
        {"exited": "yes"}, {}, None, [], {"exited": True, "exitcode": "0"},
        {"exited": True, "signal": None}, {"exited": True, "exitcode": 0, "out-data": 5},
        {"exited": True, "exitcode": 0, "out-data": "a"}, {"exited": True, "exitcode": True},
    ],
)  # fmt: skip
def test_a_status_that_means_nothing(status: Any) -> None:
    with pytest.raises((TypeError, ValueError, LookupError)):
        guest_exec._ended(status)


def test_output_that_is_no_text() -> None:
    data = base64.b64encode(b"\xff\x00ok").decode()
    ended = guest_exec._ended({"exited": True, "exitcode": 3, "out-data": data})
    assert (ended["rc"], ended["stdout"]) == (3, "\ufffd\x00ok")


def test_what_is_no_text_does_not_end_a_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who watches over a freeze thaws it whatever the guest answers meanwhile."""
    garbage = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    said = iter([garbage, '{"return": "frozen"}', garbage, '{"return": "frozen"}', "1"])
    asked: list[str] = []

    def answer(_domain: object, command: str, *_rest: object) -> str:
        asked.append(command)
        now = next(said, '{"return": "thawed"}')
        if isinstance(now, Exception):
            raise now
        return now

    conn = SimpleNamespace(
        lookupByUUIDString=lambda _uuid: SimpleNamespace(isActive=lambda: True),
        isAlive=lambda: True,
    )
    guest = SimpleNamespace(uuid="u", ours=lambda: True, forget=lambda: asked.append("forgotten"))
    fake = SimpleNamespace(qemuAgentCommand=answer)
    monkeypatch.setattr(freeze_guard, "libvirt_qemu", fake)
    freeze_guard._thaw(conn, "qemu:///session", guest, 0.0)
    assert asked[-1] == "forgotten" and asked.count(freeze_guard._THAW) == 2
    said = iter([garbage])
    assert not freeze_guard._is_thawed(conn, "u")
