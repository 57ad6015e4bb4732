# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who owns a lab directory, and what may be taken down.

A lab is a directory `/tmp/vmk-XXXXXX` with a file `lock`. Its owner holds a flock on that file as
long as it lives, so a lab whose lock can be taken has lost its owner. `kept` in it says that the
lab was left up on purpose.

A process belongs to a lab when it runs one of a few programs and names a path in the lab's
directory on its command line. Nothing else is ever signalled.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from .programs import LabError

PREFIX = "vmk-"
# The directory is part of socket paths, which may have 107 bytes: keep it short.
BASE = Path(os.environ.get("VMKEEP_LAB_BASE", "/tmp"))
PROGRAMS = ("libvirtd", "virtlogd", "virtlockd", "qemu-", "nbdkit")
KILLED_WITHIN = 10
NAME = re.compile(re.escape(PREFIX) + "[a-z0-9_]{8}")


class Ownership:
    """A lab directory, locked by this process: a new one, or one that was left up."""

    def __init__(self, base: Path = BASE, *, kept: Path | None = None) -> None:
        sweep(base)
        self._lock: int | None
        if kept is None:
            self.directory, self._lock = _new_lab(base)
        else:
            self.directory, self._lock = kept, _lock(kept)
        (self.directory / "owner").write_text(f"{os.getpid()}\n")

    def keep(self) -> None:
        """Leave the lab up when this process ends; `down` takes it away."""
        (self.directory / "kept").touch()
        self.unlock()

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def release(self) -> None:
        """End every process of the lab and remove the directory."""
        if self._lock is not None:
            take_down(self.directory)
        self.unlock()


def _new_lab(base: Path) -> tuple[Path, int]:
    """A directory that is locked before it has the name by which others find it."""
    draft = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base))
    lock = _lock(draft, os.O_CREAT)
    return draft.rename(base / draft.name.lstrip(".")), lock


def _lock(lab: Path, flags: int = 0) -> int:
    handle = os.open(lab / "lock", os.O_RDWR | flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise LabError(f"{lab} is in use by process {owner(lab)}") from None
    return handle


def owner(lab: Path) -> str:
    """Process id of the lab's owner, for people; the lock is what counts."""
    try:
        return (lab / "owner").read_text().strip()
    except OSError:
        return "unknown"


def labs(base: Path = BASE) -> list[Path]:
    """Directories of labs that belong to this user, dead or alive."""
    return [path for path in sorted(base.glob(f"{PREFIX}*")) if _is_lab(path)]


def _is_lab(path: Path) -> bool:
    """Made by a lab of this user: the name, a lock, nobody else's directory or symlink."""
    try:
        state = path.lstat()
        ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()
        return ours and bool(NAME.fullmatch(path.name)) and (path / "lock").is_file()
    except OSError:
        return False


@contextlib.contextmanager
def lock_of_dead(lab: Path) -> Iterator[bool]:
    """Hold the lab's lock while the block runs; False when its owner lives."""
    handle = os.open(lab / "lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def sweep(base: Path = BASE, *, kept: bool | Collection[Path] = False) -> list[Path]:
    """Take down every lab whose owner is dead.

    Labs kept on purpose only when asked: all of them (True) or those given.
    """
    swept = []
    for lab in labs(base):
        with contextlib.suppress(FileNotFoundError), lock_of_dead(lab) as dead:
            asked = kept if isinstance(kept, bool) else lab in kept
            if dead and (asked or not _kept_alive(lab)):
                take_down(lab)
                swept.append(lab)
    return swept


def _kept_alive(lab: Path) -> bool:
    return (lab / "kept").exists() and bool(processes(lab))


def processes(lab: Path) -> dict[int, str]:
    """Process id to program name of what runs for this lab."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (program := _program_of(entry, lab)):
            found[int(entry.name)] = program
    return found


def _program_of(entry: Path, lab: Path) -> str | None:
    try:
        words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    name = os.path.basename(words[0])
    mine = name.startswith(PROGRAMS) and any(f"{lab}/" in word for word in words[1:])
    return name if mine else None


def take_down(lab: Path) -> None:
    """End the lab's processes, daemons first so that they start nothing new; remove the rest."""
    for wanted in (True, False):
        end([pid for pid, name in processes(lab).items() if name.startswith("qemu-") != wanted])
    for mount in _mounts_below(lab):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    if left := _mounts_below(lab):
        # What is mounted there may not be ours to delete.
        raise LabError(f"{lab} stays: cannot unmount {', '.join(left)}")
    shutil.rmtree(lab, ignore_errors=True)


def end(pids: list[int], patience: float = 3) -> None:
    """Terminate processes, kill those that stay, and return when all are gone.

    Without patience they are killed at once, and get no chance to end in good order.
    """
    handles = [handle for pid in pids if (handle := _handle(pid)) is not None]
    try:
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, KILLED_WITHIN)):
            if not wait:
                continue
            for handle in handles:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            limit = time.monotonic() + wait
            while not all(_ended(handle) for handle in handles) and time.monotonic() < limit:
                time.sleep(0.01)
    finally:
        for handle in handles:
            os.close(handle)


def _handle(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _ended(handle: int) -> bool:
    """Whether the process has ended (a zombie that its parent has not collected counts)."""
    return bool(select.select([handle], [], [], 0)[0])


def _mounts_below(lab: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return sorted((point for point in points if point.startswith(f"{lab}/")), reverse=True)
