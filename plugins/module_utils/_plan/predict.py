# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The VM as it will be after a plan, and the picture of it that a person compares.

Check mode shows the prediction, a real run what was observed; tests hold both together.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from .._model.domain import Source
from .._model.snapshot import Snapshot, tree_text
from .._model.state import DiskState, VmState
from .._model.step import (
    CommitDisk,
    DeleteInternal,
    ForgetSnapshot,
    Plan,
    RemoveFile,
    SetSource,
    Step,
    TakeSnapshot,
)


def picture(vm: VmState) -> str:
    """Chains (base first, joined by the arrow of ``<-`` is backed by) and the tree."""
    lines = [f"VM {vm.name}"]
    for disk in vm.writable:
        chain = " <- ".join(reversed(disk.files)) or str(disk.disk.source)
        lines.append(f"  {disk.target}: {chain}")
    tree = tree_text(vm.snapshots)
    lines.append("  snapshots:" if tree else "  snapshots: none")
    lines.extend(f"    {line}" for line in tree.splitlines())
    return "\n".join(lines) + "\n"


def predict(vm: VmState, plan: Plan) -> VmState:
    """The VM after the plan."""
    for step in plan.steps:
        vm = _after(vm, step)
    return vm


def _after(vm: VmState, step: Step) -> VmState:
    if isinstance(step, TakeSnapshot):
        return _with_snapshot(vm, step)
    if isinstance(step, CommitDisk):
        return _with_disk(vm, step.target, lambda disk: _merged(disk, step))
    if isinstance(step, SetSource):
        return _with_disk(vm, step.target, lambda disk: replace(disk, persistent=step.new))
    if isinstance(step, (ForgetSnapshot, DeleteInternal)):
        return replace(vm, snapshots=_without(vm.snapshots, step.name))
    if isinstance(step, RemoveFile):
        return replace(vm, missing=vm.missing | {step.file})
    return vm


def _with_disk(vm: VmState, target: str, change: Callable[[DiskState], DiskState]) -> VmState:
    disks = tuple(change(disk) if disk.target == target else disk for disk in vm.disks)
    return replace(vm, disks=disks)


def _merged(disk: DiskState, step: CommitDisk) -> DiskState:
    left = [
        (image, real)
        for image, real in zip(disk.chain, disk.real)
        if image.filename not in step.merged
    ]
    chain, real = tuple(image for image, _r in left), tuple(real for _i, real in left)
    return _on(replace(disk, chain=chain, real=real))


def _on(disk: DiskState) -> DiskState:
    """The disk with its source on the first image of its chain."""
    active = disk.chain[0]
    kind = "block" if active.filename.startswith("/dev/") else "file"
    source = Source(kind, active.filename)
    same = disk.persistent == disk.disk.path
    return replace(
        disk,
        disk=replace(disk.disk, source=source, format=active.format),
        persistent=active.filename if same else disk.persistent,
    )


def _with_snapshot(vm: VmState, step: TakeSnapshot) -> VmState:
    for entry in step.spec.disks:
        if entry.file:
            vm = _with_disk(vm, entry.target, partial(_with_overlay, file=entry.file))
    parent = next((snapshot.name for snapshot in vm.snapshots if snapshot.current), "")
    older = tuple(replace(snapshot, current=False) for snapshot in vm.snapshots)
    newest = max((snapshot.created for snapshot in older), default=0)
    taken = Snapshot(
        name=step.spec.name,
        parent=parent,
        state="disk-snapshot",
        created=newest + 1,
        current=True,
        description=step.spec.description,
        consistency="",
        memory="external" if step.spec.memory_file else "no",
        memory_file=step.spec.memory_file,
        disks=step.spec.disks,
        before=vm.live,
        named=vm.live.named,
        xml="",
    )
    return replace(vm, snapshots=(*older, taken))


def _with_overlay(disk: DiskState, file: str) -> DiskState:
    below = disk.chain[0]
    placed = below.file._replace(filename=file)
    overlay = replace(below, file=placed, format="qcow2", snapshots=(), bitmaps=())
    return _on(replace(disk, chain=(overlay, *disk.chain), real=(file, *disk.real)))


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
