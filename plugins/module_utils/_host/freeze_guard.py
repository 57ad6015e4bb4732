# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that thaws a guest when the run that froze it dies or takes too long.

It resumes one that the run has paused likewise.

Its text is run by a fresh interpreter (see freeze.py), which keeps it free of the run's threads and
files: it needs nothing but the libvirt binding. It reads lines from its standard input; the end of
input means that the run is gone. Signals that end a session do not end it, but the run. It answers
``ready`` once connected. ``arm UUID SECONDS [TOKEN]`` puts a guest into its care, ``watch UUID
SECONDS`` one that is paused, ``disarm UUID`` takes it out.

A guest with a TOKEN has a record (see hold.py), and is ours only while that carries it. After
``leave UUID`` the freeze outlives the run: it ends with its seconds.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Callable, NamedTuple, TextIO

try:
    import libvirt
    import libvirt_qemu
except ImportError:  # the run has refused to start long before
    libvirt = libvirt_qemu = None

_STATUS = '{"execute":"guest-fsfreeze-status"}'
_THAW = '{"execute":"guest-fsfreeze-thaw"}'
_AGENT_SECONDS = 2
# An agent that was sent a freeze and does not answer may do it when it wakes up.
_GIVE_UP_SECONDS = 3600.0
# While the daemon is away nobody can thaw the guest, and a freeze or pause has to end once it is
# back: it is waited for until the QEMU of the guest has been gone for so long.
_LOST_SECONDS = 120.0
_OFTEN_SECONDS = 20.0
# The run may have died just after it sent a freeze that the daemon has still to begin.
_QUIET_SECONDS = 3.0
# How often a freeze that outlives its run is looked at: our record, and what the agent says.
_RECORD_SECONDS = 0.2
_GUEST_SECONDS = 2.0
# Who holds the lock is about to freeze, or to thaw. A frozen guest does not wait for ever.
_LOCK_SECONDS = 5.0
# virDomainPausedReason: unknown, user, migration, save, snapshot, failed API call. By number,
# since bindings lack the newer names. Not an I/O error, a watchdog or a crash.
RESUMABLE = (0, 1, 2, 3, 9, 14)


class Guest(NamedTuple):
    """A guest in our care until ``deadline``, of time.monotonic()."""

    uuid: str
    deadline: float
    state_dir: str
    token: str = ""
    paused: bool = False

    @property
    def record(self) -> str:
        return os.path.join(self.state_dir, "freeze", f"{self.uuid}.json")

    def ours(self) -> bool:
        """Whether nobody has thawed the guest and frozen it anew."""
        if not self.token:
            return True
        try:
            with open(self.record, encoding="utf-8") as file:
                return bool(json.load(file)["token"] == self.token)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return False
        except OSError:
            return True

    def forget(self) -> None:
        """The guest is thawed, or gone."""
        if self.token and self.ours():
            with contextlib.suppress(OSError):
                os.unlink(self.record)


def main(uri: str, state_dir: str) -> None:
    """Watch over the guests of one run until its end."""
    os.umask(0o077)
    connection = libvirt.open(uri)
    armed: dict[str, Guest] = {}
    os.write(1, b"ready\n")
    pending = b""
    while True:
        deadlines = [guest.deadline for guest in armed.values()]
        wait = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        readable, _writable, _errors = select.select([0], [], [], wait)
        if readable:
            chunk = os.read(0, 4096)
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                left = _obey(line.decode().split(), armed, state_dir)
                if left:
                    _start(_stay, connection, uri, left)
        for guest in [guest for guest in armed.values() if guest.deadline <= time.monotonic()]:
            del armed[guest.uuid]
            _start(_release, connection, uri, guest)
    for guest in armed.values():
        _start(_release, connection, uri, guest)


def _start(do: Callable[..., None], connection: libvirt.virConnect, uri: str, guest: Guest) -> None:
    """Care for a guest in a thread of its own, so that none waits for another one's agent."""
    # The process does not end before its threads.
    threading.Thread(target=do, args=(connection, uri, guest)).start()


def _obey(words: list[str], armed: dict[str, Guest], state_dir: str) -> Guest | None:
    """Do as told; the guest whose freeze is to outlive the run, if it was told that."""
    if words[0] in ("arm", "watch"):
        deadline, token = time.monotonic() + float(words[2]), "".join(words[3:])
        armed[words[1]] = Guest(words[1], deadline, state_dir, token, words[0] == "watch")
        return None
    guest = armed.pop(words[1], None)
    return guest if words[0] == "leave" else None


def _stay(connection: libvirt.virConnect, uri: str, guest: Guest) -> None:
    """Let the guest be until its seconds are over, or until somebody else has thawed it."""
    looked = time.monotonic()
    while guest.ours() and time.monotonic() < guest.deadline:
        if time.monotonic() > looked + _GUEST_SECONDS:
            connection = _again(connection, uri)
            if _is_thawed(connection, guest.uuid):
                break
            looked = time.monotonic()
        time.sleep(max(0.0, min(_RECORD_SECONDS, guest.deadline - time.monotonic())))
    with _alone(guest):
        _thaw(connection, uri, guest, quiet=0.0)


def _is_thawed(connection: libvirt.virConnect, uuid: str) -> bool:
    """Whether the guest says so, or is off; one that does not answer may be frozen."""
    try:
        domain = connection.lookupByUUIDString(uuid)
        if not domain.isActive():
            return True
        return "thawed" in libvirt_qemu.qemuAgentCommand(domain, _STATUS, _AGENT_SECONDS, 0)
    except (libvirt.libvirtError, UnicodeDecodeError) as error:
        return bool(getattr(error, "get_error_code", int)() == libvirt.VIR_ERR_NO_DOMAIN)


def _release(connection: libvirt.virConnect, uri: str, guest: Guest) -> None:
    if guest.paused:
        return _resume(connection, uri, guest)
    with _alone(guest):
        return _thaw(connection, uri, guest, quiet=_QUIET_SECONDS)


def _resume(connection: libvirt.virConnect, uri: str, guest: Guest) -> None:
    """Let it run as soon as the daemon has done what the run had asked for last."""
    patience = _Patience(guest.uuid)
    while patience.lasts():
        try:
            domain = connection.lookupByUUIDString(guest.uuid)
            state, reason = domain.state()
            patience.heard()
            if state == libvirt.VIR_DOMAIN_PAUSED and reason in RESUMABLE:
                domain.resume()
            elif patience.seconds() >= _QUIET_SECONDS:
                return
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return
            connection = _again(connection, uri)
        patience.pause()


class _Patience:
    """How long a guest is cared for: as long as it may be frozen or paused.

    An agent that does not answer is asked for an hour. The time in which there is no daemon does
    not count as long as the QEMU of the guest is there.
    """

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._began = self._heard = self._seen = time.monotonic()
        self._away = 0.0
        self._visible = False  # processes of others may be hidden from us

    def heard(self) -> None:
        """The daemon has answered."""
        now = time.monotonic()
        if now - self._heard > _OFTEN_SECONDS:
            self._away += now - self._heard
        self._heard = self._seen = now

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def lasts(self) -> bool:
        now = time.monotonic()
        if now - self._heard <= _OFTEN_SECONDS:
            return now < self._began + self._away + _GIVE_UP_SECONDS
        if _qemu_runs(self._uuid):
            self._seen, self._visible = now, True
        return now < self._seen + (_LOST_SECONDS if self._visible else _GIVE_UP_SECONDS)

    def pause(self) -> None:
        time.sleep(0.1 if self.seconds() < _OFTEN_SECONDS else 1.0)


def _qemu_runs(uuid: str) -> bool:
    """Whether there is a QEMU of this guest, whose command line libvirt has given its UUID."""
    wanted = uuid.encode()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if wanted in words and b"-uuid" in words:
            return True
    return False


@contextlib.contextmanager
def _alone(guest: Guest) -> Iterator[None]:
    """Hold the lock of those who freeze this guest, so that nobody begins while we thaw it.

    A guest without a record is guarded by a process that has inherited the lock.
    """
    if not guest.token:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path = os.path.join(guest.state_dir, "lock", f"{guest.uuid}.guard")
            _lock(stack.enter_context(open(path, "a", encoding="ascii")), guest)
        yield


def _lock(file: TextIO, guest: Guest) -> None:
    limit = time.monotonic() + _LOCK_SECONDS
    while guest.ours() and time.monotonic() < limit:
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    return None


def _thaw(connection: libvirt.virConnect, uri: str, guest: Guest, quiet: float) -> None:
    """Thaw until the guest says that it is thawed and stays so, through daemon restarts.

    ``quiet`` is how many seconds it has to stay so.
    """
    patience = _Patience(guest.uuid)
    while guest.ours() and patience.lasts():
        try:
            domain = connection.lookupByUUIDString(guest.uuid)
            if not domain.isActive():
                return guest.forget()
            patience.heard()
            if "frozen" in libvirt_qemu.qemuAgentCommand(domain, _STATUS, _AGENT_SECONDS, 0):
                libvirt_qemu.qemuAgentCommand(domain, _THAW, _AGENT_SECONDS, 0)
            elif patience.seconds() >= quiet:
                return guest.forget()
        except (libvirt.libvirtError, UnicodeDecodeError) as error:  # a guest may answer anything
            if getattr(error, "get_error_code", int)() == libvirt.VIR_ERR_NO_DOMAIN:
                return guest.forget()
            connection = _again(connection, uri)
        patience.pause()
    return None


def _again(connection: libvirt.virConnect, uri: str) -> libvirt.virConnect:
    """The connection if it is alive, else a new one if the daemon is back."""
    try:
        if connection.isAlive():
            return connection
        return libvirt.open(uri)
    except libvirt.libvirtError:
        return connection


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    main(sys.argv[1], sys.argv[2])
