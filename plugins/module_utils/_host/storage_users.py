# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images the storage snapshots of VMs stand on.

The copy of an overlay needs what is below it as it was, wherever the copy itself stands: in a
subvolume or a volume nobody finds it by looking at the files beside the image.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from typing import NamedTuple

from .._model.image import Identity
from .._model.problem import NotFound, Problem
from .connection import call
from .image_users import path_identity
from .observe import Host
from .storage_record import read_record, recorded_vms


class StorageUse(NamedTuple):
    """``copy``, a file of storage snapshot ``name`` of a VM, needs the image of that identity."""

    image: Identity
    name: str
    vm: str
    copy: str


def storage_uses(host: Host, wanted: Container[Identity]) -> Iterator[StorageUse]:
    """Those that stand on the wanted images.

    Nobody can go back to the snapshots of a VM that is gone. What is wrong with a record is told
    to those who work on it.
    """
    for uuid in recorded_vms(host.state_dir):
        with contextlib.suppress(Problem):
            yield from (use for use in _of_vm(host, uuid) if use.image in wanted)


def _of_vm(host: Host, uuid: str) -> Iterator[StorageUse]:
    record = read_record(host.state_dir, uuid)
    try:
        dom = call(f"looking up the VM {uuid}", host.conn.lookupByUUIDString, uuid)
    except NotFound:
        return
    for snapshot in record.snapshots:
        for copy in snapshot.copies:
            for path, _stamp in copy.below:
                with contextlib.suppress(FileNotFoundError):
                    yield StorageUse(path_identity(path), snapshot.name, dom.name(), copy.file)
