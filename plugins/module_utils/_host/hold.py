# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezes that outlive the run that made them.

Each has a record, ``STATE_DIR/freeze/UUID.json``, that is on disk before the guest is frozen. The
guard thaws the guest at the deadline as long as the record carries its token; every run of this
collection that finds a record past its deadline does the same.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .._model.backup_steps import BackUp
from .._model.freeze import FROZEN, FreezeGuest, FreezeRecord, Guest
from .._model.plain import Unfit, built
from .._model.problem import Conflict, Problem, TimedOut
from .._model.state import VmState
from .agent_answer import freeze_state, mounts, understood
from .agent_rpcs import agent_state
from .connection import AGENT_SILENT, call, code_of
from .durable import read_json
from .freeze import STATUS_SECONDS, Guard, agent, freeze_now, freeze_status, thaw
from .lock import guard_lock
from .record import record_path, remove_record, write_record
from .stamp import start_of
from .write_out import WriteOut, write_out

if TYPE_CHECKING:
    from .libvirt_dep import Domain
    from .observe import Host

_KIND = "freeze"
_TOLD = ("token", "deadline", "until", "asked", "mountpoints", "flush_ms")
_DAY, _YEAR = 86400.0, 365 * 86400.0


def read_freeze(state_dir: str, uuid: str, number: str = "") -> FreezeRecord | None:
    """The freeze of ours that is recorded; none where the guest has been started anew since.

    ``number`` is that of the VM's definition, '' where it need not tell one start from the next.
    A freeze has to end, so one of another version ends when it says, and one that does not even
    tell that has expired. Raises Denied or Problem where it cannot be read.
    """
    try:
        found = read_json(record_path(state_dir, _KIND, uuid), "the record of a freeze")
    except Conflict:
        found = {}
    if found is None:
        return None
    start = start_of(number)
    if number and found.get("start", start) != start:
        return None
    ends = _ends(found)
    expired = time.time() >= ends
    try:
        told = {key: found[key] for key in _TOLD if key in found}
        record: FreezeRecord = built(FreezeRecord, told)
    except Unfit:
        record = FreezeRecord("", 0, _in_iso(ends) if ends else "an unknown time", (), ())
    return replace(record, expired=expired)


def _ends(found: Mapping[str, Any]) -> float:
    """When the freeze is over, in seconds since 1970; 0 where that is not told."""
    ends, deadline = found.get("ends"), found.get("deadline")
    if not isinstance(ends, (int, float)) or not isinstance(deadline, int) or deadline < 0:
        return 0.0
    # The clock may have been set back since, but not by more than that.
    return float(ends) if 0 < ends < time.time() + min(deadline, _YEAR) + _DAY else 0.0


def look_at_guest(_host: Host, dom: Domain, vm: VmState) -> VmState:
    """The VM with what its guest agent says; one that does not run is not asked."""
    return replace(vm, guest=_guest(dom)) if vm.status in ("running", "blocked") else vm


def _guest(dom: Domain) -> Guest:
    try:
        command = "guest-fsfreeze-status"
        status = understood(dom, command, agent(dom, command, STATUS_SECONDS), freeze_state)
    except Problem as problem:
        # One that does not answer is not waited for a second time.
        silent = code_of(problem.__cause__) in AGENT_SILENT
        return Guest("", problem.found, blocked=() if silent else agent_state(dom)[1])
    if status == FROZEN:
        return Guest(status)
    return Guest(status, mounts=_mounts(dom), blocked=agent_state(dom)[1])


def _mounts(dom: Domain) -> tuple[tuple[str, str], ...]:
    """What can be frozen; nothing where the agent may not or cannot tell."""
    try:
        command = "guest-get-fsinfo"
        return understood(dom, command, agent(dom, command, STATUS_SECONDS), mounts)
    except Problem:
        return ()


def freeze_and_leave(
    host: Host, dom: Domain, guard: Guard, vm: VmState, step: FreezeGuest
) -> tuple[str, ...]:
    """Let the guest write out, and freeze it, in the care of the guard; what there is to tell.

    ``guard`` must be ready. Raises what the agent says where it fails; the guest is thawed then.
    """
    part = WriteOut(dom, min(step.flush_timeout, host.timeout))
    write_out([part])
    notes = tuple(f"{vm.name}: {note}" for note in part.notes)
    with guard_lock(host.state_dir, vm.uuid, vm.name):
        token = secrets.token_hex(8)
        content = {**_content(host, token, step, part), "start": start_of(vm.live.number)}
        write_record(host.state_dir, _KIND, vm.uuid, content)
        guard.arm(vm.uuid, step.deadline, token)
        try:
            points = step.mountpoints if step.chosen else ()
            count = freeze_now(dom, step.deadline, points)
            told = _check(dom, vm, step, count)
        except Exception:
            if thaw(dom) is not None:
                guard.disarm(vm.uuid)
                remove_record(host.state_dir, _KIND, vm.uuid)
            raise
        guard.leave(vm.uuid)
    return (*notes, told) if told else notes


def _content(
    host: Host, token: str, step: FreezeGuest, part: WriteOut | None = None
) -> dict[str, Any]:
    ends = time.time() + step.deadline
    return {
        "token": token,
        "run": host.run,
        "deadline": step.deadline,
        "ends": ends,
        "until": _in_iso(ends),
        "asked": step.mountpoints if step.chosen else (),
        "mountpoints": step.mountpoints,
        "flush_ms": part.milliseconds if part else 0,
    }


def _in_iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="seconds")


def _check(dom: Domain, vm: VmState, step: FreezeGuest, count: int) -> str:
    """Problem unless what was asked for is frozen; a note where not all could be."""
    points = ", ".join(step.mountpoints)
    mounts = vm.guest.mounts if vm.guest else ()
    systems = {system for point, system in mounts if point in step.mountpoints}
    if count == 0 or (step.chosen and count < len(systems)):
        raise Problem(
            f"the agent of VM {dom.name()} froze {count} of the file systems on {points or 'it'}",
            wanted="all of them frozen" if step.chosen else "at least one mounted file system",
            todo="leave out what cannot be frozen, such as vfat, with the option 'mountpoints'",
        )
    if freeze_status(dom) != FROZEN:
        raise TimedOut(
            f"VM {dom.name()} was thawed, after {step.deadline} s or by somebody else, before its"
            " freeze was complete",
            wanted="a frozen guest",
            todo="raise 'deadline', or look who thaws it",
        )
    if count < len(systems):
        return f"{dom.name()}: the guest could freeze {count} of the file systems on {points}"
    return ""


@contextlib.contextmanager
def recorded(host: Host, uuid: str, step: BackUp) -> Iterator[None]:
    """Keep a record of the freeze within, for the case that we and the guard are both killed."""
    if step.quiesce == "never":
        yield
        return
    freeze = FreezeGuest((), step.freeze_timeout)
    write_record(host.state_dir, _KIND, uuid, _content(host, secrets.token_hex(8), freeze))
    try:
        yield
    finally:
        remove_record(host.state_dir, _KIND, uuid)


def thaw_and_forget(host: Host, dom: Domain) -> None:
    """Thaw the guest and remove the record of its freeze. TimedOut if the agent does not obey."""
    if thaw(dom) is None or freeze_status(dom) != "thawed":
        raise TimedOut(
            f"the guest agent of VM {dom.name()} does not answer, so it may still be frozen",
            wanted="to thaw its file systems",
            todo="look at qemu-guest-agent in the guest; a VM that is switched off is not frozen",
        )
    remove_record(host.state_dir, _KIND, dom.UUIDString())


def end_expired(host: Host, dom: Domain) -> str:
    """End a freeze of ours that should have ended, since its guard is gone; what was done, or ''.

    A guest that was frozen by somebody else meanwhile cannot be told from one that we froze.
    """
    uuid, name = dom.UUIDString(), dom.name()
    record = read_freeze(host.state_dir, uuid)
    if record is None or not record.expired:
        return ""
    told = ""
    active = call(f"reading VM {name}", dom.isActive)
    status = freeze_status(dom) if active else "thawed"
    if status == FROZEN and thaw(dom) is not None:
        told = f"{name}: thawed the guest, which was to be frozen until {record.until}"
    elif status != "thawed":
        return f"{name}: it was to be frozen until {record.until}, and its agent does not answer"
    remove_record(host.state_dir, _KIND, uuid)
    return told
