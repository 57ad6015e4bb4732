# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps bring a VM back to a snapshot.

An internal snapshot is brought back by libvirt. For an external one the VM gets new overlays on
the images that the snapshot froze, on every version of libvirt: each step of that can be seen,
and finished or undone by another run, and the snapshot stays as it is.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .._model.problem import Conflict, NotFound, Unsupported
from .._model.reference import shown
from .._model.snapshot import Snapshot
from .._model.state import OFF, DiskState, VmState
from .._model.step import (
    CreateOverlay,
    DefineAsOf,
    Plan,
    RemoveFile,
    RestoreMemory,
    ResumeVm,
    RevertInternal,
    RewriteSnapshot,
    StartVm,
    Step,
    StopVm,
)
from .._model.tree import descendants
from .damage import damages
from .encrypted import check_kept, check_outside, check_point
from .kind import check_kind
from .loose import points_of
from .predict import predict
from .revert_checks import check_attached, check_vm, check_whole, image_that_holds
from .revert_disks import differs, exchanged, is_same, rebuilt
from .snapshot import SnapshotWish, plan_present
from .snapshot_files import free_name, next_name
from .stays import stays

GIVEN_UP = "given up by going back"


@dataclass(frozen=True)
class RevertWish:
    """A snapshot of a kind that the VM is to go on from.

    ``keep`` is the snapshot that keeps the present state, None to give it up; ``run_after`` is
    unchanged, running, paused or shutoff; ``directory`` is for new overlays, '' for beside the
    ones before. ``group``: no VM runs before all of a group are where they shall be.
    """

    name: str
    keep: SnapshotWish | None = None
    run_after: str = "unchanged"
    directory: str = ""
    group: bool = False
    kind: str = ""


def plan_reverted(wish: RevertWish, vm: VmState) -> Plan:
    """The steps; none if the VM is off and nothing was written since it was brought there.

    Otherwise nobody can see whether something was, so it is brought back whenever it is asked.
    """
    found = vm.snapshot(wish.name)
    if found is None:
        raise NotFound(
            f"VM {vm.name} has no snapshot {shown(wish.name)}",
            wanted="one of " + (", ".join(shown(s.name) for s in vm.snapshots) or "(it has none)"),
            todo="correct the option 'name'",
        )
    check_kind(vm, found, wish.kind)
    if vm.reverted == wish.name:
        return Plan(vm.name)
    check_whole(vm, found)
    if _is_there(wish, vm, found):
        return Plan(vm.name)
    check_vm(vm, found)
    kept = _keeping(wish, vm, found)
    vm = predict(vm, kept)
    going = _internal(wish, vm, found) if found.mode == "internal" else _external(wish, vm, found)
    return Plan(vm.name, (*kept.steps, *going.steps), (*kept.notes, *going.notes))


def unreverted(wish: RevertWish, vm: VmState) -> Plan:
    """What shows that a VM is not where a run has just brought it: no steps if all is well."""
    found = vm.snapshot(wish.name)
    status = _status_after(wish, vm, found) if found else ""
    there = found is not None and found.current and all(_stands(vm, found))
    settled = wish.run_after == "unchanged" or vm.status == status
    return Plan(vm.name) if there and settled else Plan(vm.name, (_brought_back(wish, found),))


def _brought_back(wish: RevertWish, found: Snapshot | None) -> Step:
    return RewriteSnapshot(found.name if found else wish.name, current=True)


def _stands(vm: VmState, found: Snapshot) -> Iterator[bool]:
    """For each disk of the snapshot whether the VM's active image stands right on its point."""
    for target, point in found.points.items():
        disk = vm.disk(target)
        yield disk is not None and disk.depth_of(point) == 1


def _is_there(wish: RevertWish, vm: VmState, found: Snapshot) -> bool:
    """Whether it can be proved that going back would change nothing."""
    if not (vm.off and found.current and found.mode == "external" and all(_stands(vm, found))):
        return False
    if vm.live.shape is None or differs(vm, found) or rebuilt(vm, found):
        return False
    wants_off = _status_after(wish, vm, found) == OFF
    disks = [vm.disk(target) for target in found.points]
    return wants_off and all(disk is not None and disk.unwritten for disk in disks)


def _status_after(wish: RevertWish, vm: VmState, found: Snapshot) -> str:
    """running, paused or shutoff: as asked, else as at the point, or as it is now."""
    if wish.run_after != "unchanged":
        return wish.run_after
    if found.memory != "no":
        return "paused" if found.state == "paused" else "running"
    return vm.status if vm.status in ("running", "paused") else OFF


def _keeping(wish: RevertWish, vm: VmState, found: Snapshot) -> Plan:
    """The steps that keep the present state as a snapshot of its own."""
    if wish.keep is None:
        return Plan(vm.name)
    if vm.snapshot(wish.keep.name):
        raise Conflict(
            f"VM {vm.name} has a snapshot {wish.keep.name} already",
            wanted="to keep the present state under that name ('keep_current')",
            todo="choose another name, or remove that snapshot first",
        )
    check_kept(vm)
    mode = "internal" if found.mode == "internal" else "external"
    return plan_present(replace(wish.keep, mode=mode), vm)


def _internal(wish: RevertWish, vm: VmState, found: Snapshot) -> Plan:
    images = {entry.target: image_that_holds(vm, found, entry.target) for entry in found.taken}
    change = exchanged(vm, found, images)
    check_attached(vm, found, (pair for pair in change.attached if pair[0] not in images))
    status = _status_after(wish, vm, found)
    if found.memory == "no":
        for entry in found.taken:
            disk = vm.disk(entry.target)
            if disk is not None:
                check_outside(vm, disk, "to go back to an internal snapshot without memory")
    notes = change.notes + (stays(vm, found.name) if found.memory == "no" else ())
    # libvirt has no way to bring back the disks of one with memory without that.
    stops = found.memory != "no" and status == OFF
    attached = (*change.attached, *_of_another_branch(vm, images, change.attached))
    status = "paused" if stops else status
    disks = (attached, change.media, change.detached)
    back = RevertInternal(found.name, tuple(images.values()), status, *disks)
    gone, left = _given_up(vm, found, images)
    steps = (back, *([StopVm()] if stops else []), *_ancestors(vm, found, images), *gone)
    return Plan(vm.name, steps, (*notes, *left))


def _of_another_branch(
    vm: VmState, images: Mapping[str, str], attached: tuple[tuple[str, str], ...]
) -> Iterator[tuple[str, str]]:
    """The disks that the VM has still, and that go on with an image beside their present chain."""
    for target, image in images.items():
        disk = vm.disk(target)
        if disk is not None and disk.depth_of(image) is None and (target, image) not in attached:
            yield target, image


def _external(wish: RevertWish, vm: VmState, found: Snapshot) -> Plan:
    overlays = tuple(_overlay(wish, vm, found, target) for target in found.points)
    new = {step.target: step.file for step in overlays}
    change = exchanged(vm, found, new)
    check_attached(vm, found, (pair for pair in change.attached if pair[0] not in new))
    disks = change.placed
    status = _status_after(wish, vm, found)
    steps: list[Step] = [*overlays, *([] if vm.off else [StopVm()])]
    steps.append(DefineAsOf(found.name, disks, change.attached, change.media, change.detached))
    steps.extend(_ancestors(vm, found, found.points))
    steps.append(RewriteSnapshot(found.name, files=tuple(new.items()), current=True))
    steps.extend(_going_on(wish, found, disks, status))
    gone, notes = _given_up(vm, found, found.points)
    unused = found.memory != "no" and status == OFF
    if unused:
        notes += (f"{vm.name}: the memory of snapshot {found.name} is not used, since the VM is to"
                  " be off",)  # fmt: skip
    if unused or found.memory == "no":
        notes += stays(vm, found.name)
    return Plan(vm.name, (*steps, *gone), (*change.notes, *notes))


def _ancestors(vm: VmState, found: Snapshot, images: Mapping[str, str]) -> Iterator[Step]:
    """Let the snapshots below name the overlays that stand on their points in this branch."""
    above: dict[str, tuple[str, str]] = {}
    for target, lowest in images.items():
        chain = [image.filename for image in vm.chain_of(lowest)]
        above.update({below: (target, image) for image, below in zip(chain, chain[1:])})
    for snapshot in vm.snapshots:
        standing = [above[point] for point in snapshot.points.values() if point in above]
        # Of another tool's nobody records which overlays it had, nor what was merged by hand: one
        # that is not whole must not look so by an overlay that was put there later.
        below = not snapshot.ours and found.name in descendants(vm.snapshots, snapshot.name)
        known = below and not any(damages(vm, snapshot))
        moved = tuple(
            (target, image)
            for target, image in standing
            if (known or image in snapshot.former) and snapshot.overlays.get(target) != image
        )
        if moved and snapshot is not found:
            yield RewriteSnapshot(snapshot.name, files=moved)


def _going_on(
    wish: RevertWish, found: Snapshot, disks: tuple[tuple[str, str, str], ...], status: str
) -> tuple[Step, ...]:
    if status == OFF:
        return ()
    waits = wish.group and status == "running"
    paused = status == "paused" or waits
    file = found.memory_file
    step = RestoreMemory(file, disks, paused) if file else StartVm(paused)
    return (step, ResumeVm()) if waits else (step,)


def _overlay(wish: RevertWish, vm: VmState, found: Snapshot, target: str) -> CreateOverlay:
    point = found.points[target]
    chain = vm.chain_of(point)
    if not chain or chain[0].virtual_size is None:
        raise Unsupported(
            f"image {point} of VM {vm.name}, disk {target}, which snapshot {found.name} goes back"
            " to, cannot be read",
            wanted="a chain of local qcow2 or raw images",
            todo="repair it (qcow2_info says what is wrong)",
        )
    check_point(vm, target, chain, found.name)
    before = found.before.disk(target) if found.before else None
    image_format = before.format if before else chain[0].format
    file = next_name(found.overlays[target])
    if wish.directory:
        file = posixpath.join(wish.directory, posixpath.basename(file))
    file = free_name(file, vm)
    return CreateOverlay(target, file, point, image_format, chain[0].virtual_size)


def _given_up(
    vm: VmState, found: Snapshot, targets: Iterable[str]
) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """The removal of what only the present state needs, and notes of what is left alone."""
    needed = {image.filename for snapshot in vm.snapshots for image in points_of(vm, snapshot)}
    recorded = {file for snapshot in vm.snapshots if snapshot.ours for file in snapshot.made}
    steps: list[Step] = []
    notes: list[str] = []
    for target in targets:
        disk, then = vm.disk(target), found.before.disk(target) if found.before else None
        if disk is None or then is None or not is_same(vm, disk, then):
            continue
        for image in _above(disk, needed):
            if image in recorded:
                steps.append(RemoveFile(image, GIVEN_UP, spare=True))
            elif image != disk.files[-1]:
                notes.append(
                    f"{vm.name}: {image} is not used any more; it was left alone, since no snapshot"
                    " of this collection made it; if nobody needs what it holds, remove it"
                    f" (qcow2_overlay with path {image}, state absent)"
                )
    return tuple(steps), tuple(notes)


def _above(disk: DiskState, needed: set[str]) -> Iterator[str]:
    """What is above the first image that is needed; an overlay may have become the lowest."""
    for image in disk.chain:
        if image.filename in needed:
            return
        yield image.filename
