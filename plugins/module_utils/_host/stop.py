# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cutting the power of a VM.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from .._model.problem import Problem, TimedOut
from .connection import call, call_within
from .monitor import ask_qemu

if TYPE_CHECKING:
    from .libvirt_dep import Domain

# So long QEMU may take to end by itself.
_QUIT_SECONDS = 10.0
_POLL_SECONDS = 0.02


def stop_for_another_start(dom: Domain, name: str, seconds: float) -> None:
    """Let a VM be off that is then started anew; a QEMU that does not end by itself as in `stop`.

    On a busy host libvirt 9.0 hears late of the end of a QEMU that it has ended itself, and takes
    that for the end of the one that was started in its place. So 4 of 120 VMs went off within
    seconds of having gone back, and with 0.1 s between stop and start 5 of 180.
    """
    patience = min(seconds, _QUIT_SECONDS)
    deadline = time.monotonic() + patience
    with contextlib.suppress(TimedOut):
        call_within(patience, f"VM {name}: ending its QEMU", ask_qemu, dom, "quit")
    while call(f"reading VM {name}", dom.isActive) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    stop(dom, name, seconds)


def stop(dom: Domain, name: str, seconds: float) -> None:
    """Let a VM be off; TimedOut after ``seconds``. Its guest may switch it off meanwhile."""
    reading = f"reading VM {name}"
    if not call(reading, dom.isActive):
        return
    try:
        call_within(seconds, f"VM {name}: stopping it", dom.destroy)
    except Problem:
        if call(reading, dom.isActive):
            raise
