# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling how far a long backup is.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import syslog
import time
from datetime import datetime, timezone
from typing import Any

from .._model.backup import in_utc
from .._model.backup_steps import BackUp
from .._model.problem import Unwritten
from .durable import write_json
from .under_way import PROGRESS

_TOLD_EVERY = 30.0


class Report:
    """Tells how far a long backup is: to who asks for it, and to the log of the system."""

    def __init__(self, vm: str, step: BackUp) -> None:
        self._path = os.path.join(step.directory, step.id, PROGRESS)
        self._vm, self._id = vm, step.id
        self._since = in_utc(datetime.now(timezone.utc))
        self._next = time.monotonic() + _TOLD_EVERY
        self.last = "nothing is written yet"

    def tell(self, found: dict[str, Any]) -> None:
        done, all_ = found.get("disk_processed", 0), found.get("disk_total", 0)
        self.last = f"{done} of {all_} bytes, {all_ - done} remain"
        content = {"id": self._id, "processed": done, "total": all_, "since": self._since}
        with contextlib.suppress(Unwritten):
            write_json(self._path, content, synced=False)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TOLD_EVERY
            syslog.syslog(f"vmkeep.libvirt: backup {self._id} of VM {self._vm}: {self.last}")
