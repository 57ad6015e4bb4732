# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seeing to it that what QEMU has pulled into an image is on the disk.

When a pull ends, QEMU takes the old backing file out of the image at once. But where in the image
it has put what it copied, it still has in its own memory only, until the guest flushes the disk.
If it is killed before, the image has lost all of that. QEMU also writes everything when a VM is
paused, and libvirt has no other call for it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Callable

from .._model.problem import Conflict, Problem
from .._model.step import PullDisk
from .connection import call
from .freeze import Guard, paused
from .libvirt_dep import libvirt

if TYPE_CHECKING:
    from .libvirt_dep import Domain

_SECONDS = 120.0


def flush(dom: Domain, step: PullDisk, note: Callable[[str], None], uri: str) -> None:
    """Pause the VM for a moment; Problem if that cannot be done, so that nothing is sure.

    ``note`` writes into the journal, for a run that finds it paused since the guard was killed too.
    """
    doing = f"VM {dom.name()}, disk {step.target}: having QEMU write what it has pulled"
    # The bulk while the guest still runs, so that the pause is short.
    _sync(step.into)
    if call(doing, dom.state)[0] == libvirt.VIR_DOMAIN_PAUSED:
        raise Conflict(
            f"VM {dom.name()} was paused while {step.target} was pulled into",
            wanted="a VM that runs: only on its way into a pause QEMU writes all that it has",
            todo="resume it (virsh resume), then run the task again",
        )
    guard = Guard(uri)
    try:
        guard.ready()
        note(step.pause_mark)
        with paused(dom, guard, _SECONDS):
            pass
    finally:
        guard.close()
    if call(doing, dom.state)[0] != libvirt.VIR_DOMAIN_RUNNING:
        raise Problem(
            f"VM {dom.name()} does not run any more",
            wanted="that it runs until all that was pulled is on the disk",
            todo="look at QEMU's log of this VM, then run the task again",
        )
    _sync(step.into)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
