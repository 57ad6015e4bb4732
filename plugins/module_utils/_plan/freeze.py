# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps freeze a guest for longer than one run, or thaw it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .._model.freeze import (
    ALLOW,
    FREEZE_COMMANDS,
    FROZEN,
    NOT_WRITTEN_OUT,
    PROGRAM_COMMANDS,
    STATUS_COMMAND,
    THAW_COMMAND,
    THAWED,
    FreezeGuest,
    FreezeRecord,
    Guest,
    ThawGuest,
)
from .._model.names import in_shell
from .._model.problem import Conflict, NotFound, Unsupported
from .._model.state import VmState
from .._model.step import Plan, Step
from .barred import to_wake

_RUNNING = ("running", "blocked")
_STOPPED = ("shutoff", "crashed")


@dataclass(frozen=True)
class FreezeWish:
    """How the guest is to be; without ``mountpoints`` all file systems are meant.

    ``deadline`` and ``flush_timeout`` (see FreezeGuest) are in seconds.
    """

    frozen: bool
    deadline: int = 60
    mountpoints: tuple[str, ...] = ()
    flush_timeout: int = 0


def plan_freeze(wish: FreezeWish, vm: VmState) -> Plan:
    """The steps, none if the guest is as wanted. Needs what the agent says (``vm.guest``)."""
    if not wish.frozen and vm.status in _STOPPED:
        return Plan(vm.name)
    guest = _heard(wish, vm)
    if wish.frozen:
        return _frozen(wish, vm, guest)
    if guest.status != FROZEN:
        return Plan(vm.name)
    note = f"{vm.name}: it was frozen by somebody else"
    return Plan(vm.name, (ThawGuest(),), () if vm.freeze else (note,))


def _heard(wish: FreezeWish, vm: VmState) -> Guest:
    """What the agent says; Unsupported if it cannot be asked or does not answer."""
    if vm.status not in _RUNNING:
        raise Unsupported(
            f"VM {vm.name} is {vm.status}, so its guest agent cannot be asked",
            wanted="a running VM",
            todo=to_wake(vm, "start or resume it first"),
        )
    needed = FREEZE_COMMANDS if wish.frozen else (THAW_COMMAND, STATUS_COMMAND)
    refused = [name for name in needed if vm.guest and name in vm.guest.blocked]
    if refused:
        raise Unsupported(
            f"the guest agent of VM {vm.name} does not allow {' and '.join(refused)}",
            wanted="to know and to change whether its file systems are frozen",
            todo=ALLOW,
        )
    if vm.guest is None or not vm.guest.status:
        held = f"; it was frozen until {vm.freeze.until}" if vm.freeze else ""
        why = vm.guest.trouble if vm.guest else "it was not asked"
        raise Unsupported(
            f"the guest agent of VM {vm.name} does not answer ({why}){held}",
            wanted="to know and to change whether its file systems are frozen",
            todo="install and start qemu-guest-agent in the guest, and see that its channel"
            " (org.qemu.guest_agent.0) is in the definition",
        )
    return vm.guest


def _frozen(wish: FreezeWish, vm: VmState, guest: Guest) -> Plan:
    if guest.status == FROZEN:
        _check_ours(wish, vm)
        return Plan(vm.name)
    known = tuple(sorted(point for point, _file_system in guest.mounts))
    unknown = [point for point in wish.mountpoints if known and point not in known]
    if unknown:
        raise NotFound(
            f"nothing that can be frozen is mounted on {', '.join(unknown)} in VM {vm.name}",
            wanted=f"some of: {', '.join(known)}",
            todo="correct the option 'mountpoints'",
        )
    points = tuple(sorted(wish.mountpoints)) or known
    refused = [name for name in PROGRAM_COMMANDS if name in guest.blocked]
    flush = 0 if refused else wish.flush_timeout
    step = FreezeGuest(points, wish.deadline, bool(wish.mountpoints), flush)
    told = refused and wish.flush_timeout
    return Plan(vm.name, (step,), (unflushed_note(vm.name, refused[0]),) if told else ())


def _check_ours(wish: FreezeWish, vm: VmState) -> None:
    """A frozen guest is as wanted only if this module has frozen it, and the same of it."""
    if vm.freeze is None:
        raise held(vm)
    if vm.freeze.asked != tuple(sorted(wish.mountpoints)):
        raise Conflict(
            f"VM {vm.name} is frozen already, {', '.join(vm.freeze.asked) or 'all of it'}",
            wanted=f"to freeze {', '.join(wish.mountpoints) or 'all of it'}",
            todo="thaw it first (vm_freeze with 'state: thawed')",
        )


def unflushed_note(vm: str, command: str) -> str:
    """The note where a guest is frozen without having written out, since that is blocked."""
    return f"{vm}: {NOT_WRITTEN_OUT}: its agent does not allow {command}"


def held(vm: VmState) -> Conflict:
    """The error for a guest that is frozen, and by whom."""
    if vm.freeze is None:
        return Conflict(
            f"the file systems of VM {vm.name} are frozen by somebody else",
            wanted="a guest that runs",
            todo=f"let the other tool end, or thaw it (virsh domfsthaw {in_shell(vm.name)})",
        )
    return Conflict(
        f"the file systems of VM {vm.name} are frozen by vm_freeze until {vm.freeze.until}",
        wanted="a guest that runs",
        todo="wait until then, or thaw it (vm_freeze with 'state: thawed')",
    )


def after_freeze(vm: VmState, step: Step) -> VmState:
    """The VM after a step that freezes or thaws, unchanged by all others."""
    if isinstance(step, FreezeGuest):
        asked = step.mountpoints if step.chosen else ()
        record = FreezeRecord("", step.deadline, "", asked, step.mountpoints)
        return replace(vm, guest=Guest(FROZEN), freeze=record)
    return _thawed(vm) if isinstance(step, ThawGuest) else vm


def _thawed(vm: VmState) -> VmState:
    points = vm.freeze.mountpoints if vm.freeze else ()
    guest = Guest(THAWED, mounts=tuple((point, point) for point in points))
    return replace(vm, guest=guest if vm.guest else None, freeze=None)


def without_expired(vm: VmState) -> VmState:
    """The VM without a freeze that should have ended: every run ends it first, if it can."""
    expired = vm.freeze is not None and vm.freeze.expired
    silent = vm.status == "paused" or (vm.guest is not None and not vm.guest.status)
    return _thawed(vm) if expired and not silent else vm


def freeze_lines(vm: VmState) -> Iterator[str]:
    """What a picture of the VM shows of it, where the agent was asked."""
    if vm.guest is None or not vm.guest.status:
        return
    if vm.guest.status == THAWED:
        yield "  file systems: thawed"
    elif vm.freeze is None:
        yield "  file systems: frozen by somebody else"
    else:
        yield f"  file systems: frozen for at most {vm.freeze.deadline} s"
        yield from (f"    {point}" for point in vm.freeze.mountpoints)
