# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a VM keeps beside disks and memory, which no snapshot of disks brings back.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.firmware import LASTING, NVRAM_STATE, SECRET, TPM_STATE
from .._model.state import VmState


def stays(vm: VmState, name: str) -> tuple[str, ...]:
    """A note that snapshot ``name``, of disks alone, brings nothing of it back."""
    live = vm.live
    kinds = {kind for kind, _what in live.unkept if kind != SECRET}
    kinds.update([NVRAM_STATE] if live.nvram or live.nvram_unnamed else [])
    kinds.update([TPM_STATE] if live.tpm else [])
    if not kinds:
        return ()
    words = {
        LASTING: "its memory that lasts",
        NVRAM_STATE: "its NVRAM",
        TPM_STATE: "the state of its TPM",
    }
    what = " and ".join(words[kind] for kind in sorted(kinds))
    return (f"{vm.name}: {what} is not in snapshot {name}, and stays as it is now",)
