# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether all that a VM keeps beside its disks, NVRAM and the state of its TPM, will be kept.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from .._model.backups import Backups
from .._model.firmware import NEVER_KEPT, NVRAM_STATE, TPM_STATE
from .._model.problem import NotFound, Unsupported
from .._model.state import VmState

_WHY = "since a guest can lose what it has encrypted without it"


def state_notes(vm: VmState, known: Backups, without: Collection[str]) -> Iterator[str]:
    """Notes of what is left out, as asked, or is not there yet. Problem for what would be lost.

    A VM that runs has it; one that was never started has none.
    """
    for kind, what in vm.live.unkept:
        if kind in NEVER_KEPT:
            yield f"{vm.name}: {what}, which is not kept: keep it elsewhere"
            continue
        if kind not in without:
            raise Unsupported(
                f"VM {vm.name} has {what}",
                wanted=f"to keep it with the restore point, {_WHY}",
                todo="let the VM use a file (nvram) or a directory (tpm) of this host, or leave it"
                f" out knowingly ('without: [{kind}]')",
            )
        yield f"{vm.name}: {what} is left out, as asked"
    if known.tpm_place and not known.tpm:
        what = f"the state of the TPM of VM {vm.name} is not in {known.tpm_place}"
        yield _missing(vm, TPM_STATE, what, without)
    if known.nvram_place and not known.nvram:
        what = f"the NVRAM of VM {vm.name} is not at {known.nvram_place}"
        yield _missing(vm, NVRAM_STATE, what, without)


def _missing(vm: VmState, kind: str, what: str, without: Collection[str]) -> str:
    if not vm.off and kind not in without:
        raise NotFound(
            what,
            wanted=f"to keep it, {_WHY}",
            todo="run the task as the user of libvirt's daemon, with its XDG_CONFIG_HOME; or leave"
            f" it out knowingly ('without: [{kind}]')",
        )
    return f"{what}, so nothing of it is kept; a VM that was never started has none"
