# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that thaws a guest when the run that froze it dies or takes too long.

Its text is run by a fresh interpreter (see freeze.py), which keeps it free of the run's
threads and files: it needs nothing but the libvirt binding. It reads lines from its
standard input (``arm UUID SECONDS``, ``disarm UUID``); the end of input means that the
run is gone. It answers ``ready`` once it is connected.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time

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
# A daemon that is gone for so long has been taken away.
_LOST_SECONDS = 120.0
_OFTEN_SECONDS = 20.0
# The run may have died just after it sent a freeze that the daemon has still to begin.
_QUIET_SECONDS = 3.0


def main(uri: str) -> None:
    """Watch over the guests of one run until its end."""
    connection = libvirt.open(uri)
    armed: dict[str, float] = {}
    os.write(1, b"ready\n")
    pending = b""
    while True:
        wait = max(0.0, min(armed.values()) - time.monotonic()) if armed else None
        readable, _writable, _errors = select.select([0], [], [], wait)
        if readable:
            chunk = os.read(0, 4096)
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                _obey(line.decode().split(), armed)
        for uuid in [uuid for uuid, deadline in armed.items() if deadline <= time.monotonic()]:
            del armed[uuid]
            _release(connection, uri, uuid)
    for uuid in armed:
        _release(connection, uri, uuid)


def _release(connection: libvirt.virConnect, uri: str, uuid: str) -> None:
    """Thaw a guest. Each has its thread, so that none waits for another one's agent.

    The process does not end before its threads.
    """
    threading.Thread(target=_thaw, args=(connection, uri, uuid)).start()


def _obey(words: list[str], armed: dict[str, float]) -> None:
    if words[0] == "arm":
        armed[words[1]] = time.monotonic() + float(words[2])
    else:
        armed.pop(words[1], None)


def _thaw(connection: libvirt.virConnect, uri: str, uuid: str) -> None:
    """Thaw until the guest says that it is thawed and stays so, through daemon restarts."""
    began = heard = time.monotonic()
    while time.monotonic() < min(began + _GIVE_UP_SECONDS, heard + _LOST_SECONDS):
        try:
            domain = connection.lookupByUUIDString(uuid)
            if not domain.isActive():
                return
            heard = time.monotonic()
            if "frozen" in libvirt_qemu.qemuAgentCommand(domain, _STATUS, _AGENT_SECONDS, 0):
                libvirt_qemu.qemuAgentCommand(domain, _THAW, _AGENT_SECONDS, 0)
            elif time.monotonic() > began + _QUIET_SECONDS:
                return
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return
            connection = _again(connection, uri)
        time.sleep(0.1 if time.monotonic() < began + _OFTEN_SECONDS else 1.0)


def _again(connection: libvirt.virConnect, uri: str) -> libvirt.virConnect:
    """The connection if it is alive, else a new one if the daemon is back."""
    try:
        if connection.isAlive():
            return connection
        return libvirt.open(uri)
    except libvirt.libvirtError:
        return connection


if __name__ == "__main__":
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    main(sys.argv[1])
