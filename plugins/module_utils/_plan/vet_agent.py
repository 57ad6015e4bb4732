# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the guest agent can do what a plan wants of it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import replace

from .._model.freeze import ALLOW, FREEZE_COMMANDS, PART_COMMANDS, PROGRAM_COMMANDS
from .._model.problem import Unsupported
from .._model.state import Facts, VmState
from .._model.step import BackUp, Plan, SaveMemory, Step, TakeSnapshot
from .freeze import held, unflushed_note

_AGENT = "the guest agent"


def wants_agent(step: Step, vm: VmState) -> bool:
    """A guest that is frozen must not be saved: it would wake up frozen, with no one to thaw it."""
    asked = vm.status in ("running", "blocked") and vm.live.agent == "connected"
    return _freezes(step) or isinstance(step, SaveMemory) or (asked and keeps_memory(step, vm))


def keeps_memory(step: Step, vm: VmState) -> bool:
    """Whether what is taken goes on from the memory of now, by itself or later."""
    if not isinstance(step, TakeSnapshot):
        return isinstance(step, SaveMemory)
    return bool(step.spec.memory_file) or (step.spec.mode == "internal" and not vm.off)


def _freezes(step: Step) -> bool:
    return isinstance(step, (TakeSnapshot, BackUp)) and step.quiesce != "never"


def _unquiesced(step: Step) -> Step:
    if isinstance(step, (TakeSnapshot, BackUp)):
        return replace(step, quiesce="never", flush_timeout=0)
    return step


def _unflushed(step: Step) -> Step:
    return replace(step, flush_timeout=0) if isinstance(step, (TakeSnapshot, BackUp)) else step


def quiesced_if_possible(plan: Plan, vm: VmState, facts: Facts) -> Plan:
    """The plan without a freeze where the agent cannot and need not, and without a flush."""
    # A guest that stands still cannot tell, and nobody has thawed it since.
    still = vm.freeze is not None and vm.status == "paused"
    if facts.agent == "frozen" or (still and any(keeps_memory(s, vm) for s in plan.steps)):
        raise held(vm)
    refused = [name for name in FREEZE_COMMANDS if name in facts.blocked]
    if refused:
        why = f"does not allow {' and '.join(refused)}"
        return _without_freeze(plan, vm, _AGENT, why, ALLOW)
    if facts.agent not in ("", "thawed"):
        start = "start qemu-guest-agent in the guest"
        return _without_freeze(plan, vm, _AGENT, "does not answer", start)
    return _with_part(_without_flush(plan, vm, facts), vm, facts)


def _without_freeze(plan: Plan, vm: VmState, who: str, why: str, todo: str) -> Plan:
    """The plan without a freeze, since ``who`` of the VM ``why``. A save needs none.

    Unsupported where one is required.
    """
    if any(isinstance(s, (TakeSnapshot, BackUp)) and s.quiesce == "required" for s in plan.steps):
        raise Unsupported(
            f"{who} of VM {vm.name} {why}",
            wanted="a quiesced point in time ('quiesce: required')",
            todo=f"{todo}, or use 'quiesce: preferred'",
        )
    steps = tuple(_unquiesced(step) for step in plan.steps)
    if steps == plan.steps:
        return plan
    note = f"{vm.name}: not quiesced, {who} {why}"
    return replace(plan, steps=steps, notes=(*plan.notes, note))


def _without_flush(plan: Plan, vm: VmState, facts: Facts) -> Plan:
    """The plan, without a flush where the agent is known not to run programs."""
    refused = [name for name in PROGRAM_COMMANDS if name in facts.blocked]
    steps = tuple(_unflushed(step) if refused else step for step in plan.steps)
    if steps == plan.steps:
        return plan
    return replace(plan, steps=steps, notes=(*plan.notes, unflushed_note(vm.name, refused[0])))


def part_of_disks(plan: Plan, vm: VmState) -> tuple[str, ...]:
    """The disks whose file systems need to be frozen, () where the guest writes to no other."""
    for step in plan.steps:
        if isinstance(step, (TakeSnapshot, BackUp)) and step.quiesce != "never":
            others = {disk.target for disk in vm.writable}.difference(step.taken)
            return step.taken if others else ()
    return ()


def _with_part(plan: Plan, vm: VmState, facts: Facts) -> Plan:
    """The plan that freezes only what lies on the disks that are taken, where that is known."""
    if facts.points is None or any(name in facts.blocked for name in PART_COMMANDS):
        return plan
    if not facts.points:
        disks = ", ".join(part_of_disks(plan, vm))
        why = f"is mounted that lies on {disks}"
        return _without_freeze(plan, vm, "no file system", why, "mount one there")
    steps = tuple(_of_part(step, facts.points) for step in plan.steps)
    return replace(plan, steps=steps)


def _of_part(step: Step, points: tuple[str, ...]) -> Step:
    if isinstance(step, (TakeSnapshot, BackUp)) and step.quiesce != "never":
        return replace(step, mountpoints=points)
    return step
