# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One connection to the hypervisor for a whole run, with events and keepalive.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any, Callable, TypeVar
from urllib.parse import urlsplit

from .._model.names import in_shell
from .._model.problem import (
    BadInput,
    Busy,
    Conflict,
    NotFound,
    Problem,
    TimedOut,
    Unreachable,
    Unsupported,
)
from .libvirt_dep import LIBVIRT_IMPORT_ERROR, libvirt

if TYPE_CHECKING:
    from .libvirt_dep import Connection, Domain

CONNECT_SECONDS = 20.0
_IDLE_POLL_SECONDS = 0.05
_KEEPALIVE = (5, 3)
_IDLE_SECONDS = 1.0
_RECONNECT_SECONDS = 60.0
_FINDING = "finding the VM again"
# virDomainJobOperation: save, snapshot.
_LONG_JOBS = (2, 6)
T = TypeVar("T")

# https://libvirt.org/html/libvirt-virterror.html; numbers, since old bindings lack the new names
NO_DOMAIN, NO_SNAPSHOT, INVALID_ARG, OPERATION_INVALID = 42, 72, 8, 55
BLOCK_COPY_ACTIVE, OPERATION_TIMEOUT = 83, 68
# An agent that does not answer in time; 11.2 and later tell it from one that is not there.
AGENT_SILENT = (86, 112)
_KINDS: dict[int, type[Problem]] = {
    NO_DOMAIN: NotFound, NO_SNAPSHOT: NotFound, 99: NotFound,
    OPERATION_TIMEOUT: Busy, 87: Busy, BLOCK_COPY_ACTIVE: Busy,
    3: Unsupported, 67: Unsupported, 74: Unsupported, 84: Unsupported,
    5: Unreachable, 6: Unreachable, 38: Problem, 39: Unreachable,
    INVALID_ARG: BadInput, 27: BadInput, 35: BadInput, 92: BadInput,
    OPERATION_INVALID: Conflict,
}  # fmt: skip


def check_binding() -> None:
    """Raise Unsupported where the target has no libvirt binding for this Python."""
    if libvirt is None:
        last = LIBVIRT_IMPORT_ERROR.strip().splitlines()[-1]
        raise Unsupported(
            f"{sys.executable} (Python {sys.version.split()[0]}) has no libvirt binding ({last})",
            wanted="the package python3-libvirt of the distribution",
            todo="install python3-libvirt on the hypervisor and let Ansible use the distribution's"
            " Python there (ansible_python_interpreter: /usr/bin/python3)",
        )


def check_uri(uri: str) -> None:
    """Refuse a hypervisor that is not this machine: the images are where the module runs."""
    parts = urlsplit(uri)
    if parts.hostname:
        raise BadInput(
            f"the uri {uri} points to another host, {parts.hostname}",
            wanted="to run where the images are",
            todo=f"let the task run on {parts.hostname} (inventory or delegate_to) with"
            " 'uri: qemu:///system'",
        )
    if parts.scheme.partition("+")[0] != "qemu":
        raise BadInput(
            f"the uri {uri} is not one of libvirt's QEMU driver",
            wanted="qemu:///system or qemu:///session",
            todo="correct the option 'uri'",
        )


def connect(uri: str) -> Connection:
    """A ``virConnect`` with events and keepalive; Unreachable if the daemon does not answer."""
    check_binding()
    check_uri(uri)
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    _start_event_loop()
    opened: list[Any] = []
    opener = threading.Thread(target=_open, args=(uri, opened), daemon=True)
    opener.start()
    opener.join(CONNECT_SECONDS)
    if not opened:
        raise Unreachable(
            f"libvirt at {uri} did not answer within {CONNECT_SECONDS:.0f} s",
            wanted="a connection",
            todo="look at the daemon (systemctl status libvirtd virtqemud)",
        )
    if isinstance(opened[0], Exception):
        raise Unreachable(
            f"libvirt at {uri} cannot be reached: {opened[0]}",
            wanted="a connection",
            todo="start the daemon (systemctl start libvirtd or virtqemud.socket), and check the"
            " uri and the permissions of this user",
        )
    return opened[0]


def _open(uri: str, opened: list[Any]) -> None:
    try:
        connection = libvirt.open(uri)
        connection.setKeepAlive(*_KEEPALIVE)
        opened.append(connection)
    except libvirt.libvirtError as error:
        opened.append(error)


_loop_started = threading.Event()
_events_awaited = threading.Event()


def _start_event_loop() -> None:
    """libvirt wants its event implementation before the first connection, and someone to run it."""
    if _loop_started.is_set():
        return
    _loop_started.set()
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_events, name="libvirt-events", daemon=True).start()


def _run_events() -> None:
    """Serve keepalive, and events as soon as somebody awaits them.

    Every call wakes a loop that waits inside of libvirt, which takes a sixth of the time of a run
    that changes nothing. Until events are awaited a look now and then does: a call that waits for
    its answer sees to keepalive itself.
    """
    while True:
        libvirt.virEventRunDefaultImpl()
        _events_awaited.wait(_IDLE_SECONDS)


def await_events() -> None:
    """From now on events are delivered at once."""
    _events_awaited.set()


def code_of(error: BaseException | None) -> int:
    """The libvirt error code (virErrorNumber) of an exception, -1 for any other."""
    if libvirt is not None and isinstance(error, libvirt.libvirtError):
        return int(error.get_error_code() or -1)
    return -1


def problem_of(error: Exception, doing: str, *, lost: bool = False) -> Problem:
    """A libvirt error as one of ours, recognised by its code, with what was being done.

    ``lost``: the connection is gone, which libvirt tells by codes that can mean anything.
    """
    if isinstance(error, Problem):
        return error
    kind = Unreachable if lost else _KINDS.get(code_of(error), Problem)
    hint = "try again when the other operation has ended" if kind is Busy else ""
    return kind(f"{doing}: {error} (libvirt error {code_of(error)})", todo=hint)


def call(doing: str, function: Callable[..., T], *args: Any) -> T:
    """Call libvirt; an error becomes a Problem that says what was being done."""
    try:
        return function(*args)
    except Exception as error:
        if code_of(error) < 0:
            raise
        raise problem_of(error, doing, lost=_lost(function, args)) from error


def _lost(function: Callable[..., Any], args: tuple[Any, ...] = ()) -> bool:
    """Whether the connection that a call to libvirt went over is gone."""
    owner = getattr(function, "__self__", None) or next(iter(args), None)
    connect = getattr(owner, "connect", None)
    connection = connect() if connect else owner
    try:
        return isinstance(connection, libvirt.virConnect) and not connection.isAlive()
    except libvirt.libvirtError:
        return True


def call_within(seconds: float, doing: str, function: Callable[..., T], *args: Any) -> T:
    """As :func:`call`, but TimedOut after ``seconds``, whatever the daemon then does of it.

    For calls that wait for QEMU, which may be stuck in storage that does not answer.
    """
    answer: Future[T] = Future()
    threading.Thread(target=_answer, args=(answer, doing, function, args), daemon=True).start()
    try:
        return answer.result(seconds)
    except FutureTimeout:
        raise TimedOut(
            f"{doing}: no answer within {seconds:.0f} s",
            wanted="an answer from libvirt",
            todo="look at the storage and at QEMU's log of this VM; the next run looks what came"
            " of it",
        ) from None


def _answer(
    answer: Future[T], doing: str, function: Callable[..., T], args: tuple[Any, ...]
) -> None:
    try:
        answer.set_result(call(doing, function, *args))
    except Exception as error:
        answer.set_exception(error)


def reconnected(uri: str, uuid: str, lost: Problem) -> tuple[Connection, Domain]:
    """A new connection and the VM by it, once the daemon is back; ``lost`` if it does not come."""
    return once_back(uri, lost, lambda conn: (conn, call(_FINDING, conn.lookupByUUIDString, uuid)))


def once_back(uri: str, lost: Problem, use: Callable[[Connection], T]) -> T:
    """What ``use`` makes of a new connection, once the daemon is back; ``lost`` if it is not."""
    deadline = time.monotonic() + _RECONNECT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(Unreachable):
            return use(connect(uri))
        time.sleep(0.5)
    raise lost


def check_off(dom: Domain, wanted: str) -> None:
    """Raise Conflict if the VM is not off (any more); ``wanted`` is what needs that."""
    if call(f"reading VM {dom.name()}", dom.isActive):
        raise Conflict(
            f"VM {dom.name()} was started in the meantime",
            wanted=wanted,
            todo="run the task again",
        )


def wait_idle(dom: Domain, deadline: float) -> None:
    """Wait until no call of a dead client holds the domain; TimedOut at the deadline.

    ``deadline`` is a time.monotonic() value. A query that needs the domain's job lock waits for
    most calls, and is refused for a VM that is off once it had the lock. A snapshot or a save
    that writes memory lets queries through and is seen as a job.
    """
    doing = f"VM {dom.name()}: waiting for other jobs"
    while time.monotonic() < deadline:
        try:
            dom.memoryStats()
            if dom.jobStats().get("operation") not in _LONG_JOBS:
                return
            time.sleep(_IDLE_POLL_SECONDS)
        except libvirt.libvirtError as error:
            if code_of(error) == OPERATION_INVALID:
                return
            if code_of(error) != OPERATION_TIMEOUT:
                raise problem_of(error, doing, lost=_lost(dom.memoryStats)) from error
    raise TimedOut(
        f"another job still holds VM {dom.name()}",
        wanted="to begin",
        todo=f"look at it (virsh domjobinfo {in_shell(dom.name())}) and try again",
    )
