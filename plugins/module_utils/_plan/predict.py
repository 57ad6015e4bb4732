# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The VM as it will be after a plan.

Check mode shows the prediction, a real run what was observed; tests hold both together.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from .._model.domain import local_source
from .._model.image import Image
from .._model.snapshot import (
    CRASH,
    FILESYSTEM,
    Snapshot,
    SnapshotDisk,
    proven_consistency,
)
from .._model.state import OFF, DiskState, VmState
from .._model.step import (
    CommitDisk,
    CreateOverlay,
    DefineAsOf,
    DefineSnapshot,
    DeleteInternal,
    ForgetSnapshot,
    Plan,
    PullDisk,
    RemoveFile,
    RestoreMemory,
    ResumeVm,
    RevertInternal,
    RewriteSnapshot,
    SetSource,
    StartVm,
    Step,
    StopVm,
    TakeSnapshot,
)
from .backup_after import after_backup
from .freeze import after_freeze
from .memory import after_memory
from .predict_storage import after_storage
from .revert_disks import disks_after, disks_inside, disks_resumed


def predict(vm: VmState, plan: Plan) -> VmState:
    """The VM after the plan."""
    for step in plan.steps:
        vm = _after(vm, step)
    return vm


def _after(vm: VmState, step: Step) -> VmState:
    if isinstance(step, CreateOverlay):
        overlay = _overlay_on(vm.chain_of(step.backing), step.file)
        return replace(vm, branches=(*vm.branches, overlay)) if overlay else vm
    if isinstance(step, TakeSnapshot):
        return _with_snapshot(vm, step)
    if isinstance(step, CommitDisk):
        return _with_disk(vm, step.target, partial(_merged, step=step))
    if isinstance(step, PullDisk):
        return _with_disk(vm, step.target, partial(_pulled, step=step))
    if isinstance(step, SetSource):
        return _with_disk(vm, step.target, partial(_repointed, step=step, off=vm.off))
    if isinstance(step, DeleteInternal):
        disks = tuple(replace(disk, chain=_without_internal(disk.chain, step)) for disk in vm.disks)
        branches = tuple(_without_internal(chain, step) for chain in vm.branches)
        left = _without(vm.snapshots, step.name)
        return replace(vm, disks=disks, branches=branches, snapshots=left)
    if isinstance(step, DefineSnapshot):
        return _with_again(vm, step)
    if isinstance(step, ForgetSnapshot):
        return replace(vm, snapshots=_without(vm.snapshots, step.name))
    if isinstance(step, RewriteSnapshot):
        vm = replace(vm, snapshots=_with_current(vm, step.name)) if step.current else vm
        return replace(vm, snapshots=tuple(_rewritten(found, step) for found in vm.snapshots))
    if isinstance(step, RemoveFile):
        return replace(vm, missing=vm.missing | {step.file})
    return _switched(vm, step)


def _switched(vm: VmState, step: Step) -> VmState:
    """After a step that switches the VM off or on, or lets it go on from somewhere."""
    if isinstance(step, ResumeVm):
        return replace(vm, status="running")
    if isinstance(step, StopVm):
        left = tuple(disk for disk in vm.disks if _is_defined(vm, disk))
        return _with_disks(replace(vm, status=OFF, disks=left), partial(_powered_off, vm=vm))
    if isinstance(step, (StartVm, RestoreMemory)):
        status = "paused" if step.paused else "running"
        disks = disks_resumed(vm, step) if isinstance(step, RestoreMemory) else vm.disks
        return _with_disks(replace(vm, status=status, disks=disks), _powered_on)
    if isinstance(step, DefineAsOf):
        return _with_disk(replace(vm, disks=disks_after(vm, step)), "", lambda disk: disk)
    if isinstance(step, RevertInternal):
        vm = _with_disk(replace(vm, disks=disks_inside(vm, step)), "", lambda disk: disk)
        return replace(vm, status=step.status, snapshots=_with_current(vm, step.name))
    vm = after_storage(vm, step)
    return after_backup(after_memory(after_freeze(vm, step), step), step)


def _powered_on(disk: DiskState) -> DiskState:
    live = replace(disk.disk, recorded=disk.files[1:]) if disk.chain else disk.disk
    return replace(disk, disk=live, unwritten=False)


def _is_defined(vm: VmState, disk: DiskState) -> bool:
    """Whether a disk outlives the stop of the VM."""
    return not (vm.persistent and vm.config is not None and disk.disk.path and not disk.persistent)


def _powered_off(disk: DiskState, vm: VmState) -> DiskState:
    """What runs next is what the persistent definition says."""
    path = disk.persistent
    if not path:
        return disk
    live = replace(disk.disk, source=local_source(path), recorded=disk.recorded)
    return replace(disk, disk=live, chain=vm.chain_of(path) or disk.chain)


def _with_current(vm: VmState, name: str) -> tuple[Snapshot, ...]:
    return tuple(replace(found, current=found.name == name) for found in vm.snapshots)


def _with_disks(vm: VmState, change: Callable[[DiskState], DiskState]) -> VmState:
    for disk in vm.disks:
        vm = _with_disk(vm, disk.target, change)
    return vm


def _with_disk(vm: VmState, target: str, change: Callable[[DiskState], DiskState]) -> VmState:
    disks = tuple(change(disk) if disk.target == target else disk for disk in vm.disks)
    return replace(vm, disks=disks, live=replace(vm.live, disks=tuple(disk.disk for disk in disks)))


def _merged(disk: DiskState, step: CommitDisk) -> DiskState:
    """A definition that is off still names the merged image: SetSource follows."""
    if step.how == "offline":
        return _from(disk, step.merged) if step.overlay else disk
    return _on(_from(disk, step.merged), off=False)


def _pulled(disk: DiskState, step: PullDisk) -> DiskState:
    left = _from(disk, step.pulled)
    return left if step.how == "offline" else _on(left, off=False)


def _from(disk: DiskState, merged: tuple[str, ...]) -> DiskState:
    """The disk without these images in its chain."""
    left = (image for image in disk.chain if image.filename not in merged)
    stacked = tuple(path for path in disk.stacked if path not in merged)
    return replace(disk, chain=tuple(left), stacked=stacked)


def _on(disk: DiskState, *, off: bool) -> DiskState:
    """The disk with its source on the first image of its chain.

    libvirt moves the persistent definition along where both named the same image, and records
    the images below in either only if the VM runs.
    """
    active, *below = disk.files
    recorded = () if off else tuple(below)
    source, image_format = local_source(active), disk.chain[0].format
    moved = replace(disk.disk, source=source, format=image_format, recorded=recorded)
    if disk.persistent == disk.disk.path:
        disk = replace(disk, persistent=active, recorded=recorded)
    return replace(disk, disk=moved)


def _repointed(disk: DiskState, step: SetSource, *, off: bool) -> DiskState:
    disk = replace(disk, persistent=step.new, recorded=(), stacked=())
    depth = disk.depth_of(step.new)
    if not off or depth is None:
        return disk
    moved = replace(disk.disk, source=local_source(step.new), format=step.format, recorded=())
    return replace(disk, disk=moved, chain=disk.chain[depth:])


def _without_internal(chain: tuple[Image, ...], step: DeleteInternal) -> tuple[Image, ...]:
    return tuple(
        image._replace(snapshots=tuple(s for s in image.snapshots if s.name != step.name))
        if image.filename in (*step.images, *step.beside)
        else image
        for image in chain
    )


def _with_snapshot(vm: VmState, step: TakeSnapshot) -> VmState:
    spec = step.spec
    older = tuple(replace(snapshot, current=False) for snapshot in vm.snapshots)
    memory = "external" if spec.memory_file else _memory_of(spec.mode, off=vm.off)
    state = vm.status if memory != "no" or vm.off else "disk-snapshot"
    taken = Snapshot(
        name=spec.name,
        parent=next((snapshot.name for snapshot in vm.snapshots if snapshot.current), ""),
        state=state,
        created=max((snapshot.created for snapshot in older), default=0) + 1,
        current=True,
        description=spec.description,
        consistency=_consistency(step, state, memory),
        memory=memory,
        memory_file=spec.memory_file,
        disks=spec.disks,
        before=vm.live,
        named=vm.live.named,
        xml="",
        kind=dict(spec.more).get("kind", ""),
    )
    for entry in taken.taken:
        overlaid = partial(_with_overlay, file=entry.file, off=vm.off)
        inside = partial(_with_internal, name=spec.name)
        vm = _with_disk(vm, entry.target, overlaid if entry.file else inside)
    return replace(vm, snapshots=(*older, taken))


def _with_again(vm: VmState, step: DefineSnapshot) -> VmState:
    again = tuple(found for found in vm.dropped if found.name == step.name)
    left = tuple(found for found in vm.dropped if found.name != step.name)
    vm = replace(vm, snapshots=_with_current(vm, "")) if step.current else vm
    return replace(vm, snapshots=(*vm.snapshots, *again), dropped=left)


def _memory_of(mode: str, *, off: bool) -> str:
    return "internal" if mode == "internal" and not off else "no"


def _consistency(step: TakeSnapshot, state: str, memory: str) -> str:
    """'' where only the run can tell whether the guest could be frozen."""
    proven = proven_consistency(state, memory)
    if proven != CRASH or step.quiesce == "never":
        return proven
    return FILESYSTEM if step.quiesce == "required" else ""


def _with_internal(disk: DiskState, name: str) -> DiskState:
    held = tuple(image.holding(name) for image in disk.chain[:1])
    return replace(disk, chain=held + disk.chain[1:])


def _with_overlay(disk: DiskState, file: str, *, off: bool) -> DiskState:
    return _on(replace(disk, chain=_overlay_on(disk.chain, file)), off=off)


def _overlay_on(chain: tuple[Image, ...], file: str) -> tuple[Image, ...]:
    """The chain with a new overlay on top; () on nothing."""
    if not chain:
        return ()
    placed = chain[0].file._replace(filename=file, real=file)
    overlay = chain[0]._replace(file=placed, format="qcow2", snapshots=(), bitmaps=())
    return (overlay, *chain)


def _rewritten(snapshot: Snapshot, step: RewriteSnapshot) -> Snapshot:
    if snapshot.name != step.name:
        return snapshot
    sources = {old: (new, image_format) for old, new, image_format in step.sources}
    files = dict(step.files)
    disks = tuple(
        SnapshotDisk(disk.target, "no")
        if disk.target in step.without
        else replace(disk, file=files.get(disk.target, disk.file))
        for disk in snapshot.disks
    )
    before = snapshot.before.moved(sources) if snapshot.before else None
    named = _renamed(snapshot, sources) | (before.named if before else frozenset())
    gone = [file for target, file in snapshot.overlays.items() if target in files]
    former = (*snapshot.former, *step.former, *gone) if snapshot.ours else ()
    return replace(snapshot, disks=disks, before=before, named=named, former=former)


def _renamed(snapshot: Snapshot, sources: Mapping[str, tuple[str, str]]) -> frozenset[str]:
    """What only the inactive definition of the snapshot names."""
    known = snapshot.before.named if snapshot.before else frozenset()
    return frozenset(sources.get(path, (path, ""))[0] for path in snapshot.named - known)


def _without(snapshots: tuple[Snapshot, ...], name: str) -> tuple[Snapshot, ...]:
    """libvirt gives the children to the parent, which becomes current if the snapshot was."""
    gone = next((snapshot for snapshot in snapshots if snapshot.name == name), None)
    if gone is None:
        return snapshots
    return tuple(
        replace(
            snapshot,
            parent=gone.parent if snapshot.parent == name else snapshot.parent,
            current=snapshot.current or (gone.current and snapshot.name == gone.parent),
        )
        for snapshot in snapshots
        if snapshot.name != name
    )
