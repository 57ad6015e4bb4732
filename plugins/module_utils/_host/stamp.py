# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling whether anything was written to an image since a moment.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import stat

# Of /sys/dev/block/*/stat: writes done, sectors written, discards done, sectors discarded.
_WRITES = (4, 6, 11, 13)


def stamp(path: str) -> str:
    """A text that is another one after each write, '' where the system does not tell.

    Of a file: which one it is, its size, and when it was last written to. A device has no such
    time; of it: the boot of the system, which device since then, and how much was written to it.
    """
    try:
        facts = os.stat(path)
        if stat.S_ISBLK(facts.st_mode):
            return _of_device(facts.st_rdev)
        return f"file {facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"
    except (OSError, IndexError):
        return ""


def boot_id() -> str:
    """What tells one boot of this host from the next."""
    return _text("/proc/sys/kernel/random/boot_id").strip()


def start_of(number: str) -> str:
    """What tells one start of a VM from the next: libvirt numbers them, anew after a boot."""
    return f"{boot_id()} {number}"


def _of_device(number: int) -> str:
    place = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    counts = _text(f"{place}/stat").split()
    written = " ".join(counts[field] for field in _WRITES)
    return f"device {boot_id()} {_text(f'{place}/diskseq').strip()} {written}"


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
