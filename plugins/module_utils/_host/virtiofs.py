# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the program behind virtiofs can write out what it knows of a guest.

It says so in its description for libvirt, which holds itself to that; see
https://www.qemu.org/docs/master/interop/vhost-user.html#backend-conventions.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import glob
import json
from dataclasses import replace

from .._model.domain import Definition
from .._model.hardware import VIRTIOFS

_DESCRIPTIONS = ("/etc/qemu/vhost-user/*.json", "/usr/share/qemu/vhost-user/*.json")
_FEATURE = "migrate-precopy"


def without_idle_bars(live: Definition) -> Definition:
    """A definition whose ``bars`` name virtiofs only where its program does not write out."""
    bars = tuple(each for each in live.bars if not each.startswith(VIRTIOFS))
    if bars == live.bars or not _writes_out():
        return live
    return replace(live, bars=bars)


def _writes_out() -> bool:
    paths = [path for pattern in _DESCRIPTIONS for path in sorted(glob.glob(pattern))]
    return any(_FEATURE in _features(path) for path in paths)


def _features(path: str) -> list[object]:
    try:
        with open(path, encoding="utf-8") as file:
            told = json.load(file)
    except (OSError, ValueError, RecursionError):
        return []
    found = told.get("features", []) if isinstance(told, dict) else []
    return found if isinstance(found, list) else []
