# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do about those who stand on an image.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .._model.image import Image
from .._model.snapshot import CHECKPOINT, Snapshot
from .._model.state import OFF, VmState
from .._model.storage import stored_name

_IMAGE = "image "


def removal_of(snapshot: Snapshot) -> str:
    """The task that removes a snapshot, in words."""
    what, module = "snapshot", "vm_snapshot"
    if snapshot.kind == CHECKPOINT:
        what, module = "checkpoint", "vm_checkpoint"
    return f"remove {what} {snapshot.name} first ({module} with name {snapshot.name}, state absent)"


def inside_first(vm: VmState, image: Image) -> str:
    """The tasks that delete the internal snapshots of an image, in words."""
    tasks = []
    for name in dict.fromkeys(entry.name for entry in image.snapshots):
        found = vm.snapshot(name)
        if found is not None and found.mode == "internal":
            tasks.append(f"vm_snapshot with name {name}, state absent")
        else:
            tasks.append(f"qcow2_snapshot with path {image.filename}, name {name}, state absent")
    return f"delete {'these snapshots' if tasks[1:] else 'it'} first ({'; '.join(tasks)})"


def is_spoilt(vm: VmState, snapshot: Snapshot, target: str) -> bool:
    """Whether a disk provably ran on what a snapshot goes back to, after that was taken.

    A later snapshot of the VM, not switched off, found it there: so it was committed by hand.
    """
    disk, point = vm.disk(target), snapshot.image_before(target)
    if disk is None or any(disk.depth_of(file) is not None for file in snapshot.made):
        return False
    return ran_on(vm, snapshot, target, point)


def ran_on(vm: VmState, snapshot: Snapshot, target: str, image: str) -> bool:
    """Whether a later snapshot of the VM, not switched off, found a disk on an image.

    Of an internal one of the same second nobody knows whether it is the later one.
    """
    later = vm.snapshots[vm.snapshots.index(snapshot) + 1 :]
    return any(
        found.state != OFF
        and found.image_before(target) == image
        and (found.mode == "external" or found.created > snapshot.created)
        for found in later
    )


def harmed(image: str, users: Sequence[str], vm: VmState) -> list[str]:
    """Those users that an image still has to be kept for when it receives data.

    An overlay that was committed by hand stands there, too, on what has changed already, and so
    does what is there only for snapshots that need the image as it was before somebody wrote to it.
    """
    spoilt = {
        f"{_IMAGE}{file}"
        for snapshot in vm.snapshots
        for target, file in snapshot.overlays.items()
        if snapshot.image_before(target) == image and is_spoilt(vm, snapshot, target)
    }
    return [user for user in users if user not in spoilt and not _of_the_lost(user, image, vm)]


def _of_the_lost(user: str, image: str, vm: VmState) -> bool:
    """Whether what stands on an image is only for snapshots that have lost what that held."""
    file = user[len(_IMAGE) :] if user.startswith(_IMAGE) else ""
    needing = {each.name for each in vm.snapshots if file in _stands_on(vm, each)}
    lost = {seen.snapshot for seen in vm.seen if seen.image == image and seen.written}
    return bool(needing) and needing <= lost


def what_to_do_about(users: Sequence[str], vm: VmState) -> str:
    """The task that gets the first user out of the way, where one of ours can."""
    unrecorded: list[str] = []
    for user in users:
        stored = stored_name(user)
        if stored:
            task = f"vm_storage_snapshot with name {stored}, state absent"
            return f"choose a base above it; or remove {user} first ({task}) if nobody needs it"
        if not user.startswith(_IMAGE):
            continue
        path = user[len(_IMAGE) :]
        for snapshot in reversed(vm.snapshots):
            if path in snapshot.made or path in _stands_on(vm, snapshot):
                return removal_of(snapshot)
        unrecorded.append(path)
    if unrecorded:
        tasks = ", ".join(f"qcow2_overlay with path {path}, state absent" for path in unrecorded)
        return (
            f"choose a base above it; or remove {', '.join(unrecorded)} if nobody needs"
            f" {'them' if unrecorded[1:] else 'it'} ({tasks})"
        )
    return "choose a base above it, or detach the other user first"


def _stands_on(vm: VmState, snapshot: Snapshot) -> Iterator[str]:
    """The images that a snapshot could not be gone back to without."""
    for entry in snapshot.taken:
        point = snapshot.image_before(entry.target)
        yield point
        yield from (image.filename for image in vm.chain_of(point))
