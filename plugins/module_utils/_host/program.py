# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running a program that reads images: with limits, a deadline and bounded output.

The limits are set by prlimit, and the program dies with us by setpriv, both of util-linux,
since a preexec_fn is not safe beside threads. A program that outlived a killed run would hold
and change images while the next run finishes or undoes what was begun.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .._model.problem import Problem, TimedOut, Unsupported

MAX_OUTPUT = 4 << 20
_CHUNK = 64 << 10
_NOT_FOUND = 127
_WITH_US = ("setpriv", "--pdeathsig=KILL", "--")


@dataclass(frozen=True)
class Limits:
    """What a program may use: address space in bytes, seconds of CPU (None: any), open files."""

    memory: int = 2 << 30
    cpu_seconds: int | None = None
    files: int = 1024

    def arguments(self) -> list[str]:
        cpu = [] if self.cpu_seconds is None else [f"--cpu={self.cpu_seconds}"]
        return [f"--as={self.memory}", f"--nofile={self.files}", "--core=0", *cpu]


@dataclass(frozen=True)
class Answer:
    """What a program said. ``stderr`` can be more than nothing although ``rc`` is 0."""

    command: str
    rc: int
    stdout: str
    stderr: str

    def problem(self) -> Problem:
        """The error for an exit status that was not expected."""
        ended = f"was killed by signal {-self.rc}" if self.rc < 0 else f"ended with {self.rc}"
        return Problem(f"'{self.command}' {ended}: {self.stderr.strip() or 'it said nothing'}")


def missing(program: str) -> str:
    """What is not installed of a program and what starts it, '' if all is there."""
    needed = (_WITH_US[0], "prlimit", program)
    return ", ".join(name for name in needed if shutil.which(name) is None)


def run(
    command: Sequence[str], *, limits: Limits, timeout: float, keeps: Sequence[int] = ()
) -> Answer:
    """Run ``command`` (program and arguments, no shell) and wait for it.

    Files that it creates are for their owner only. With ``keeps``, descriptors that it holds open,
    it does not die with us. Raises TimedOut after ``timeout`` seconds, Problem if it prints more
    than 4 MiB, Unsupported if it is not there.
    """
    shown = shlex.join(command)
    try:
        process = subprocess.Popen(
            [*(() if keeps else _WITH_US), "prlimit", *limits.arguments(), "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
            umask=0o077,
            pass_fds=tuple(keeps),
            start_new_session=bool(keeps),
        )
    except FileNotFoundError as error:
        raise Unsupported("setpriv is not installed", todo="install util-linux") from error
    with process:
        try:
            stdout, stderr = _output(process, time.monotonic() + timeout, shown)
        except BaseException:
            process.kill()
            raise
    if process.returncode == _NOT_FOUND:
        raise Unsupported(f"{command[0]} cannot be run: {stderr.strip()}", todo="install it")
    return Answer(shown, process.returncode, stdout, stderr)


def _output(process: subprocess.Popen[bytes], deadline: float, shown: str) -> tuple[str, str]:
    """stdout and stderr up to their ends."""
    collected = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            selector.register(stream, selectors.EVENT_READ)  # type: ignore[arg-type]
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(f"'{shown}' did not end in time and was stopped")
            for ready in selector.select(left):
                key = ready[0]
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                collected[key.fileobj] += chunk  # type: ignore[index]
                if len(collected[key.fileobj]) > MAX_OUTPUT:  # type: ignore[index]
                    raise Problem(f"'{shown}' printed more than {MAX_OUTPUT} bytes")
    out, err = (collected[stream].decode("utf-8", "replace") for stream in collected)
    return out, err
