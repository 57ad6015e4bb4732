# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking restored VMs away, as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._answer import Answer
from ._flow.discarding import discard, foresee
from ._flow.look import each
from ._host.observe import Host, look_up
from ._model.discard import Discarded
from ._model.problem import NotFound, Problem
from ._task_vms import host_for, parted

if TYPE_CHECKING:
    from ._host.libvirt_dep import Domain


def discard_operation(params: Mapping[str, Any]) -> DiscardOperation:
    """What the module vm_discard is to do."""
    return DiscardOperation(params["force"])


@dataclass(frozen=True)
class DiscardOperation:
    """Removes all VMs of a task that are there."""

    force: bool

    def carry_out(self, params: Mapping[str, Any], module: str, *, check: bool) -> Answer:
        """Do it; with ``check`` only say what would be done.

        A problem of one VM stands in the answer; Problem is raised for those that concern all.
        """
        host = host_for(params, module)
        answer = Answer()
        doms, problems = parted(look_up(host, list(dict.fromkeys(params["vm"]))))
        for given, problem in problems.items():
            if isinstance(problem, NotFound):
                answer.vms[given] = {"removed": []}
            else:
                answer.fail(given, problem)
        done = each(doms, lambda dom: self._one(host, dom, check), _not_at_all)
        for name, found in done.items():
            with answer.entry(name):
                _add(answer, name, found)
        return answer

    def _one(self, host: Host, dom: Domain, check: bool) -> Discarded:
        done = foresee(host, dom, force=self.force)
        return done if check or done.problem else discard(host, dom, force=self.force)


def _not_at_all(problem: Problem) -> Discarded:
    return Discarded(problem=problem)


def _add(answer: Answer, name: str, done: Discarded) -> None:
    answer.plan.extend(act.shown(name) for act in done.acts)
    if done.acts:
        answer.before.append(f"VM {name}\n" + "".join(f"  {path}\n" for path in done.files))
        answer.after.append(f"VM {name}\n  not defined\n")
    if done.problem:
        answer.fail(name, done.problem)
    else:
        answer.vms[name] = {"removed": list(done.files)}
