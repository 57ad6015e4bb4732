# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs in guests as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._answer import Answer, failed_entry
from ._flow.look import each
from ._host.guest_exec import execute, wait_for_agent
from ._host.observe import look_up
from ._model.problem import BadInput, Problem
from ._task_vms import host_for

if TYPE_CHECKING:
    from ._host.libvirt_dep import Domain

_NOTHING_RUN = {"rc": None, "stdout": "", "stderr": "", "truncated": False, "seconds": 0.0}


def guest_exec_operation(params: Mapping[str, Any]) -> GuestExecOperation:
    """What the module vm_guest_exec is to do. Raises BadInput."""
    command, wait = params["command"], params["wait"]
    if command is not None and not (command and command[0]):
        raise BadInput(
            "the option 'command' names no program",
            wanted="a program and its arguments",
            todo="name one, or leave the option out to wait for the agent only",
        )
    if wait < 0:
        raise BadInput(f"wait is {wait}", wanted="seconds, or 0", todo="correct it")
    return GuestExecOperation(tuple(command or ()), wait)


@dataclass(frozen=True)
class GuestExecOperation:
    """Runs one program in all guests of a task, side by side; without one it waits for agents."""

    command: tuple[str, ...]
    wait: int

    def carry_out(self, params: Mapping[str, Any], module: str, *, check: bool) -> Answer:
        """Do it; with ``check`` only say what would be done.

        A problem of one VM stands in the answer; Problem is raised for those that concern all.
        """
        host = host_for(params, module)
        found = look_up(host, list(dict.fromkeys(params["vm"])))
        answer = Answer()
        done = each(found, lambda dom: self._one(dom, params["timeout"], check), failed_entry)
        for given, entry in done.items():
            dom = found[given]
            self._add(answer, given if isinstance(dom, Problem) else dom.name(), entry)
        return answer

    def _one(self, dom: Domain | Problem, timeout: int, check: bool) -> dict[str, Any]:
        """The entry of one VM; with ``msg`` if it failed."""
        if isinstance(dom, Problem):
            raise dom
        if check:
            return {**_NOTHING_RUN, "waited": None}
        entry = {**_NOTHING_RUN, "waited": wait_for_agent(dom, self.wait)}
        if self.command:
            entry.update(execute(dom, self.command, timeout))
        failed = {"msg": str(_failed(dom.name(), entry, self.command))} if entry["rc"] else {}
        return {**entry, **failed}

    def _add(self, answer: Answer, name: str, entry: dict[str, Any]) -> None:
        if "rc" in entry and self.command:
            step = {"vm": name, "step": "run_in_guest", "command": list(self.command)}
            answer.plan.append(step)
        if "msg" in entry:
            answer.problems[name] = entry["msg"]
            entry["failed"] = True
        answer.vms[name] = entry


def _failed(vm: str, entry: Mapping[str, Any], command: tuple[str, ...]) -> Problem:
    said = (entry["stderr"].strip() or entry["stdout"].strip())[-500:]
    return Problem(
        f"VM {vm}: {shlex.join(command)} ended with status {entry['rc']}"
        + (f": {said}" if said else ""),
        wanted="status 0",
    )
