# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps that change what libvirt records: definitions and snapshots.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from .._model.domain import domain_with_sources
from .._model.names import in_shell
from .._model.problem import Problem, Unreachable
from .._model.snapshot import Snapshot
from .._model.snapshot_steps import Point, displaced
from .._model.step import (
    DefineSnapshot,
    DeleteInternal,
    ForgetSnapshot,
    RewriteSnapshot,
    SetSource,
)
from . import qemu_img
from .connection import call, call_within
from .dropped import define_again
from .image_file import read_image
from .libvirt_dep import libvirt
from .observe import read_snapshots
from .snapshots import redefine
from .work import Work, do


@do.register
def _set_source(step: SetSource, work: Work) -> None:
    doing = f"VM {work.vm.name}: pointing disk {step.target} at {step.new}"
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    xml = call(doing, work.dom.XMLDesc, flags)
    goes = (step.old, *step.gone)
    moved = domain_with_sources(xml, dict.fromkeys(goes, (step.new, step.format)))
    call(doing, work.host.conn.defineXML, moved)


@do.register
def _rewrite_snapshot(step: RewriteSnapshot, work: Work) -> None:
    redefine(
        work.dom,
        step.name,
        sources=step.sources,
        without=step.without,
        files=step.files,
        current=step.current,
        former=step.former,
    )


@do.register
def _define_snapshot(step: DefineSnapshot, work: Work) -> None:
    define_again(work.host.state_dir, work.dom, step.name, current=step.current)


@do.register
def _forget_snapshot(step: ForgetSnapshot, work: Work) -> None:
    """libvirt 9.0 lets those above it name what this one went back to: that is put right."""
    points = list(_points(read_snapshots(work.dom), step.name))
    if points:
        work.journal.mark(step.mark(points))
    _forget(step.name, work)
    for snapshot in read_snapshots(work.dom):
        sources = displaced(snapshot, points)
        try:
            if sources:
                redefine(work.dom, snapshot.name, sources=sources)
        except Unreachable:
            raise
        except Problem as problem:
            lost = f"the record of snapshot {snapshot.name} could not be put right"
            work.notes.append(f"{work.vm.name}: {lost}: {problem.found}")


def _forget(name: str, work: Work) -> None:
    """libvirt 9.0 does so, and calls it a failure, where the VM has not all disks of then."""
    doing = f"VM {work.vm.name}: forgetting snapshot {name}"
    found = call(doing, work.dom.snapshotLookupByName, name, 0)
    try:
        call(doing, found.delete, libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
    except Unreachable:
        raise
    except Problem:
        left = call(doing, work.dom.listAllSnapshots, 0)
        if name in {snapshot.getName() for snapshot in left}:
            raise


def _points(snapshots: Iterable[Snapshot], but: str) -> Iterator[Point]:
    """What they go back to, but for one of them."""
    for snapshot in snapshots:
        for target in snapshot.points if snapshot.name != but else ():
            disk = snapshot.before.disk(target) if snapshot.before else None
            if disk is not None:
                yield snapshot.name, target, disk.path, disk.format


@do.register
def _delete_internal(step: DeleteInternal, work: Work) -> None:
    for path in step.beside:
        _delete_beside(path, step.name, work)
    if step.below or (step.beside and not step.images):
        _delete_below(step, work)
        return
    doing = f"VM {work.vm.name}: deleting internal snapshot {step.name}"
    found = call(doing, work.dom.snapshotLookupByName, step.name, 0)
    call_within(work.host.timeout, doing, found.delete, 0)
    for path in step.images:
        image = read_image(path, format="qcow2")
        if any(left.name == step.name for left in image.snapshots):
            raise Problem(
                f"image {path} of VM {work.vm.name} still holds snapshot {step.name} though"
                " libvirt says that it is deleted",
                wanted="an image without it",
                todo="stop the VM and run: qemu-img snapshot -d"
                f" {in_shell(step.name)} {in_shell(path)}",
            )


def _delete_beside(path: str, name: str, work: Work) -> None:
    """From an image that this VM does not use; whoever does is not disturbed."""
    try:
        if os.path.exists(path):
            _delete_from(path, name, work)
    except Problem as problem:
        work.notes.append(
            f"{work.vm.name}: snapshot {name} stays in {path}: {problem.found}. It can be deleted"
            f" later (qcow2_snapshot with path {path}, name {name}, state absent)"
        )


def _delete_below(step: DeleteInternal, work: Work) -> None:
    """What the images above stand on is the same afterwards; the record goes last."""
    for path in step.images:
        _delete_from(path, step.name, work)
    do(ForgetSnapshot(step.name), work)


def _delete_from(path: str, name: str, work: Work) -> None:
    if any(found.name == name for found in read_image(path, format="qcow2").snapshots):
        timeout = work.host.timeout
        work.notes.extend(qemu_img.snapshot_delete(path, name, timeout=timeout))
