# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMs that QEMU has paused because a write of the guest failed, and those that a backup did it to.

When such a VM goes on, QEMU does the write again: the guest sees nothing but the time.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from .._model.state import VmState
from .connection import call
from .libvirt_dep import libvirt

if TYPE_CHECKING:
    from .libvirt_dep import Domain

_STEADY_SECONDS, _POLL_SECONDS = 1.0, 0.05
_LEAST = 1 << 20


def stopped(dom: Domain) -> bool:
    """Whether an I/O error has paused it."""
    state, reason = call(f"VM {dom.name()}: looking at it", dom.state)
    wanted = libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR
    return (state, reason) == wanted


def has_room(vm: VmState, but: str = "") -> bool:
    """Whether its own images can grow; not looked at on the file system that ``but`` is on."""
    folders = {os.path.dirname(d.chain[0].filename) for d in vm.writable if d.chain}
    spared = os.stat(but).st_dev if but else None
    for folder in folders:
        space = os.statvfs(folder)
        if os.stat(folder).st_dev != spared and space.f_bavail * space.f_frsize < _LEAST:
            return False
    return True


def relieve(dom: Domain, vm: VmState) -> str:
    """Let it go on where it is stopped, now that our backup gave room back; what to tell, or ''."""
    if not stopped(dom):
        return ""
    if not has_room(vm):
        return "it stays paused by an I/O error, since its own images have no room"
    return let_go_on(dom, vm)


def let_go_on(dom: Domain, vm: VmState) -> str:
    """Let it go on, now that our backup is gone which had stopped it; what there is to tell.

    If its own disks are the cause it stops again at once, and stays so.
    """
    doing = f"VM {vm.name}: letting it go on"
    call(doing, dom.resume)
    deadline = time.monotonic() + _STEADY_SECONDS
    while time.monotonic() < deadline:
        if stopped(dom):
            return "it is paused by an I/O error of a disk of its own"
        time.sleep(_POLL_SECONDS)
    return "it was paused by an I/O error, since the backup had no room, and goes on"
