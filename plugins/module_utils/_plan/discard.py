# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a VM may be taken away, and what goes with it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from .._model.discard import REMOVE, STOP, UNDEFINE, Act, Restored
from .._model.names import file_part
from .._model.problem import Busy, Conflict
from .._model.restore import clone_uuid


def plan_discard(found: Restored, *, force: bool) -> tuple[Act, ...]:
    """The acts in their order: images go before the definition that names them.

    Conflict where the VM is not what was restored, Busy where it runs and must not be stopped.
    """
    why = next(_against(found), "")
    if why:
        raise Conflict(
            f"VM {found.vm.name} {why}",
            wanted="a VM as vm_restore has made it under another name ('as')",
            todo="remove it by hand if it is not needed (virsh undefine)",
        )
    if not found.vm.off and not force:
        raise Busy(
            f"VM {found.vm.name} is {found.vm.status}",
            wanted="a VM that is off",
            todo="shut it down, or set 'force'",
        )
    files = tuple(Act(REMOVE, path) for path in _files(found) if path in found.there)
    return (*(() if found.vm.off else (Act(STOP),)), *files, Act(UNDEFINE))


def _files(found: Restored) -> tuple[str, ...]:
    return tuple(file for _target, file, _stamp in found.marker.disks) if found.marker else ()


def _against(found: Restored) -> Iterator[str]:
    """Why it is not a VM that may go."""
    vm, marker = found.vm, found.marker
    if marker is None or marker.vm == vm.uuid or marker.replaced:
        yield "was not restored under another name"
        return
    if vm.uuid != clone_uuid(marker.repository, vm.name):
        yield "does not have the name any more under which it was restored"
    if not vm.persistent:
        yield "is transient"
    if vm.snapshots:
        yield f"has snapshots: {', '.join(snapshot.name for snapshot in vm.snapshots)}"
    if found.stored:
        names = ", ".join(found.stored)
        yield f"has storage snapshots: {names} (vm_storage_snapshot with state absent removes them)"
    for target, file in marker.files.items():
        if not posixpath.basename(file).startswith(f"{file_part(vm.name)}-{target}."):
            yield f"has an image that was not made for it: {file}"
        disk = vm.disk(target)
        if disk is not None and disk.disk.path != file:
            yield f"has another image of {target} than was restored: {disk.disk.path}"
    for use in found.uses:
        yield f"has an image that something else needs: {use}"
