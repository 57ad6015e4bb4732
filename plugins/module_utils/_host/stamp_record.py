# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What snapshots cannot hold themselves of the stamps of their images.

Those of ours have their stamps in their description. ``STATE_DIR/stamps/UUID.json`` has those of
other tools' snapshots, whose description is not ours to change, and which of all stamps are out of
date: libvirt changes no snapshot while a VM is off that has backup checkpoints.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import quote, unquote

from .._model.plain import Unfit, built
from .._model.snapshot import Snapshot
from .._model.stamp import from_note, to_note
from .record import of_another_version, read_record, remove_record, write_record

_KIND = "stamps"


@dataclass(frozen=True)
class _Other:
    """Another tool's snapshot, by its name and the second it was taken in, and its stamps."""

    name: str
    created: int
    stamps: str


@dataclass(frozen=True)
class StampRecord:
    """``sound`` are the stamps that are out of date; ``others`` the snapshots of other tools."""

    sound: tuple[str, ...] = ()
    others: tuple[_Other, ...] = ()
    version: str = ""

    def on(self, snapshots: Iterable[Snapshot]) -> tuple[Snapshot, ...]:
        """The snapshots of a VM, those of other tools with their stamps."""
        notes = {(other.name, other.created): other.stamps for other in self.others}
        return tuple(
            found
            if found.ours
            else replace(found, stamps=from_note(notes.get((found.name, found.created), "")))
            for found in snapshots
        )

    def knows(self, snapshot: Snapshot) -> bool:
        """Whether a run of ours has looked at it; what was damaged then has no stamps."""
        known = {(other.name, other.created) for other in self.others}
        return snapshot.ours or (snapshot.name, snapshot.created) in known


def recorded(snapshots: Iterable[Snapshot]) -> StampRecord:
    """The record to keep of snapshots with their stamps."""
    others = [
        _Other(found.name, found.created, to_note(found.stamps))
        for found in snapshots
        if not found.ours
    ]
    return StampRecord(others=tuple(others))


def outdated(journal: Mapping[str, Any] | None, record: StampRecord) -> set[tuple[str, str]]:
    """(snapshot, image) of the stamps that a journal and the record call out of date."""
    words = (*(journal or {}).get("sound", ()), *record.sound)
    pairs = (word.partition(" ") for word in words)
    return {(unquote(name), image) for name, _space, image in pairs}


def as_words(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """The same as they list them."""
    return sorted(f"{quote(name, safe='')} {image}" for name, image in pairs)


def read_stamps(state_dir: str, uuid: str) -> StampRecord:
    """The record of a VM. Raises Conflict where another version wrote it."""
    content = read_record(state_dir, _KIND, uuid)
    if content is None:
        return StampRecord()
    try:
        record: StampRecord = built(StampRecord, content)
        return record
    except Unfit as error:
        raise of_another_version(state_dir, _KIND, uuid, str(error), content) from error


def write_stamps(state_dir: str, uuid: str, record: StampRecord) -> None:
    """Keep it as long as there is something to keep."""
    if record.others or record.sound:
        others = [asdict(other) for other in record.others]
        write_record(state_dir, _KIND, uuid, {"sound": list(record.sound), "others": others})
    else:
        remove_record(state_dir, _KIND, uuid)
