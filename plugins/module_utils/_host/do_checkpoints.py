# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps that bring libvirt's backup checkpoints out of the way, and back.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.checkpoint_steps import is_ours, mark_of, taken_out
from .._model.domain import parse_domain
from .._model.problem import Problem, Unreachable
from .._model.step import GiveUpCheckpoints, PutBackCheckpoints, TakeOutCheckpoints
from .checkpoints import drop_checkpoint, forget_checkpoint
from .connection import call, check_off
from .image_bitmaps import remove_bitmap
from .image_file import read_image
from .libvirt_dep import libvirt
from .work import Work, do


@do.register
def _take_out(_step: TakeOutCheckpoints, work: Work) -> None:
    """Each is defined as it is first, which shows that it can be put back."""
    doing = f"VM {work.vm.name}: taking its backup checkpoints out for a while"
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL
    found = call(doing, work.dom.listAllCheckpoints, flags)
    secure = libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE
    records = [(point.getName(), call(doing, point.getXMLDesc, secure)) for point in found]
    for _name, xml in records:
        _define(work, xml)
    work.journal.mark(mark_of(records))
    for name, _xml in reversed(records):
        forget_checkpoint(work.dom, name)


@do.register
def _put_back(_step: PutBackCheckpoints, work: Work) -> None:
    doing = f"VM {work.vm.name}: putting its backup checkpoints back"
    there = {point.getName() for point in call(doing, work.dom.listAllCheckpoints, 0)}
    for name, xml in taken_out(work.journal.content["marks"]).items():
        if name in there:
            continue
        try:
            _define(work, xml)
        except Unreachable:
            raise
        except Problem as problem:
            if not is_ours(name):
                raise
            note = f"{name} could not be put back, so the next restore point is a full one"
            work.notes.append(f"{work.vm.name}: backup checkpoint {note}: {problem.found}")


def _define(work: Work, xml: str) -> None:
    doing = f"VM {work.vm.name}: defining a backup checkpoint of it as it was"
    call(doing, work.dom.checkpointCreateXML, xml, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)


@do.register
def _give_up(step: GiveUpCheckpoints, work: Work) -> None:
    """A running QEMU drops their bitmaps itself, from the images that it has open; others stay."""
    doing = f"reading VM {work.vm.name}"
    opened: frozenset[str] = frozenset()
    if step.images and call(doing, work.dom.isActive):
        opened = parse_domain(call(doing, work.dom.XMLDesc, 0)).named
        for name in step.names:
            note = drop_checkpoint(work.dom, name)
            work.notes.extend([note] if note else [])
    else:
        check_off(work.dom, "to give up its backup checkpoints")
        for name in step.names:
            forget_checkpoint(work.dom, name)
    for path in step.images:
        if path in opened:
            continue
        for bitmap in read_image(path, format="qcow2").bitmaps:
            if is_ours(bitmap.name):
                remove_bitmap(path, bitmap.name)
