# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block commits of a running VM: started side by side, waited for by events, proved by reading.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable

from .._model.domain import Disk, parse_domain
from .._model.problem import Problem, TimedOut, Unreachable
from .._model.step import CommitDisk
from .connection import BLOCK_COPY_ACTIVE, await_events, call, call_within, code_of
from .image_file import read_chain
from .libvirt_dep import libvirt

if TYPE_CHECKING:
    from .libvirt_dep import Connection, Domain

_POLL_SECONDS = 1.0
_PIVOT_SECONDS = 120.0
_READY = 3
_ENDED_BADLY = {1: "failed", 2: "was cancelled"}


class _Bell:
    """Rings when a block job of the domain changes; keeps the last status of each disk."""

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {}
        self._rung = threading.Event()

    def ring(self, _conn: Any, _dom: Any, target: str, _kind: int, status: int, _data: Any) -> None:
        self.statuses[target] = status
        self._rung.set()

    def wait(self, seconds: float) -> None:
        self._rung.wait(seconds)
        self._rung.clear()


@contextlib.contextmanager
def _events(conn: Connection, dom: Domain) -> Iterator[_Bell]:
    bell = _Bell()
    event = libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2
    await_events()
    number = conn.domainEventRegisterAny(dom, event, bell.ring, None)
    try:
        yield bell
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            conn.domainEventDeregisterAny(number)


def commit(
    conn: Connection,
    dom: Domain,
    steps: Sequence[CommitDisk],
    deadline: float,
    before_pivot: Callable[[CommitDisk], None],
    done: Callable[[CommitDisk], None],
) -> None:
    """Run the commits of one VM side by side and prove each by its chain.

    ``deadline`` is of time.monotonic(). ``before_pivot`` is called before QEMU is told to
    switch, ``done`` when a merge is proved. Raises Problem or TimedOut; jobs that are not yet
    switched are then cancelled, which leaves their overlays active.
    """
    with _events(conn, dom) as bell:
        pending = {step.target: step for step in steps}
        try:
            for step in steps:
                if not step.resume or not _job(dom, step.target):
                    _start(dom, step)
            while pending:
                for step in tuple(pending.values()):
                    if _advance(dom, step, bell, before_pivot):
                        done(pending.pop(step.target))
                if pending and time.monotonic() > deadline:
                    raise _late(dom, tuple(pending.values()))
                if pending:
                    bell.wait(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        except Exception:
            for step in pending.values():
                _cancel(dom, step)
            raise


def _start(dom: Domain, step: CommitDisk) -> None:
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE if step.how == "active" else 0
    doing = f"VM {dom.name()}, disk {step.target}: committing {step.top} into {step.base}"
    call(doing, dom.blockCommit, step.target, step.base, step.top, step.bandwidth, flags)


def _job(dom: Domain, target: str) -> dict[str, int]:
    doing = f"VM {dom.name()}, disk {target}: asking for its block job"
    return call(doing, dom.blockJobInfo, target, 0) or {}


def _advance(
    dom: Domain, step: CommitDisk, bell: _Bell, before_pivot: Callable[[CommitDisk], None]
) -> bool:
    """Take a job as far as it goes now; True once its merge is proved."""
    status = bell.statuses.get(step.target)
    if status in _ENDED_BADLY:
        raise _failed(dom, step, f"the job {_ENDED_BADLY[status]}")
    if step.how == "active" and (status == _READY or _mirror_ready(dom, step.target)):
        before_pivot(step)
        if not _pivot(dom, step):
            return False
    elif _job(dom, step.target):
        return False
    _prove(dom, step)
    return True


def _mirror_ready(dom: Domain, target: str) -> bool:
    disk = _live_disk(dom, target)
    return bool(disk and disk.mirror and disk.mirror.is_ready)


def _live_disk(dom: Domain, target: str) -> Disk | None:
    return parse_domain(call(f"reading VM {dom.name()}", dom.XMLDesc, 0)).disk(target)


def _pivot(dom: Domain, step: CommitDisk) -> bool:
    """Switch to the base; False if QEMU says that the job is not ready after all."""
    doing = f"VM {dom.name()}, disk {step.target}: switching from {step.top} to {step.base}"
    try:
        flags = libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT
        call_within(_PIVOT_SECONDS, doing, dom.blockJobAbort, step.target, flags)
    except Problem as problem:
        if code_of(problem.__cause__) == BLOCK_COPY_ACTIVE:
            return False
        # The switch may have happened all the same: what the chain says decides.
        if isinstance(problem, Unreachable) or not _merged(dom, step):
            raise
    return True


def _prove(dom: Domain, step: CommitDisk) -> None:
    """A job that is gone has only succeeded if the chain says so."""
    if not _merged(dom, step):
        raise _failed(dom, step, "the job is gone but the chain is as before")


def _merged(dom: Domain, step: CommitDisk) -> bool:
    """Whether neither libvirt nor the images have a merged image in the chain."""
    disk = _live_disk(dom, step.target)
    if disk is None or disk.mirror is not None:
        return False
    chain = read_chain(disk.path, format=disk.format)
    files = {os.path.realpath(image.filename) for image in chain}
    gone = {os.path.realpath(path) for path in step.merged}
    return os.path.realpath(step.base) in files and not files & gone


def _failed(dom: Domain, step: CommitDisk, why: str) -> Problem:
    return Problem(
        f"VM {dom.name()}, disk {step.target}: committing {', '.join(step.merged)} into"
        f" {step.base} did not succeed: {why}",
        wanted="the chain without the merged images",
        todo="the overlay is still active and nothing is lost; look at free space and at QEMU's"
        " log of this VM, then run the task again",
    )


def _late(dom: Domain, steps: Sequence[CommitDisk]) -> TimedOut:
    progress = ", ".join(
        f"{step.target} at {info['cur']} of {info['end']} bytes"
        for step in steps
        for info in [_job(dom, step.target)]
        if info
    )
    return TimedOut(
        f"VM {dom.name()}: the commit was not done in time ({progress or 'no job is left'})",
        wanted="an end before the deadline",
        todo="raise 'timeout' or 'bandwidth'; the overlay is still active and nothing is lost",
    )


def _cancel(dom: Domain, step: CommitDisk) -> None:
    """End a job of ours without the switch, as far as libvirt can still be reached."""
    with contextlib.suppress(libvirt.libvirtError):
        dom.blockJobAbort(step.target, 0)
