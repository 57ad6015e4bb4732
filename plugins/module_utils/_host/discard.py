# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a restored VM, and taking it away.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from .._model.discard import REMOVE, STOP, Act, Restored
from .._model.problem import Problem
from .._model.restore import Marker, read_marker
from .connection import call
from .durable import permission
from .facts import image_uses
from .libvirt_dep import libvirt
from .observe import Host, observe
from .removal import remove
from .stop import stop
from .storage_record import read_record

if TYPE_CHECKING:
    from .libvirt_dep import Domain


def look_at(host: Host, dom: Domain) -> Restored:
    """The VM, its marker, and who else needs its images."""
    vm = observe(host, dom)
    marker = _marker(dom) if vm.persistent else None
    files = [path for path in marker.files.values() if os.path.isfile(path)] if marker else []
    uses = [f"{use.image} ({use.user})" for use in image_uses(host, vm, files)]
    stored = tuple(found.name for found in read_record(host.state_dir, vm.uuid).snapshots)
    return Restored(vm, marker, frozenset(files), tuple(uses), stored)


def _marker(dom: Domain) -> Marker | None:
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE
    text = call(f"reading VM {dom.name()}", dom.XMLDesc, flags)
    return read_marker(ET.fromstring(text))  # noqa: S314 - the daemon's own output


def carry_out(host: Host, dom: Domain, act: Act) -> None:
    """Do one act. What is done already is no error."""
    name = dom.name()
    if act.what == STOP:
        stop(dom, name, host.timeout)
    elif act.what == REMOVE:
        _remove(act.file)
    else:
        call(f"VM {name}: removing its definition", dom.undefineFlags, _flags())


def _flags() -> int:
    """All that libvirt keeps of a VM goes with its definition."""
    names = ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "CHECKPOINTS_METADATA", "NVRAM", "TPM")
    flags = 0
    for name in names:
        flags |= getattr(libvirt, f"VIR_DOMAIN_UNDEFINE_{name}", 0)
    return flags


def _remove(path: str) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            remove(path)
    except OSError as error:
        raise Problem(
            f"{path} cannot be removed: {error.strerror}",
            wanted="to remove the image of a VM that is taken away",
            todo=permission() if isinstance(error, PermissionError) else "look at its file system",
        ) from error
