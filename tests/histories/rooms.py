# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small file systems: of the state directory, and for what is to find no room."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .hands import Hands
from .tasks import FILLER, Tasks

STATE = 4 << 20  # bytes for the state directory


class Rooms(Tasks, Hands):
    """Of one lab; each is a tmpfs."""

    def mount_state(self) -> None:
        self._mount(self.state_dir, STATE)

    def unmount_state(self) -> None:
        """Who guards a freeze that is over may have it open for a moment."""
        subprocess.run(["umount", "-l", str(self.state_dir)], check=True)

    @contextlib.contextmanager
    def little_state(
        self, *, free: int | None = None, written: int = 0
    ) -> Iterator[Callable[..., dict[str, Any]]]:
        """What runs tasks while the file system of the state directory is full.

        It has so many KiB `free`, or becomes full when so many records were `written`.
        """
        if free is not None:
            fill(self.state_dir, free << 10)
        place = {"place": str(self.state_dir), "after": written, "no_room": False}
        env = {} if free is not None else {"VMKEEP_FULL": json.dumps(place)}

        def run(module: str, **given: Any) -> dict[str, Any]:
            return self.attempt(module, **given) if not env else self.filling(module, env, **given)

        try:
            yield run
        finally:
            (self.state_dir / FILLER).unlink(missing_ok=True)

    @contextlib.contextmanager
    def small(self, size: int) -> Iterator[Path]:
        """A directory on a file system with so many bytes."""
        place = self.lab.directory / "small"
        self._mount(place, size)
        try:
            yield place
        finally:
            self.settled()
            subprocess.run(["umount", str(place)], check=True)

    def _mount(self, place: Path, size: int) -> None:
        place.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(place)]
        subprocess.run(mount, check=True)


def fill(place: Path, free: int) -> None:
    """Leave so many bytes of a file system free, or what is left if that is less."""
    with (place / FILLER).open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while (left := _free(place) - free) > 0:
            file.write(bytes(min(left, 1 << 20)))


def _free(place: Path) -> int:
    space = os.statvfs(place)
    return space.f_bavail * space.f_frsize
