# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules of the collection, run as Ansible runs them: in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .cache import REPOSITORY
from .programs import LabError

COLLECTIONS = REPOSITORY / ".cache" / "collections"
LINGER = 5
RUNNER = Path(__file__).with_name("module_runner.py")


class ModuleCrashed(LabError):
    """The module printed no result: killed, or an error outside of its own handling."""


class _Collector(threading.Thread):
    """Reads a pipe to its end, so that the module never waits for us."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self.data = b""
        self._pipe = pipe
        self.start()

    def run(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), 1 << 16):
                self.data += chunk


class ModuleRun:
    """A module at work; may be killed at any time."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], arguments: bytes) -> None:
        self.name = name
        self.process = process
        self.pid = process.pid
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise LabError("start_module makes the pipes")
        self._out = _Collector(process.stdout)
        self._err = _Collector(process.stderr)
        with process.stdin:
            process.stdin.write(arguments)

    def __enter__(self) -> ModuleRun:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        return self.process.poll()

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def wait(self, timeout: float = 120) -> int:
        """Wait for the end and return the exit status; kill it after the deadline."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LabError(f"{self.name} was still running after {timeout} s") from None

    def result(self, timeout: float = 120) -> dict[str, Any]:
        """What the module answered, `failed` always there; ModuleCrashed when it did not.

        Like Ansible this waits for the end of the output, so a process that the module leaves
        behind (a guard) must have closed it: LabError when it has not.
        """
        status = self.wait(timeout)
        for collector in (self._out, self._err):
            collector.join(LINGER)
            if collector.is_alive():
                raise LabError(f"{self.name} has ended, and something holds its output open")
        answer = last_object(self._out.data.decode(errors="replace"))
        if answer is None:
            raise ModuleCrashed(f"{self.name} ended with {status}, no result.\n{self.stderr()}")
        answer.setdefault("failed", False)
        return answer

    def stderr(self) -> str:
        """What the module wrote to standard error; complete after `result`."""
        return self._err.data.decode(errors="replace")


def start_module(
    name: str,
    params: dict[str, Any],
    *,
    check: bool = False,
    diff: bool = True,
    env: dict[str, str] | None = None,
    collections: Path = COLLECTIONS,
    runner: Path = RUNNER,
) -> ModuleRun:
    """Start `plugins/modules/NAME.py` of this collection; `env` adds to the environment.

    `runner` may be a program that does what `module_runner.py` does and something besides.
    """
    link_collection()
    arguments = json.dumps(task(name, params, check=check, diff=diff)).encode()
    process = subprocess.Popen(
        [sys.executable, str(runner), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(collections), **(env or {})},
    )
    return ModuleRun(name, process, arguments)


def task(
    name: str, params: dict[str, Any], *, check: bool = False, diff: bool = True
) -> dict[str, Any]:
    """What Ansible sends to a module."""
    internal = {
        "_ansible_check_mode": check,
        "_ansible_diff": diff,
        "_ansible_module_name": f"vmkeep.libvirt.{name}",
    }
    return {"ANSIBLE_MODULE_ARGS": {**params, **internal}}


def run_module(
    name: str,
    params: dict[str, Any],
    *,
    check: bool = False,
    diff: bool = True,
    env: dict[str, str] | None = None,
    timeout: float = 120,
    collections: Path = COLLECTIONS,
) -> dict[str, Any]:
    """Run a module to its end and return its result: `changed`, `failed`, `msg`, ..."""
    run = start_module(name, params, check=check, diff=diff, env=env, collections=collections)
    return run.result(timeout)


def link_collection() -> None:
    """Make this checkout importable as ansible_collections.vmkeep.libvirt."""
    link = COLLECTIONS / "ansible_collections" / "vmkeep" / "libvirt"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("../../../..")


def last_object(output: str) -> dict[str, Any] | None:
    """The JSON object in the last line of the output that holds one."""
    for line in reversed(output.splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict):
            return answer
    return None
