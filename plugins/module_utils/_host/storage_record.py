# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of the storage snapshots of a VM.

One file a VM, ``STATE_DIR/storage/UUID.json``, replaced atomically and fsynced. What it lists is
complete: a snapshot gets here when all of its copies are made.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .._model.problem import Conflict
from .._model.storage import StorageSnapshot, to_copy
from .journal import fsync_directory
from .lock import state_directory

FORMAT = 1


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


def read_record(state_dir: str, uuid: str) -> StorageRecord:
    """The record, an empty one if there is none; Conflict if it cannot be understood."""
    path = record_path(state_dir, uuid)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if content["format"] != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        snapshots = tuple(_snapshot(entry) for entry in content["snapshots"])
        at = {target: (str(name), str(stamp)) for target, (name, stamp) in content["at"].items()}
    except FileNotFoundError:
        return StorageRecord()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Conflict(
            f"the record {path} of storage snapshots cannot be read: {error!r}",
            wanted="to know which snapshots there are",
            todo="use the version of the collection that wrote it, or move the file away: the"
            " snapshots are then found by their names",
        ) from error
    return StorageRecord(snapshots, at)


def _snapshot(entry: dict[str, Any]) -> StorageSnapshot:
    copies = tuple(to_copy(copy) for copy in entry["copies"])
    return StorageSnapshot(entry["name"], entry["consistency"], int(entry["created"]), copies)


def write_record(state_dir: str, uuid: str, record: StorageRecord) -> None:
    """Replace the record; it is on disk when this returns. An empty one is removed."""
    directory = state_directory(state_dir, "storage")
    path = record_path(state_dir, uuid)
    if not record.snapshots:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        fsync_directory(directory)
        return
    entries = [{**asdict(s), "recorded": True} for s in record.snapshots]
    content = {"format": FORMAT, "snapshots": entries, "at": record.at}
    draft = f"{path}.new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, json.dumps(content).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(draft, path)
    fsync_directory(directory)
