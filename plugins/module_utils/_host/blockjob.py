# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block commits and pulls of a running VM: started side by side, awaited by events, then proved.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable, Union

from .._model.domain import Definition, parse_domain
from .._model.problem import Problem, TimedOut, Unreachable
from .._model.step import CommitDisk, PullDisk
from .connection import BLOCK_COPY_ACTIVE, await_events, call, call_within, code_of
from .flush import flush
from .image_file import read_chain
from .libvirt_dep import libvirt
from .stamp import boot_id

if TYPE_CHECKING:
    from .libvirt_dep import Connection, Domain

JobStep = Union[CommitDisk, PullDisk]
Note = Callable[[str], None]

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


def run(
    conn: Connection,
    dom: Domain,
    steps: Sequence[JobStep],
    deadline: float,
    note: Note,
    done: Callable[[JobStep], None],
    uri: str,
) -> None:
    """Run the jobs of one VM side by side and prove each by its chain.

    ``deadline`` is of time.monotonic(). ``note`` writes into the journal what a later run has to
    know, before QEMU is told; ``done`` is called when a job is proved. ``uri`` is for the guard of
    a VM that is paused for a pull. Raises Problem or TimedOut; jobs that have not ended are then
    cancelled, which leaves their chains as they were.
    """
    with _events(conn, dom) as bell:
        pending = {step.target: step for step in steps}
        try:
            for step in steps:
                if not _goes_on(dom, step):
                    _start(dom, step, note)
            while pending:
                for step in tuple(pending.values()):
                    if _advance(dom, step, bell, note, uri):
                        done(pending.pop(step.target))
                if pending and time.monotonic() > deadline:
                    raise _late(dom, tuple(pending.values()))
                if pending:
                    bell.wait(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        except Exception:
            for step in pending.values():
                _cancel(dom, step)
            raise


def _goes_on(dom: Domain, step: JobStep) -> bool:
    """Whether the job of an earlier run is still there, or has done its work."""
    if not step.resume:
        return False
    return bool(_job(dom, step.target)) or _arrived(dom, step)


def _start(dom: Domain, step: JobStep, note: Note) -> None:
    try:
        _ask(dom, step, note)
    except Problem as problem:
        state = call(f"reading VM {dom.name()}", dom.state)[0]
        if problem.todo or state != libvirt.VIR_DOMAIN_PAUSED:
            raise
        raise type(problem)(
            problem.found,
            todo="where QEMU calls an image inactive or read-only, the VM has not run since its"
            " memory was loaded or written, and QEMU writes to no image before that: let it go on"
            " (vm_memory with state running), or switch it off",
        ) from problem


def _ask(dom: Domain, step: JobStep, note: Note) -> None:
    doing = f"VM {dom.name()}, disk {step.target}: {_doing(step)}"
    if isinstance(step, PullDisk):
        note(step.mark(_live(dom).number, boot_id()))
        flags = libvirt.VIR_DOMAIN_BLOCK_REBASE_RELATIVE if step.relative else 0
        call(doing, dom.blockRebase, step.target, step.base or None, step.bandwidth, flags)
        return
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE if step.relative else 0
    flags |= libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE if step.how == "active" else 0
    call(doing, dom.blockCommit, step.target, step.base, step.top, step.bandwidth, flags)


def _doing(step: JobStep) -> str:
    if isinstance(step, PullDisk):
        return f"pulling {', '.join(step.pulled)} into {step.into}"
    return f"committing {', '.join(step.merged)} into {step.base}"


def _job(dom: Domain, target: str) -> dict[str, int]:
    doing = f"VM {dom.name()}, disk {target}: asking for its block job"
    return call(doing, dom.blockJobInfo, target, 0) or {}


def _advance(dom: Domain, step: JobStep, bell: _Bell, note: Note, uri: str) -> bool:
    """Take a job as far as it goes now; True once it is proved."""
    status = bell.statuses.get(step.target)
    if status in _ENDED_BADLY:
        raise _failed(dom, step, f"the job {_ENDED_BADLY[status]}")
    if step.how == "active" and (status == _READY or _mirror_ready(dom, step.target)):
        if isinstance(step, CommitDisk) and not _pivot(dom, step, note):
            return False
    elif _job(dom, step.target):
        return False
    _prove(dom, step)
    if isinstance(step, PullDisk):
        flush(dom, step, note, uri)
    return True


def _mirror_ready(dom: Domain, target: str) -> bool:
    disk = _live(dom).disk(target)
    return bool(disk and disk.mirror and disk.mirror.is_ready)


def _live(dom: Domain) -> Definition:
    return parse_domain(call(f"reading VM {dom.name()}", dom.XMLDesc, 0))


def _pivot(dom: Domain, step: CommitDisk, note: Note) -> bool:
    """Switch to the base; False if QEMU says that the job is not ready after all."""
    note(step.pivot_mark)
    doing = f"VM {dom.name()}, disk {step.target}: switching from {step.top} to {step.base}"
    try:
        flags = libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT
        call_within(_PIVOT_SECONDS, doing, dom.blockJobAbort, step.target, flags)
    except Problem as problem:
        if code_of(problem.__cause__) == BLOCK_COPY_ACTIVE:
            return False
        # The switch may have happened all the same: what the chain says decides.
        if isinstance(problem, Unreachable) or not _arrived(dom, step):
            raise
    return True


def _prove(dom: Domain, step: JobStep) -> None:
    """A job that is gone has only succeeded if the chain says so."""
    if not _arrived(dom, step):
        raise _failed(dom, step, "the job is gone but the chain is as before")


def _arrived(dom: Domain, step: JobStep) -> bool:
    """Whether libvirt and the images have what is wanted in the chain, and nothing that goes."""
    disk = _live(dom).disk(step.target)
    if disk is None or disk.mirror is not None:
        return False
    stay, go = (
        ((step.into, step.base), step.pulled)
        if isinstance(step, PullDisk)
        else ((step.base,), step.merged)
    )
    chain = read_chain(disk.path, format=disk.format)
    files = {os.path.realpath(image.filename) for image in chain}
    wanted = {os.path.realpath(path) for path in stay if path}
    return wanted <= files and not files.intersection(os.path.realpath(path) for path in go)


def _failed(dom: Domain, step: JobStep, why: str) -> Problem:
    gone = step.pulled if isinstance(step, PullDisk) else step.merged
    return Problem(
        f"VM {dom.name()}, disk {step.target}: {_doing(step)} did not succeed: {why}",
        wanted=f"a chain without {', '.join(gone)}",
        todo="the chain is as it was and nothing is lost; look at free space and at QEMU's"
        " log of this VM, then run the task again",
    )


def _late(dom: Domain, steps: Sequence[JobStep]) -> TimedOut:
    progress = ", ".join(
        f"{step.target} at {info['cur']} of {info['end']} bytes"
        for step in steps
        for info in [_job(dom, step.target)]
        if info
    )
    return TimedOut(
        f"VM {dom.name()}: the {steps[0].step} was not done in time"
        f" ({progress or 'no job is left'})",
        wanted="an end before the deadline",
        todo="raise 'timeout' or 'bandwidth'; the chain is as it was and nothing is lost",
    )


def _cancel(dom: Domain, step: JobStep) -> None:
    """End a job of ours without the switch, as far as libvirt can still be reached."""
    with contextlib.suppress(libvirt.libvirtError):
        dom.blockJobAbort(step.target, 0)
