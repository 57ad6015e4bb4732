# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where libvirt's record, the definition and the images do not say the same.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from .._model.state import DiskState, VmState
from .own import own_disk


def disagreements(vm: VmState) -> list[dict[str, str]]:
    """``{kind, disk, file, snapshot, message}`` for each, '' where a key does not apply.

    Kinds: overlay_without_snapshot, snapshot_without_overlay, missing_file,
    definition_differs, unreadable_chain, snapshot_dropped.
    """
    found = [*_about_snapshots(vm), *_about_dropped(vm)]
    for disk in vm.writable:
        found.extend(_about_disk(vm, disk))
    return found


def _entry(
    kind: str, message: str, *, disk: str = "", file: str = "", snapshot: str = ""
) -> dict[str, str]:
    return {"kind": kind, "disk": disk, "file": file, "snapshot": snapshot, "message": message}


def _about_snapshots(vm: VmState) -> Iterator[dict[str, str]]:
    """Files that snapshots name: gone, or no longer in the chain that they should be part of."""
    lineage = _lineage(vm)
    for snapshot in vm.snapshots:
        files = {
            **snapshot.overlays,
            **({"": snapshot.memory_file} if snapshot.memory_file else {}),
        }
        for target, file in files.items():
            disk = vm.disk(target) if target else None
            # The overlay of a snapshot beside the present state is gone with what was given up.
            if file in vm.missing and (snapshot.name in lineage or not target):
                message = f"snapshot {snapshot.name} names {file}, which does not exist"
                kind = "missing_file"
            elif disk and disk.chain and disk.depth_of(file) is None and snapshot.name in lineage:
                message = (
                    f"overlay {file} of snapshot {snapshot.name} is not in the chain of {target}"
                )
                kind = "snapshot_without_overlay"
            else:
                continue
            yield _entry(kind, message, disk=target, file=file, snapshot=snapshot.name)
        for target, point in snapshot.points.items():
            if point in vm.missing:
                message = f"snapshot {snapshot.name} goes back to {point}, which does not exist"
                yield _entry(
                    "missing_file", message, disk=target, file=point, snapshot=snapshot.name
                )


def _about_dropped(vm: VmState) -> Iterator[dict[str, str]]:
    for snapshot in vm.dropped:
        message = (
            f"libvirt dropped snapshot {snapshot.name} when the VM stopped, since it is transient;"
            " the next task that changes the VM defines it again, if its images are still whole"
        )
        yield _entry("snapshot_dropped", message, snapshot=snapshot.name)


def _lineage(vm: VmState) -> set[str]:
    """The current snapshot and those that it descends from."""
    name = next((snapshot.name for snapshot in vm.snapshots if snapshot.current), "")
    names: set[str] = set()
    while name and name not in names:
        names.add(name)
        snapshot = vm.snapshot(name)
        name = snapshot.parent if snapshot else ""
    return names


def _about_disk(vm: VmState, disk: DiskState) -> Iterator[dict[str, str]]:
    if not disk.chain:
        message = f"the chain of {disk.target} cannot be read: {disk.trouble}"
        yield _entry("unreadable_chain", message, disk=disk.target, file=disk.disk.path)
        return
    if vm.persistent and disk.persistent not in ("", disk.disk.path):
        message = (
            f"{disk.target} runs on {disk.disk.path}, but the persistent definition names"
            f" {disk.persistent}"
        )
        yield _entry("definition_differs", message, disk=disk.target, file=disk.persistent)
    recorded = {disk.depth_of(found.overlays.get(disk.target, "")) for found in vm.snapshots}
    own = own_disk(vm, disk)
    pairs = zip(disk.files, disk.files[1:])
    for depth, (image, below) in enumerate(islice(pairs, own.lowest)):
        if depth not in recorded:
            message = f"{image} stands on {below} ({disk.target}), but no snapshot records it"
            yield _entry("overlay_without_snapshot", message, disk=disk.target, file=image)
