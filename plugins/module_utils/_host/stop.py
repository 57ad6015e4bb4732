# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cutting the power of a VM.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._model.problem import Problem
from .connection import call, call_within

if TYPE_CHECKING:
    from .libvirt_dep import Domain


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
