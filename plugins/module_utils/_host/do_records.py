# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps that change what libvirt records: definitions and snapshots.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.domain import domain_with_sources
from .._model.problem import Problem
from .._model.step import (
    DefineSnapshot,
    DeleteInternal,
    ForgetSnapshot,
    RewriteSnapshot,
    SetSource,
)
from .connection import call, call_within
from .dropped import define_again
from .image_file import read_image
from .libvirt_dep import libvirt
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
    )


@do.register
def _define_snapshot(step: DefineSnapshot, work: Work) -> None:
    define_again(work.host.state_dir, work.dom, step.name, current=step.current)


@do.register
def _forget_snapshot(step: ForgetSnapshot, work: Work) -> None:
    doing = f"VM {work.vm.name}: forgetting snapshot {step.name}"
    found = call(doing, work.dom.snapshotLookupByName, step.name, 0)
    call(doing, found.delete, libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


@do.register
def _delete_internal(step: DeleteInternal, work: Work) -> None:
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
                todo=f"stop the VM and run: qemu-img snapshot -d {step.name} {path}",
            )
