# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The VM as it will be defined once it is restored.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .._model.domain import Disk, parse_domain
from .._model.image import File, Image
from .._model.restore import Marker, Places, RestoreWish, Seen, StoredVm
from .._model.restore_steps import OVERLAY
from .._model.restored_xml import Change, restored_xml, stored_domain
from .._model.state import OFF, DiskState, VmState
from .._model.step import DefineRestored, RestoreDisk, Step


def definition(
    wish: RestoreWish,
    seen: Seen,
    stored: StoredVm,
    step: DefineRestored,
    macs: frozenset[str],
    stamps: Mapping[str, str],
) -> str:
    """The XML to define; ``stamps`` are those of the new images by target."""
    clean = stored_domain(stored.definition if seen.absent else seen.xml, wish.point.id)
    disks = {target: (file, form) for target, file, form in step.disks}
    change = Change(
        name=wish.name,
        uuid=wish.uuid,
        disks=disks,
        dropped=_dropped(wish, clean),
        nvram=step.nvram,
        networks=wish.networks,
        clone=wish.clone,
        macs=macs,
    )
    return restored_xml(clean, change, _marker(wish, seen, step, stamps))


def _dropped(wish: RestoreWish, root: ET.Element) -> frozenset[str]:
    """A VM under another name gets no disk that the one that was backed up writes to."""
    if not wish.clone:
        return frozenset()
    restored = {disk.target for disk in wish.wanted}
    disks = parse_domain(ET.tostring(root, encoding="unicode")).disks
    return frozenset(disk.target for disk in disks if disk.writable and disk.target not in restored)


def _marker(
    wish: RestoreWish, seen: Seen, step: DefineRestored, stamps: Mapping[str, str]
) -> Marker:
    """The new mark; of an older one of the same point what still holds is kept."""
    disks = {target: (file, stamps.get(target, "")) for target, file, _form in step.disks}
    kept: dict[str, tuple[str, str]] = {}
    if seen.marker and seen.marker.of(wish.repository, wish.point):
        kept = {target: (file, stamp) for target, file, stamp in seen.marker.disks}
    return Marker(
        repository=wish.repository,
        vm=wish.point.uuid,
        point=wish.point.id,
        digest=wish.point.digest,
        disks=tuple((target, *values) for target, values in {**kept, **disks}.items()),
        replaced=step.replaced,
        checkpoints=step.checkpoints,
    )


def after_definition(
    wish: RestoreWish, seen: Seen, stored: StoredVm, steps: Sequence[Step], places: Places
) -> VmState:
    """The VM after the steps up to its definition."""
    made = {step.target: step for step in steps if isinstance(step, RestoreDisk)}
    defining = next(step for step in steps if isinstance(step, DefineRestored))
    xml = definition(wish, seen, stored, defining, places.macs, {})
    live = parse_domain(xml)
    disks = tuple(_disk_state(disk, made.get(disk.target), seen, stored) for disk in live.disks)
    return replace(
        seen.vm,
        name=live.name,
        uuid=live.uuid,
        status=OFF,
        persistent=True,
        live=live,
        disks=disks,
        journal=None,
    )


def _disk_state(disk: Disk, step: RestoreDisk | None, seen: Seen, stored: StoredVm) -> DiskState:
    present = seen.vm.disk(disk.target)
    if step is None:
        return present or DiskState(disk, (), disk.path)
    below = stored.chains[step.target] if step.how == OVERLAY else ()
    image = Image(
        File(step.file, step.file, 0, step.bytes, (0, 0)),
        step.format,
        "given",
        step.size,
        backing_filename=step.source if below else None,
        backing_format="qcow2" if below else None,
    )
    return DiskState(disk, (image, *below), disk.path, unwritten=bool(below))
