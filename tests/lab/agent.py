# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands in the guest, by a guest agent of the lab's own.

The guest runs a second agent on the port `lab.control`, and the lab talks to it without libvirt.
So the lab's commands work while the daemon is down, while the file systems are frozen, and where
the agent that libvirt talks to is missing or does not answer; and they never get in the way of
the calls that a test measures.
"""

from __future__ import annotations

import base64
import json
import select
import socket
import threading
import time
from typing import Any

from .programs import LabError

SOCKET_SLICE = 0.25
# A guest that is there takes a message at once, slowly under emulation.
SEND_TIMEOUT = 20.0


class GuestSilent(LabError):
    """No answer before the deadline."""


class CommandFailed(LabError):
    """A command in the guest ended with an error."""


class ControlChannel:
    """The protocol of the QEMU guest agent on a UNIX socket, one command at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._lock = threading.Lock()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._buffer = b""

    def lost(self) -> bool:
        """Whether the machine behind the channel has gone since the last command."""
        if self._socket is None or not select.select([self._socket], [], [], 0)[0]:
            return False
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def call(self, command: str, timeout: float = 20, **arguments: Any) -> Any:
        """Send one agent command and return its answer; GuestSilent after the deadline."""
        limit = time.monotonic() + timeout
        with self._lock:
            try:
                if self._socket is None:
                    self._connect(limit)
                self._send({"execute": command, "arguments": arguments})
                answer = json.loads(self._line(limit))
            except (OSError, LabError) as error:
                self.close()
                if isinstance(error, LabError):
                    raise
                raise GuestSilent(f"{command}: the guest is not reachable: {error}") from error
        if "error" in answer:
            raise CommandFailed(f"{command}: {answer['error'].get('desc')}")
        return answer.get("return")

    def _connect(self, limit: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SEND_TIMEOUT)
        self._socket.connect(self._path)
        self._synchronise(limit)

    def _synchronise(self, limit: float) -> None:
        """Throw away what the other side still has to say to somebody before us."""
        if self._socket is None:
            raise LabError("not connected")
        number = time.monotonic_ns() % 2**31
        self._socket.sendall(b"\xff")
        self._send({"execute": "guest-sync-delimited", "arguments": {"id": number}})
        while True:
            line = self._line(limit)
            # Answers to somebody before us have no such mark.
            answer = line.partition(b"\xff")[2]
            if answer and json.loads(answer).get("return") == number:
                return

    def _send(self, message: dict[str, Any]) -> None:
        if self._socket is None:
            raise LabError("not connected")
        self._socket.settimeout(SEND_TIMEOUT)
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _line(self, limit: float) -> bytes:
        if self._socket is None:
            raise LabError("not connected")
        self._socket.settimeout(SOCKET_SLICE)
        while b"\n" not in self._buffer:
            if time.monotonic() > limit:
                raise GuestSilent("the guest did not answer in time")
            try:
                data = self._socket.recv(1 << 20)
            except TimeoutError:
                continue
            if not data:
                raise GuestSilent("the guest has closed the connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def start(self, words: list[str], data: bytes = b"", *, capture: bool = True) -> int:
        """Start a program in the guest and return its process id there."""
        arguments: dict[str, Any] = {"path": words[0], "arg": words[1:], "capture-output": capture}
        if data:
            arguments["input-data"] = base64.b64encode(data).decode()
        return int(self.call("guest-exec", **arguments)["pid"])

    def poll(self, pid: int) -> dict[str, Any] | None:
        """Result of a program that was started, or None while it runs."""
        status = self.call("guest-exec-status", pid=pid)
        return status if status["exited"] else None

    def sync(self, timeout: float = 20) -> None:
        """Skip what is left of an earlier conversation, as after a revert of the memory."""
        limit = time.monotonic() + timeout
        with self._lock:
            if self._socket is None:
                return
            try:
                self._synchronise(limit)
            except (OSError, LabError):
                self.close()

    def run(self, words: list[str], data: bytes = b"", *, timeout: float = 20) -> bytes:
        """Run a program in the guest to its end and return its standard output."""
        limit = time.monotonic() + timeout
        self.sync(timeout)
        pid = self.start(words, data)
        pause = 0.005
        while (status := self.poll(pid)) is None:
            if time.monotonic() > limit:
                raise GuestSilent(f"{' '.join(words)} still runs in the guest after {timeout} s")
            time.sleep(pause)
            pause = min(0.1, pause * 1.5)
        if status.get("exitcode", -1) != 0:
            errors = base64.b64decode(status.get("err-data", "")).decode(errors="replace")
            code = status.get("exitcode", f"signal {status.get('signal')}")
            raise CommandFailed(f"{' '.join(words)} ended with {code} in the guest: {errors}")
        return base64.b64decode(status.get("out-data", ""))
