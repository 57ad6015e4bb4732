# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Histories side by side: each process has a lab of its own and asks for the next one."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait

from lab import Lab

from .ledger import Entry
from .play import Outcome, Play, Wanted

_PROCESSES = multiprocessing.get_context("fork")


Script = tuple[int, Wanted]
"""A seed, and the actions that are wanted."""


def played(
    scripts: Iterable[Script], jobs: int, seconds: float = 0
) -> Iterator[tuple[Entry, Outcome]]:
    """Play them, so many at a time; none is begun after the seconds, if there are any."""
    todo, end = iter(scripts), time.monotonic() + seconds
    workers = [_Worker() for _number in range(jobs)]
    try:
        busy = {worker.pipe: worker for worker in workers if _begin(worker, todo, seconds and end)}
        while busy:
            for pipe in wait(list(busy)):
                worker = busy.pop(pipe)
                result = worker.result()
                if _begin(worker, todo, seconds and end):
                    busy[pipe] = worker
                yield result
    finally:
        for worker in workers:
            worker.end()


def _begin(worker: _Worker, todo: Iterator[Script], end: float) -> bool:
    script = None if end and time.monotonic() > end else next(todo, None)
    if script is None:
        return False
    worker.pipe.send(script)
    return True


class _Worker:
    """One process; it ends when it is told so, or when its parent has died."""

    def __init__(self) -> None:
        self.pipe, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_work, args=(theirs, self.pipe))
        self._process.start()
        theirs.close()

    def result(self) -> tuple[Entry, Outcome]:
        found: tuple[Entry, Outcome] = self.pipe.recv()
        return found

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self._process.join()


def _work(pipe: Connection, other: Connection) -> None:
    other.close()
    with Lab(boot_once=True) as lab:
        while True:
            try:
                script = pipe.recv()
            except EOFError:
                return
            if script is None:
                return
            seed, wanted = script
            began = time.monotonic()
            outcome = Play(lab).random(seed, wanted)
            pipe.send((Entry.of(seed, outcome, time.monotonic() - began), outcome))
