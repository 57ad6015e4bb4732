# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking snapshots: one VM, or several at one point in time.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .._model.domain import parse_domain
from .._model.problem import Problem, TimedOut
from .._model.snapshot import CRASH, FILESYSTEM, MEMORY, OFFLINE, SnapshotSpec, rewritten
from .._model.state import VmState
from .._model.step import TakeSnapshot
from .connection import call, call_within
from .freeze import Freeze, Guard, paused
from .libvirt_dep import libvirt
from .quiesce import points_now, quiesced
from .write_out import WriteOut, write_out

if TYPE_CHECKING:
    from .libvirt_dep import Domain

XML_SECURE = 1
_PAUSE_SECONDS = 10.0


@dataclass
class Taking:
    """One VM's part in a point in time, and how it went.

    ``flush_ms`` and ``frozen_ms`` are the milliseconds in which it wrote out before and was frozen,
    0 for not; ``points`` are the mount points to be frozen, none for all.
    """

    dom: Domain
    vm: VmState
    step: TakeSnapshot
    frozen_ms: int = 0
    flush_ms: int = 0
    points: tuple[str, ...] = ()
    consistency: str = ""
    notes: list[str] = field(default_factory=list)


def take_together(takings: Sequence[Taking], guard: Guard | None, timeout: float) -> None:
    """Let all write out, freeze all, take all, thaw all. The first real failure is raised.

    What was done by then the caller undoes.
    """
    _write_out(takings, timeout)
    if guard:
        guard.ready()
    barrier = threading.Barrier(len(takings))

    def take(taking: Taking) -> None:
        try:
            _take(taking, guard, barrier, timeout)
        except BaseException:
            barrier.abort()  # nobody waits for this one
            raise

    with ThreadPoolExecutor(max_workers=len(takings)) as pool:
        parts = [pool.submit(take, taking) for taking in takings]
    failures = [error for part in parts for error in [part.exception()] if error]
    for failure in failures:
        if not isinstance(failure, threading.BrokenBarrierError):
            raise failure
    if failures:
        raise TimedOut(
            "the VMs of the group were not all ready at once",
            wanted="one point in time",
            todo="raise 'timeout', or look for a VM whose agent is slow",
        )


def _write_out(takings: Sequence[Taking], timeout: float) -> None:
    parts = [WriteOut(taking.dom, min(taking.step.flush_timeout, timeout)) for taking in takings]
    write_out(parts)
    with ThreadPoolExecutor(max_workers=len(takings)) as pool:
        points = list(pool.map(lambda taking: points_now(taking.dom, taking.step), takings))
    for taking, part, mounted in zip(takings, parts, points):
        taking.flush_ms = part.milliseconds
        taking.notes.extend(part.notes)
        taking.points = mounted


def _take(taking: Taking, guard: Guard | None, barrier: threading.Barrier, timeout: float) -> None:
    still = quiesced(taking.dom, guard, taking.step, taking.notes, taking.points)
    with still as freeze, _paused(taking, guard, timeout):
        barrier.wait(timeout)
        _create(taking, freeze, timeout)
        lapsed = freeze is not None and freeze.lapsed()
        barrier.wait(timeout)
    if freeze is not None:
        taking.frozen_ms = freeze.milliseconds
        if lapsed or not freeze.thawed:
            _downgrade(taking)


def _paused(
    taking: Taking, guard: Guard | None, timeout: float
) -> contextlib.AbstractContextManager[None]:
    """Paused if that is needed, before the first snapshot of the group is begun.

    So no message that one sends after its point is part of another's.
    """
    if not taking.step.pause or guard is None:
        return contextlib.nullcontext()
    # One wait for the others, and one for the daemon.
    return paused(taking.dom, guard, 2 * timeout + _PAUSE_SECONDS)


def _create(taking: Taking, freeze: Freeze | None, timeout: float) -> None:
    step, vm = taking.step, taking.vm
    if freeze is not None:
        taking.consistency = FILESYSTEM
    elif vm.off:
        taking.consistency = OFFLINE
    else:
        internal = step.spec.mode == "internal"
        taking.consistency = MEMORY if internal or step.spec.memory_file else CRASH
    flags = 0
    for name in step.flags:
        flags |= getattr(libvirt, f"VIR_DOMAIN_SNAPSHOT_CREATE_{name.upper()}")
    xml = step.spec.to_xml(taking.consistency)
    doing = f"VM {vm.name}: taking snapshot {step.spec.name}"
    try:
        call_within(timeout, doing, taking.dom.snapshotCreateXML, xml, flags)
    except TimedOut:
        _abort(taking.dom)
        raise
    except Problem as problem:
        if not _taken(taking.dom, step.spec):
            raise
        taking.notes.append(f"it is taken although libvirt reported an error: {problem.found}")


def _taken(dom: Domain, spec: SnapshotSpec) -> bool:
    """Whether an external snapshot is there in spite of an error: on record, overlays in use."""
    overlays = {disk.target: disk.file for disk in spec.disks if disk.file}
    doing = f"VM {dom.name()}: looking what came of snapshot {spec.name}"
    try:
        recorded = spec.name in call(doing, dom.snapshotListNames, 0)
        live = parse_domain(call(doing, dom.XMLDesc, 0))
    except Problem:
        return False
    in_use = {disk.target: disk.path for disk in live.disks}
    return recorded and bool(overlays) and overlays.items() <= in_use.items()


def _abort(dom: Domain) -> None:
    """End a memory dump that took too long; other snapshots cannot be aborted."""
    with contextlib.suppress(libvirt.libvirtError):
        dom.abortJob()


def _downgrade(taking: Taking) -> None:
    """The guest may have been thawed before the switch: the snapshot is worth less."""
    allowed = taking.step.freeze_timeout
    if taking.step.quiesce == "required":
        raise TimedOut(
            f"VM {taking.vm.name} was thawed, after {allowed} s or by somebody else, before its"
            f" snapshot {taking.step.spec.name} was certainly taken",
            wanted="a quiesced snapshot",
            todo="raise 'freeze_timeout', or look why the snapshot took so long and who thaws",
        )
    taking.consistency = CRASH
    taking.notes.append(
        f"not quiesced: thawed, after {allowed} s or by somebody else, before the snapshot was"
        " certainly taken"
    )
    redefine(taking.dom, taking.step.spec.name, consistency=CRASH)


def redefine(
    dom: Domain,
    name: str,
    *,
    sources: Sequence[tuple[str, str, str]] = (),
    without: Sequence[str] = (),
    files: Sequence[tuple[str, str]] = (),
    current: bool = False,
    consistency: str = "",
    stamps: str | None = None,
    former: Sequence[str] = (),
) -> None:
    """Correct a snapshot's metadata in place (see ``rewritten``); images are not touched."""
    doing = f"VM {dom.name()}: correcting the metadata of snapshot {name}"
    found = call(doing, dom.snapshotLookupByName, name, 0)
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
    if current or call(doing, found.isCurrent, 0):
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
    moved = {old: (new, image_format) for old, new, image_format in sources}
    xml = rewritten(
        call(doing, found.getXMLDesc, XML_SECURE),
        moved,
        without=without,
        files=dict(files),
        consistency=consistency,
        stamps=stamps,
        former=former,
    )
    call(doing, dom.snapshotCreateXML, xml, flags)
