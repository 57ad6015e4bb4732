# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of the storage snapshots of a VM.

One file a VM, ``STATE_DIR/storage/UUID.json``, replaced atomically and fsynced. What it lists is
complete: a snapshot gets here when all of its copies are made.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace

from .._model.plain import Unfit, built
from .._model.storage import StorageSnapshot
from .._model.version import VERSION
from .durable import not_understood, read_json, remove, write_json
from .state_dir import state_directory

FORMAT = 1
_WHAT = "the record of storage snapshots"
_LOST = "move the file away: the snapshots are then found by their names"


@dataclass(frozen=True)
class _Content:
    """The fields of a record that are lists of plain values."""

    snapshots: tuple[StorageSnapshot, ...]


@dataclass(frozen=True)
class StorageRecord:
    """``at``: target -> (snapshot that the disk went back to last, stamp of its image then)."""

    snapshots: tuple[StorageSnapshot, ...] = ()
    at: dict[str, tuple[str, str]] = field(default_factory=dict)

    def having(self, snapshot: StorageSnapshot) -> StorageRecord:
        return replace(self, snapshots=(*self.lacking(snapshot.name).snapshots, snapshot))

    def lacking(self, name: str) -> StorageRecord:
        return replace(self, snapshots=tuple(s for s in self.snapshots if s.name != name))


def record_path(state_dir: str, uuid: str) -> str:
    """Where the record of a VM stands."""
    return os.path.join(state_dir, "storage", f"{uuid}.json")


def recorded_vms(state_dir: str) -> list[str]:
    """The UUIDs of all VMs that have a record, as far as that can be seen."""
    try:
        names = os.listdir(os.path.join(state_dir, "storage"))
    except OSError:
        return []
    parts = sorted(os.path.splitext(name) for name in names)
    return [uuid for uuid, extension in parts if extension == ".json"]


def read_record(state_dir: str, uuid: str) -> StorageRecord:
    """The record, an empty one if there is none.

    Raises Conflict for one of another version, and Denied or Problem where it cannot be read.
    """
    path = record_path(state_dir, uuid)
    content = read_json(path, _WHAT)
    if content is None:
        return StorageRecord()
    version = content.pop("version", "")
    try:
        if content.pop("format", None) != FORMAT:
            raise Unfit(f"it is not of format {FORMAT}")
        at = _pairs(content.pop("at", None))
        return StorageRecord(built(_Content, content).snapshots, at)
    except Unfit as error:
        by = f"version {version}" if version and isinstance(version, str) else ""
        raise not_understood(path, _WHAT, str(error), by=by, lost=_LOST) from error


def _pairs(at: object) -> dict[str, tuple[str, str]]:
    if isinstance(at, dict) and all(_is_pair(pair) for pair in at.values()):
        return {str(target): (name, stamp) for target, (name, stamp) in at.items()}
    raise Unfit("its field at holds no pairs of texts")


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and [type(part) for part in value] == [str, str]


def write_record(state_dir: str, uuid: str, record: StorageRecord) -> None:
    """Replace the record; it is on disk when this returns. An empty one is removed.

    Raises Unwritten.
    """
    state_directory(state_dir, "storage")
    path = record_path(state_dir, uuid)
    if not record.snapshots:
        return remove(path)
    entries = [{**asdict(s), "recorded": True} for s in record.snapshots]
    content = {"format": FORMAT, "version": VERSION, "snapshots": entries, "at": record.at}
    return write_json(path, content)
