# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process in which a VM runs.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import time


def started_at(uuid: str) -> float | None:
    """When the QEMU of a VM was started, since the epoch (proc(5)); None if unknown."""
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
        return next((_begun(pid) for pid in pids if _is_qemu_of(pid, uuid)), None)
    except (OSError, ValueError, IndexError):
        return None


def _is_qemu_of(pid: str, uuid: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return (b"-uuid", uuid.encode()) in zip(words, words[1:])


def _begun(pid: str) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime", encoding="ascii") as file:
        up = float(file.read().split()[0])
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
