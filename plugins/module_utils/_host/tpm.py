# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where NVRAM and the state of an emulated TPM are: what a guest has sealed is lost without them.

libvirt tells of no place, so this follows where its swtpm driver puts it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .._model.state import VmState
from .connection import call

if TYPE_CHECKING:
    from .observe import Host

_SYSTEM = "/var/lib/libvirt/swtpm"
_SYSTEM_NVRAM = "/var/lib/libvirt/qemu/nvram"
# What swtpm keeps: always, while it runs, and over a suspension.
_STATE = re.compile(r"\.(permall|volatilestate|state)\Z")


def tpm_home(host: Host, uuid: str) -> str:
    """libvirt's place for a VM: of the system, or of the user whose session it is."""
    uri = call("asking for the URI of libvirt", host.conn.getURI)
    if urlsplit(uri).path != "/session":
        return os.path.join(_SYSTEM, uuid)
    return os.path.join(_of_session("swtpm"), uuid)


def _of_session(kind: str) -> str:
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(config, "libvirt/qemu", kind)


def tpm_place(host: Host, vm: VmState) -> str:
    """Where the state of its emulated TPM is to be, '' without such a device."""
    folder = vm.live.tpm
    return os.path.join(tpm_home(host, vm.uuid), folder) if folder else ""


def nvram_place(host: Host, vm: VmState) -> str:
    """Where the variables of its firmware are to be, '' without such a file.

    Where the definition does not say, this is where libvirt puts it when the VM starts.
    """
    if vm.live.nvram or not vm.live.nvram_unnamed:
        return vm.live.nvram
    uri = call("asking for the URI of libvirt", host.conn.getURI)
    home = _SYSTEM_NVRAM if urlsplit(uri).path != "/session" else _of_session("nvram")
    return os.path.join(home, f"{vm.name}_VARS.fd")


def tpm_files(place: str) -> tuple[str, ...]:
    """The files with the state that are there, none where there is no such folder."""
    names: list[str] = []
    if place:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names = sorted(os.listdir(place))
    return tuple(os.path.join(place, name) for name in names if _STATE.search(name))
