# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module shows of VMs, without any thought of changing them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Union

from ._answer import Answer
from ._flow.look import each, observe_only
from ._host.observe import Host, look_up
from ._model.problem import Problem
from ._model.state import VmState
from ._task_vms import host_for, parted

if TYPE_CHECKING:
    from ._host.libvirt_dep import Domain

Seen = Union["tuple[dict[str, Any], str]", Problem]
"""What is shown of a VM, with a note or ''."""


@dataclass(frozen=True)
class LookOperation:
    """``show`` says what to return of a VM. Even the journals of dead runs are left alone."""

    show: Callable[[VmState], dict[str, Any]]

    def carry_out(
        self,
        params: Mapping[str, Any],
        module: str,
        *,
        check: bool,  # noqa: ARG002 - looking is the same
    ) -> Answer:
        """Look at the VMs of the option ``vm``.

        A problem of one VM stands in the answer; Problem is raised for those that concern all.
        """
        host = host_for(params, module)
        doms, problems = parted(look_up(host, list(dict.fromkeys(params["vm"]))))
        answer = Answer()
        for given, lost in problems.items():
            answer.fail(given, lost)
        for name, seen in each(doms, lambda dom: self._seen(host, dom), _as_it_is).items():
            if isinstance(seen, Problem):
                answer.fail(name, seen)
                continue
            answer.vms[name], note = seen
            answer.notes.extend(filter(None, [note]))
        return answer

    def _seen(self, host: Host, dom: Domain) -> Seen:
        vm, note = observe_only(host, dom)
        return self.show(vm), note


def _as_it_is(problem: Problem) -> Seen:
    return problem
