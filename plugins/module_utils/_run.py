# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one runner: check mode, exit, fail.

It imports nothing that only some modules need, since every task pays for that.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, NoReturn, Protocol

from ansible.module_utils.basic import AnsibleModule

from ._lists import with_plain_lists
from ._model.fault import as_problem, trace_of


class Answer(Protocol):
    """What a module will return; ``failure`` says why the task fails, '' if it does not."""

    @property
    def failure(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


class Operation(Protocol):
    """What a module does.

    No operation is named here: Ansible sends all that a file could import, also what it imports
    for its types only.
    """

    def carry_out(self, params: Mapping[str, Any], module: str, *, check: bool) -> Answer: ...


def run(module: AnsibleModule, build: Callable[[Mapping[str, Any]], Operation]) -> None:
    """Carry out the operation of the task on all its VMs or images and leave the module."""
    try:
        params = with_plain_lists(module.params, module.argument_spec)
        operation = build(params)
        answer = operation.carry_out(params, module._name, check=module.check_mode)
    except Exception as error:
        _fail(module, error)
    if answer.failure:
        module.fail_json(msg=answer.failure, **answer.to_dict())
    module.exit_json(**answer.to_dict())


def look(
    module: AnsibleModule, read: Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[str]]]
) -> None:
    """Leave a module that reads and needs no libvirt: return what ``read`` found.

    ``read`` gets the options and gives the result and the problems, with which the task fails.
    """
    try:
        found, problems = read(with_plain_lists(module.params, module.argument_spec))
    except Exception as error:
        _fail(module, error)
    if problems:
        module.fail_json(msg="; ".join(problems), changed=False, **found)
    module.exit_json(changed=False, **found)


def _fail(module: AnsibleModule, error: Exception) -> NoReturn:
    """Leave a module with what concerns all its entries."""
    problem = as_problem(error, "this task")
    trace = trace_of(problem)
    module.fail_json(msg=str(problem), **({"exception": trace} if trace else {}))
    raise problem  # for those who read: fail_json does not return
