# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes on beside a program that copies: holding files against their manifests, writing out.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence

from .._model.backup import StoredFile
from .._model.problem import Denied, TimedOut
from .digest import trouble_with

_MOST_WORKERS = 4
_SYNC_SECONDS = 0.05


@contextlib.contextmanager
def written_out(descriptor: int) -> Iterator[None]:
    """Have a file written to disk while a program fills it, and all of it when that is done.

    So the disk does not wait for the program, nor the other way round. Raises OSError for what
    could not be written, which the kernel tells only once.
    """
    ended = threading.Event()
    failures: list[OSError] = []

    def write_out() -> None:
        try:
            while not ended.wait(_SYNC_SECONDS):
                os.fdatasync(descriptor)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=write_out, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]
    os.fsync(descriptor)


@contextlib.contextmanager
def all_written_out(paths: Sequence[str]) -> Iterator[None]:
    """The same for files that are there already, by path."""
    with contextlib.ExitStack() as opened:
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            opened.enter_context(written_out(descriptor))
        yield


class Verification:
    """Reads files in threads of its own, from when it is made until it is closed.

    What the threads are at when the run ends goes with it. ``troubles`` says what is wrong
    with a file.
    """

    def __init__(self, files: Sequence[tuple[str, StoredFile]]) -> None:
        self._todo: queue.SimpleQueue[tuple[str, StoredFile]] = queue.SimpleQueue()
        self.troubles: dict[str, str] = {}
        self._denied: Denied | None = None
        self._stopped = False
        for entry in files:
            self._todo.put(entry)
        # Each keeps two processors busy: one reads ahead.
        workers = min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) // 2), len(files))
        self._threads = [threading.Thread(target=self._work, daemon=True) for _n in range(workers)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while not self._stopped:
            try:
                path, file = self._todo.get_nowait()
            except queue.Empty:
                return
            try:
                trouble = trouble_with(path, file)
            except Denied as problem:
                self._denied, self._stopped = problem, True
                return
            except OSError as error:
                trouble = f"{path} cannot be read: {error.strerror}"
            if trouble:
                self.troubles[path] = trouble
                self._stopped = True

    def trouble(self, deadline: float) -> str:
        """What is wrong with one of the files, '' once all are known to be right.

        ``deadline`` is of time.monotonic(); TimedOut then. Denied where one may not be read.
        """
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self.troubles:
            return next(iter(self.troubles.values()))
        if self._denied:
            raise self._denied
        if any(thread.is_alive() for thread in self._threads):
            raise TimedOut(
                "the files of the restore point were not read in time",
                wanted="to hold every byte against the manifests",
                todo="raise 'timeout'; nothing was changed",
            )
        return ""

    def close(self) -> None:
        """Begin with no further file."""
        self._stopped = True
