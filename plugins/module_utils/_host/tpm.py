# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the state of an emulated TPM is: what a guest has sealed with it is lost without it.

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
# What swtpm keeps: always, while it runs, and over a suspension.
_STATE = re.compile(r"\.(permall|volatilestate|state)\Z")


def tpm_home(host: Host, uuid: str) -> str:
    """libvirt's place for a VM: of the system, or of the user whose session it is."""
    uri = call("asking for the URI of libvirt", host.conn.getURI)
    if urlsplit(uri).path != "/session":
        return os.path.join(_SYSTEM, uuid)
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(config, "libvirt/qemu/swtpm", uuid)


def tpm_place(host: Host, vm: VmState) -> str:
    """Where the state of its emulated TPM is to be, '' without such a device."""
    folder = vm.live.tpm
    return os.path.join(tpm_home(host, vm.uuid), folder) if folder else ""


def tpm_files(place: str) -> tuple[str, ...]:
    """The files with the state that are there, none where there is no such folder."""
    names: list[str] = []
    if place:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names = sorted(os.listdir(place))
    return tuple(os.path.join(place, name) for name in names if _STATE.search(name))
