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
from .._model.problem import Problem, TimedOut, Unsupported
from .._model.snapshot import CRASH, FILESYSTEM, MEMORY, OFFLINE, SnapshotSpec, rewritten
from .._model.state import VmState
from .._model.step import TakeSnapshot
from .connection import call, call_within
from .freeze import Freeze, Guard, paused, quiesced
from .libvirt_dep import libvirt

if TYPE_CHECKING:
    from .libvirt_dep import Domain

XML_SECURE = 1
_PAUSE_SECONDS = 10.0
_WRITTEN_ONCE = "paused due to previous migration"


@dataclass
class Taking:
    """One VM's part in a point in time, and how it went (milliseconds frozen, 0 for not)."""

    dom: Domain
    vm: VmState
    step: TakeSnapshot
    frozen_ms: int = 0
    consistency: str = ""
    notes: list[str] = field(default_factory=list)


def take_together(takings: Sequence[Taking], guard: Guard | None, timeout: float) -> None:
    """Freeze all, take all, thaw all. Raises the first real failure; the caller undoes.

    ``guard`` must be ready if any of them is to be quiesced.
    """
    barrier = threading.Barrier(len(takings))
    with ThreadPoolExecutor(max_workers=len(takings)) as pool:
        parts = [pool.submit(_take, taking, guard, barrier, timeout) for taking in takings]
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


def _take(taking: Taking, guard: Guard | None, barrier: threading.Barrier, timeout: float) -> None:
    try:
        still = quiesced(taking.dom, guard, taking.step, taking.notes)
        with still as freeze, _paused(taking, guard, timeout):
            barrier.wait(timeout)
            _create(taking, freeze, timeout)
            lapsed = freeze is not None and freeze.lapsed()
            barrier.wait(timeout)
        if freeze is not None:
            taking.frozen_ms = freeze.milliseconds
            if lapsed or not freeze.thawed:
                _downgrade(taking)
    except BaseException:
        barrier.abort()
        raise


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
            raise _explained(problem, vm) from problem
        taking.notes.append(f"it is taken although libvirt reported an error: {problem.found}")


def _explained(problem: Problem, vm: VmState) -> Problem:
    """QEMU writes the memory of a paused VM once; libvirt does not show that it has."""
    if _WRITTEN_ONCE not in problem.found:
        return problem
    return Unsupported(
        f"the memory of VM {vm.name} was written before, and it has not run since: QEMU does not"
        " write it twice",
        wanted="to write it for a snapshot",
        todo=f"let it run for a moment (virsh resume {vm.name}; virsh suspend {vm.name}), then run"
        " the task again",
    )


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
    )
    call(doing, dom.snapshotCreateXML, xml, flags)
