# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt forgets when a transient VM stops: the record of its snapshots.

We keep it in ``STATE_DIR/snapshots/UUID.json``, as it was after the last change, together with
which run of the VM it belongs to: what is missing in a later run, libvirt has dropped; what is
missing in the same run, somebody has deleted.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._model.domain import Definition
from .._model.plain import Unfit, built
from .._model.snapshot import Snapshot, parse_snapshot
from .connection import call
from .libvirt_dep import libvirt
from .record import of_another_version, read_record, remove_record, write_record
from .stamp import start_of

if TYPE_CHECKING:
    from .libvirt_dep import Domain

_KIND = "snapshots"


@dataclass(frozen=True)
class _Dropped:
    """A snapshot as libvirt described it."""

    name: str
    current: bool
    xml: str


@dataclass(frozen=True)
class _Record:
    """The snapshots of a VM, by its name, in one ``run`` of it."""

    vm: str
    run: str
    snapshots: tuple[_Dropped, ...]
    version: str = ""


def read_dropped(state_dir: str, live: Definition, known: Collection[str]) -> tuple[Snapshot, ...]:
    """The snapshots that libvirt has dropped of a VM that is on again, each after its parent."""
    record = _read(state_dir, live.uuid)
    if record is None or not live.active or record.run == start_of(live.number):
        return ()
    missing = [entry for entry in record.snapshots if entry.name not in known]
    try:
        return tuple(parse_snapshot(entry.xml, current=entry.current) for entry in missing)
    except Exception as error:
        why = f"a snapshot in it is described in a way that cannot be understood ({error})"
        raise of_another_version(state_dir, _KIND, live.uuid, why) from error


def _read(state_dir: str, uuid: str) -> _Record | None:
    """The record, None if there is none. It may be all that is left: raises Conflict if unknown."""
    content = read_record(state_dir, _KIND, uuid)
    if content is None:
        return None
    try:
        record: _Record = built(_Record, content)
        return record
    except Unfit as error:
        raise of_another_version(state_dir, _KIND, uuid, str(error), content) from error


def remember(state_dir: str, dom: Domain) -> None:
    """Keep the record of a transient VM's snapshots; that of a persistent one libvirt keeps."""
    doing = f"keeping the record of the snapshots of VM {dom.name()}"
    uuid = dom.UUIDString()
    if call(doing, dom.isPersistent):
        return remove_record(state_dir, _KIND, uuid)
    if not call(doing, dom.isActive):
        return None
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL
    listed = [
        {
            "name": found.getName(),
            "current": bool(call(doing, found.isCurrent, 0)),
            "xml": call(doing, found.getXMLDesc, libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE),
        }
        for found in call(doing, dom.listAllSnapshots, flags)
    ]
    if not listed:
        return remove_record(state_dir, _KIND, uuid)
    content = {"vm": dom.name(), "run": start_of(str(dom.ID())), "snapshots": listed}
    return write_record(state_dir, _KIND, uuid, content)


def define_again(state_dir: str, dom: Domain, name: str, *, current: bool) -> None:
    """Let libvirt know a snapshot of the record again; images are not touched."""
    record = _read(state_dir, dom.UUIDString())
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
    flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT if current else 0
    for entry in record.snapshots if record else ():
        if entry.name == name:
            doing = f"VM {dom.name()}: defining snapshot {name} again"
            call(doing, dom.snapshotCreateXML, entry.xml, flags)
