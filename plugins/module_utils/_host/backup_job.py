# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's backup job: begun at one point in time, awaited by events, ended if it has to be.

Follows https://libvirt.org/formatbackup.html and https://libvirt.org/formatcheckpoint.html.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .._model.backup import INCREMENTAL
from .._model.backup_steps import BackUp
from .._model.checkpoint_steps import STARTED
from .._model.names import in_shell
from .._model.problem import Problem, TimedOut, Unreachable
from .backup_report import Report
from .backups import written_by_job
from .connection import OPERATION_INVALID, await_events, call, call_within, code_of, reconnected
from .image_lock import writers
from .libvirt_dep import libvirt

if TYPE_CHECKING:
    from .libvirt_dep import Domain
    from .observe import Host

_BACKUP = 9  # virDomainJobOperation
_POLL_SECONDS, _ABORT_SECONDS = 0.5, 60.0
_GONE_SECONDS = 10.0
_RUNNING = (1, 2, 3)  # virDomainState: running, blocked, paused
# Tells why a job must not go on, '' while it may.
Harm = Callable[["Domain"], str]
_RELEASE_SECONDS, _RELEASE_POLL_SECONDS = 60.0, 0.005


def paths_of(step: BackUp) -> tuple[str, ...]:
    """The images that a step makes."""
    folder = os.path.join(step.directory, step.id)
    return tuple(os.path.join(folder, copy.file) for copy in step.copies)


def backup_xml(step: BackUp) -> str:
    """What libvirt is to do; the images are there already."""
    root = ET.Element("domainbackup", mode="push")
    disks = ET.SubElement(root, "disks")
    for copy, path in zip(step.copies, paths_of(step)):
        disk = ET.SubElement(disks, "disk", name=copy.target, backup="yes", type="file")
        disk.set("backupmode", copy.type)
        if copy.type == INCREMENTAL:
            disk.set("incremental", step.since)
        ET.SubElement(disk, "target", file=path)
        ET.SubElement(disk, "driver", type="qcow2")
    for target, _why in step.left_out:
        ET.SubElement(disks, "disk", name=target, backup="no")
    return ET.tostring(root, encoding="unicode")


def checkpoint_xml(step: BackUp, start: str) -> str | None:
    """The checkpoint that begins at the same moment, None where no disk can have one.

    ``start`` tells this start of the VM from others.
    """
    if not step.checkpoint:
        return None
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = step.checkpoint
    text = f"restore point {step.id} in {step.repository}, by vmkeep.libvirt{STARTED}{start}"
    ET.SubElement(root, "description").text = text
    disks = ET.SubElement(root, "disks")
    for copy in step.copies:
        kind = "bitmap" if copy.tracked else "no"
        ET.SubElement(disks, "disk", name=copy.target, checkpoint=kind)
    for target, _why in step.left_out:
        ET.SubElement(disks, "disk", name=target, checkpoint="no")
    return ET.tostring(root, encoding="unicode")


def begin(dom: Domain, step: BackUp, xml: tuple[str, str | None], timeout: float) -> str:
    """Begin the job; what there is to tell, or ''. Raises Problem where it does not run."""
    doing = f"VM {dom.name()}: beginning the backup {step.id}"
    flags = libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
    try:
        call_within(timeout, doing, dom.backupBegin, *xml, flags)
    except Unreachable:
        raise
    except Problem as problem:
        if written_by_job(dom) != paths_of(step):
            raise
        return f"it has begun although libvirt reported an error: {problem.found}"
    return ""


class _Bell:
    """Rings when a job of the domain has ended, and keeps what libvirt says of it.

    ``stirred`` also when an I/O error has paused the VM.
    """

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.rung, self.stirred = threading.Event(), threading.Event()

    def ring(self, _conn: Any, _dom: Any, said: dict[str, Any], _data: Any) -> None:
        self.said = dict(said)
        self.rung.set()
        self.stirred.set()

    def stir(self, *_told: Any) -> None:
        self.stirred.set()


@contextlib.contextmanager
def listening(host: Host, dom: Domain) -> Iterator[_Bell]:
    """Hear of the end of jobs, from before they begin."""
    bell = _Bell()
    events = {
        libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED: bell.ring,
        libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR: bell.stir,
    }
    await_events()
    numbers = [host.conn.domainEventRegisterAny(dom, id, do, None) for id, do in events.items()]
    try:
        yield bell
    finally:
        for number in numbers:
            with contextlib.suppress(libvirt.libvirtError):
                host.conn.domainEventDeregisterAny(number)


def await_end(
    host: Host,
    dom: Domain,
    step: BackUp,
    bell: _Bell,
    deadline: float,
    harm: Callable[[Domain], str],
) -> tuple[Host, Domain]:
    """Wait until the job has succeeded. Raises Problem or TimedOut if it does not.

    ``deadline`` is of time.monotonic(). The daemon may be restarted meanwhile; returned is by which
    connection the VM is reached then.
    """
    uuid = dom.UUIDString()
    try:
        _await(dom, step, bell, deadline, harm)
    except Unreachable as lost:
        conn, dom = reconnected(host.uri, uuid, lost)
        host = host.reached_by(conn)
        with listening(host, dom) as again:
            if written_by_job(dom) not in (None, paths_of(step)):
                raise
            _await(dom, step, again, deadline, harm)
    return host, dom


def _await(dom: Domain, step: BackUp, bell: _Bell, deadline: float, harm: Harm) -> None:
    report = Report(dom.name(), step)
    while not bell.rung.is_set():
        found = _running(dom)
        if not found:
            break
        report.tell(found)
        if why := harm(dom):
            raise Problem(
                f"VM {dom.name()}: the backup {step.id} was ended: {why}",
                wanted="a backup that the guest does not notice",
                todo="make room, then run the task again; the restore points that there are stay"
                " good",
            )
        if time.monotonic() > deadline:
            raise TimedOut(
                f"VM {dom.name()}: the backup {step.id} was not done in time ({report.last})",
                wanted="an end before the deadline",
                todo="raise 'timeout'; the restore points that there are stay good",
            )
        bell.stirred.wait(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        if not bell.rung.is_set():
            bell.stirred.clear()
    said = bell.said or _completed(dom)
    if said.get("operation") != _BACKUP or not said.get("success"):
        raise _failed(dom, step, said)


def _running(dom: Domain) -> dict[str, Any]:
    """How far the backup job is, {} where there is none any more."""
    doing = f"VM {dom.name()}: looking at its backup job"
    try:
        found = call(doing, dom.jobStats, 0)
    except Unreachable:
        raise
    except Problem:
        if not _goes_off(dom):
            raise
        return {}
    return found if found.get("operation") == _BACKUP and found.get("type") else {}


def _goes_off(dom: Domain) -> bool:
    """Whether the VM is off, or will be: libvirt has just lost its QEMU.

    libvirt 9.0 calls a guest that shut down during a backup "shutting down" for a minute more.
    """
    deadline = time.monotonic() + _GONE_SECONDS
    while runs(dom):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def runs(dom: Domain) -> bool:
    """Whether the VM runs, or is paused, and is not about to go off."""
    return call(f"VM {dom.name()}: looking at it", dom.state)[0] in _RUNNING


def _completed(dom: Domain) -> dict[str, Any]:
    """What libvirt says of the last job; nothing after it was restarted, or the VM went off."""
    flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
    doing = f"VM {dom.name()}: looking what came of its backup job"
    try:
        return dict(call(doing, dom.jobStats, flags))
    except Unreachable:
        raise
    except Problem:
        return {}


def _failed(dom: Domain, step: BackUp, said: dict[str, Any]) -> Problem:
    how = "failed" if said.get("success") is False else "ended, and libvirt does not say how"
    why = f" ({said['errmsg']})" if said.get("errmsg") else ""
    off = "" if runs(dom) else ", and the VM went off"
    return Problem(
        f"VM {dom.name()}: the backup {step.id} {how}{why}{off}",
        wanted="a complete restore point",
        todo="look at the free space of the repository and at QEMU's log of this VM, then run the"
        " task again; the restore points that there are stay good",
    )


def released(step: BackUp) -> None:
    """Return once QEMU has closed the images: libvirt tells of the end of a job before that."""
    deadline = time.monotonic() + _RELEASE_SECONDS
    for path in paths_of(step):
        while holder := writers(path):
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"{path} is still open in {holder}, though the backup is over",
                    wanted="an image that nobody writes to",
                    todo="look at QEMU's log of this VM, then run the task again",
                )
            time.sleep(_RELEASE_POLL_SECONDS)


def end(dom: Domain) -> None:
    """End the backup job that runs; what it has written is worth nothing."""
    doing = f"VM {dom.name()}: ending its backup job"
    try:
        call(doing, dom.abortJob)
    except Problem as problem:
        if code_of(problem.__cause__) != OPERATION_INVALID:
            raise
    deadline = time.monotonic() + _ABORT_SECONDS
    while written_by_job(dom) is not None:
        if time.monotonic() > deadline:
            raise TimedOut(
                f"the backup job of VM {dom.name()} does not end",
                wanted="to end it",
                todo=f"look at QEMU's log of this VM (virsh domjobinfo {in_shell(dom.name())})",
            )
        time.sleep(0.1)
