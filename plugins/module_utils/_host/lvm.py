# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one adapter for LVM.

A program of LVM that is killed in the middle may leave devices suspended, and with them every VM
that writes to them. So it is never killed with the run: it goes on to its end, and holds a lock
until then, which the next call waits for.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .._model.problem import Conflict, Problem, TimedOut
from .._model.volume import FIELDS, Volume, parse_volumes
from .lock import opened
from .program import Answer, Limits, run
from .state_dir import state_directory

_QUICK = 300.0
_POLL = 1.0
_REPORT = (
    *("lvs", "--all", "--reportformat", "json", "--binary", "--units", "b", "--nosuffix"),
    *("--options", ",".join(FIELDS)),
)


@dataclass(frozen=True)
class Lvm:
    """LVM as a run uses it; ``timeout`` in seconds is for what moves data."""

    state_dir: str
    timeout: float

    def volumes(self) -> tuple[Volume, ...]:
        """All logical volumes; Unsupported where LVM is not installed."""
        return parse_volumes(self._do(*_REPORT).stdout)

    def volume(self, name: str) -> Volume | None:
        return next((volume for volume in self.volumes() if volume.name == name), None)

    def snapshot(
        self,
        origin: str,
        name: str,
        *,
        size: int = 0,
        tags: Sequence[str] = (),
        writable: bool = False,
    ) -> None:
        """Make the volume ``name`` a snapshot of ``origin`` (both VG/LV).

        ``size`` bytes for changes make a thick one, 0 a thin one. A thin one that is not
        ``writable`` is not activated with its group (lvchange -K does).
        """
        extent = ["--size", f"{size}b"] if size else ["--setactivationskip", _yes(not writable)]
        marks = [word for tag in tags for word in ("--addtag", tag)]
        access = ["--permission", "rw" if writable else "r"]
        place = ["--name", name.rpartition("/")[2], "--", origin]
        self._do("lvcreate", "--yes", "--snapshot", *extent, *access, *marks, *place)

    def remove(self, name: str) -> None:
        self._do("lvremove", "--yes", "--", name)

    def rename(self, old: str, new: str) -> None:
        group, _sign, name = old.partition("/")
        self._do("lvrename", "--yes", "--", group, name, new.partition("/")[2])

    def merge(self, name: str, origin: str) -> None:
        """Merge a thick snapshot into its origin, which nobody has open, and see it done.

        A merge that a dead run has begun goes on. TimedOut where it does not end.
        """
        deadline = time.monotonic() + self.timeout
        snapshot = self.volume(name)
        if snapshot and not snapshot.merging:
            self._do("lvconvert", "--yes", "--merge", "--interval", "1", "--", name)
        elif snapshot:
            # One that LVM has put off begins only now; one that goes on is watched again.
            self._do("lvchange", "--refresh", "--", origin)
            self._do("lvchange", "--poll", "y", "--", origin)
        while self.volume(name):
            _check_going_on(self.volume(origin), name, origin)
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"merging {name} into {origin} was not done in time",
                    wanted="an end before the deadline",
                    todo="LVM goes on with it; run the task again with a longer 'timeout'",
                )
            time.sleep(_POLL)

    def _do(self, *words: str) -> Answer:
        with self._alone() as lock:
            answer = run(words, limits=Limits(), timeout=max(_QUICK, self.timeout), keeps=(lock,))
        if answer.rc:
            raise answer.problem()
        return answer

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Hold the lock of those who speak to LVM; TimedOut if another does so for too long."""
        path = os.path.join(state_directory(self.state_dir, "lock"), "lvm")
        descriptor = opened(path, os.O_RDWR | os.O_CREAT, "LVM")
        deadline = time.monotonic() + _QUICK
        try:
            while not _flock(descriptor):
                if time.monotonic() > deadline:
                    raise TimedOut(
                        f"a program of LVM that an earlier run has started holds {path}",
                        wanted="to speak to LVM",
                        todo="see what it waits for (lslocks, dmsetup info)",
                    )
                time.sleep(0.02)
            yield descriptor
        finally:
            os.close(descriptor)


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _yes(wanted: bool) -> str:
    return "y" if wanted else "n"


def _check_going_on(origin: Volume | None, name: str, place: str) -> None:
    if origin is None:
        raise Problem(f"{place} is gone while {name} is merged into it")
    if origin.is_open:
        raise Conflict(
            f"{place} was opened, so that LVM may have put off merging {name} into it",
            wanted="a volume that nobody uses",
            todo="close it and run the task again",
        )
