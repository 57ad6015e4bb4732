# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any exception as the problem of one entry, and how a task tells of it."""

from __future__ import annotations

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._answer import Answer
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import parse_domain
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.fault import (
    Fault,
    as_problem,
    trace_of,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Busy, Problem


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_a_problem_stays_as_it_is() -> None:
    problem = Busy("VM db01 is busy")
    assert as_problem(problem, "VM db01") is problem and trace_of(problem) == ""


def test_a_fault_names_the_line_and_keeps_its_traceback() -> None:
    with pytest.raises(AttributeError) as caught:
        parse_domain(None)  # type: ignore[arg-type]
    problem = as_problem(caught.value, "VM db01")
    assert isinstance(problem, Fault) and problem.found.startswith("VM db01: AttributeError (")
    assert " in _model/xml_text.py:" in problem.found and "fault of the collection" in str(problem)
    assert "Traceback" in trace_of(problem) and "parse_domain" in trace_of(problem)
    again = type(problem)(problem.found, wanted=problem.wanted, todo=problem.todo)
    again.__cause__ = problem
    assert trace_of(again) == trace_of(problem)


def test_what_the_system_refuses_is_no_fault_of_ours() -> None:
    problem = as_problem(raised(PermissionError(13, "Permission denied", "/srv/x")), "VM db01")
    assert not isinstance(problem, Fault) and trace_of(problem) == ""
    assert problem.found == "VM db01: '/srv/x': Permission denied"
    assert "AppArmor" in problem.todo
    assert isinstance(as_problem(raised(OSError("odd")), "VM db01"), Fault)


def test_long_and_odd_texts() -> None:
    assert len(as_problem(raised(ValueError("x\n" * 9999)), "VM db01").found) < 400

    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    problem = as_problem(raised(Silent()), "VM db01")
    assert "Silent" in problem.found and trace_of(problem)


def test_a_task_for_several_names_whom_it_concerns() -> None:
    answer = Answer()
    answer.vms["app01"] = {}
    answer.fail("db01", Problem("the directory is full"))
    assert answer.failure == "1 of 2 VMs failed: db01: the directory is full."
    with answer.entry("app01"):
        raise KeyError("x")
    assert answer.failure.startswith("2 of 2 VMs failed: db01: ")
    assert answer.vms["app01"]["failed"] and "Traceback" in answer.vms["app01"]["exception"]
    alone = Answer()
    alone.fail("db01", Problem("the directory is full"))
    assert alone.failure == "the directory is full."
