# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps that switch a VM off or on, or let it go on from somewhere.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.step import ResumeVm, StartVm
from .connection import call, call_within
from .libvirt_dep import libvirt
from .work import Work, do

# virDomainPausedReason: unknown, user, migration, save, snapshot, failed API call. By number,
# since bindings lack the newer names. Not an I/O error, a watchdog or a crash.
_RESUMABLE = (0, 1, 2, 3, 9, 14)


@do.register
def _resume_vm(_step: ResumeVm, work: Work) -> None:
    """Only what such a run could have paused; a VM that hit an I/O error stays paused."""
    state, reason = call(f"reading VM {work.vm.name}", work.dom.state)
    if state == libvirt.VIR_DOMAIN_PAUSED and reason in _RESUMABLE:
        call(f"VM {work.vm.name}: resuming it", work.dom.resume)


@do.register
def _start_vm(step: StartVm, work: Work) -> None:
    flags = libvirt.VIR_DOMAIN_START_PAUSED if step.paused else 0
    doing = f"VM {work.vm.name}: starting it"
    call_within(work.host.timeout, doing, work.dom.createWithFlags, flags)
