# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the guest agent can do what a plan wants of it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import replace

from .._model.problem import Unsupported
from .._model.state import Facts, VmState
from .._model.step import BackUp, Plan, SaveMemory, Step, TakeSnapshot
from .freeze import held


def wants_agent(step: Step) -> bool:
    """A guest that is frozen must not be saved: it would wake up frozen, with no one to thaw it."""
    freezes = isinstance(step, (TakeSnapshot, BackUp)) and step.quiesce != "never"
    return freezes or isinstance(step, SaveMemory)


def quiesced_if_possible(plan: Plan, vm: VmState, facts: Facts) -> Plan:
    """The plan without a freeze where the agent does not answer and need not."""
    if facts.agent in ("", "thawed"):
        return plan
    if facts.agent == "frozen":
        raise held(vm)
    steps = tuple(_unquiesced(step, vm) for step in plan.steps)
    if steps == plan.steps:
        return plan
    note = f"{vm.name}: not quiesced, the guest agent does not answer"
    return replace(plan, steps=steps, notes=(*plan.notes, note))


def _unquiesced(step: Step, vm: VmState) -> Step:
    if not isinstance(step, (TakeSnapshot, BackUp)):
        return step
    if step.quiesce == "required":
        raise Unsupported(
            f"the guest agent of VM {vm.name} does not answer",
            wanted="a quiesced point in time ('quiesce: required')",
            todo="start qemu-guest-agent in the guest, or use 'quiesce: preferred'",
        )
    return replace(step, quiesce="never")
