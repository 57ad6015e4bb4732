# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records are whole or old: every kind of them on file systems that are really full."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import (
    durable,
    journal,
    record,
    repository,
    repository_write,
    storage_record,
    uses,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.journal import Journal
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.storage_record import (
    StorageRecord,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.backup import (
    IMAGE,
    RestorePoint,
    StoredDisk,
    StoredFile,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Problem,
    Unwritten,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import RemoveFile
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stock import Verified
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.storage import StorageSnapshot
from full_stage import KINDS, block, empty, free, leave, small
from image_story import needs_root

UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
POINT = "20261124T030000Z"
LONG = "x" * 12_000

Write = Callable[[Path, str], None]
Read = Callable[[Path], Any]


def steps(text: str) -> tuple[RemoveFile, ...]:
    return (RemoveFile(f"/{text}", "why"),)


def write_journal(place: Path, text: str) -> None:
    Journal(str(place), UUID, journal.new_content(text, "running", steps(text), ())).write()


def read_journal(place: Path) -> Any:
    found = journal.read_journal(str(place), UUID)
    return found and found["run"]


def mark_journal(place: Path, text: str) -> None:
    """A later change of a journal that is there."""
    content = journal.read_journal(str(place), UUID)
    if content is None:
        write_journal(place, text)
        return
    content["run"] = text
    Journal(str(place), UUID, content).mark("begun 0")


def kept(kind: str) -> tuple[Write, Read]:
    def write(place: Path, text: str) -> None:
        record.write_record(str(place), kind, UUID, {"text": text})

    def read(place: Path) -> Any:
        found = record.read_record(str(place), kind, UUID)
        return found and found["text"]

    return write, read


def write_storage(place: Path, text: str) -> None:
    snapshot = StorageSnapshot(text, "offline", 1, ())
    storage_record.write_record(str(place), UUID, StorageRecord((snapshot,)))


def read_storage(place: Path) -> Any:
    found = storage_record.read_record(str(place), UUID).snapshots
    return found[0].name if found else None


def point_called(text: str) -> RestorePoint:
    return RestorePoint(
        id=POINT, vm="db01", uuid=UUID, sequence=1, time="2026-11-24T03:00:00Z", type="full",
        reason=text, consistency="offline", files=(StoredFile("vda.qcow2", IMAGE, 0, "0" * 64),),
        disks=(StoredDisk("vda", "vda.qcow2", "full", "raw", 1 << 20, "/vda"),),
        started="", finished="", seconds=1, parent=None,
    )  # fmt: skip


def folder(place: Path) -> Path:
    found = place / POINT
    if not found.is_dir():
        repository_write.new_folder(str(place), POINT)
    return found


def write_manifest(place: Path, text: str) -> None:
    folder(place)
    repository_write.commit(str(place), point_called(text))


def read_manifest(place: Path) -> Any:
    try:
        return repository.read_point(str(place / POINT)).reason
    except FileNotFoundError:
        return None


def write_verified(place: Path, text: str) -> None:
    folder(place)
    repository_write.record_verified(str(place), point_called(""), Verified("then", "d", text))


def read_verified(place: Path) -> Any:
    path = place / POINT / "verified.json"
    return json.loads(path.read_text())["trouble"] if path.exists() else None


def write_use(place: Path, text: str) -> None:
    folder(place)
    notes = uses.record_use(str(place / POINT / "vda.qcow2"), ("/srv/overlay", text))
    if notes:
        raise Unwritten(notes[0])


def read_use(place: Path) -> Any:
    found = sorted((place / "uses").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(found[-1].read_text())["images"][-1] if found else None


def write_progress(place: Path, text: str) -> None:
    durable.write_json(str(folder(place) / "progress.json"), {"text": text}, synced=False)


def read_progress(place: Path) -> Any:
    path = place / POINT / "progress.json"
    return json.loads(path.read_text())["text"] if path.exists() else None


RECORDS: dict[str, tuple[Write, Read]] = {
    "journal": (write_journal, read_journal),
    "mark": (mark_journal, read_journal),
    "snapshots": kept("snapshots"),
    "save": kept("save"),
    "freeze": kept("freeze"),
    "storage": (write_storage, read_storage),
    "manifest": (write_manifest, read_manifest),
    "verified": (write_verified, read_verified),
    "use": (write_use, read_use),
    "progress": (write_progress, read_progress),
}


def drafts(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.name.endswith(".new")]


@pytest.fixture(scope="module", params=KINDS)
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    with small(request.param, tmp_path_factory.mktemp("full") / "disk") as place:
        yield place


@needs_root
@pytest.mark.parametrize("kind", RECORDS)
def test_at_every_fill_from_nothing_to_enough(kind: str, disk: Path) -> None:
    write, read = RECORDS[kind]
    place = disk / kind
    place.mkdir(mode=0o700)
    write(place, "old")
    outcomes = []
    for size in range(0, 20 * 4096, block(disk)):
        leave(disk, size)
        try:
            write(place, LONG)
            outcomes.append("new")
        except Problem as problem:
            outcomes.append("old")
            assert isinstance(problem, Unwritten)
            assert str(place) in problem.found and "No space left on device" in problem.found
            needs = [int(word) for word in problem.found.split() if word.isdecimal()]
            assert any(len(LONG) < need < 6 * len(LONG) for need in needs), problem
        empty(disk)
        if outcomes[-1] == "new":
            break
        assert read(place) == "old" or (kind == "journal" and read(place) is None)
        if kind not in ("journal", "mark"):
            assert drafts(place) == []
        if kind == "journal":
            write(place, "old")
    assert outcomes[-1] == "new" and outcomes.count("old") >= 2, outcomes
    assert read(place) == LONG


@needs_root
def test_a_run_that_has_begun_has_room_for_all_of_its_marks(disk: Path) -> None:
    """What the file system has left when a run begins others may take at once."""
    place = disk / "reserve"
    place.mkdir(mode=0o700)
    run = Journal(str(place), UUID, journal.new_content(LONG, "running", steps("a") * 9, ()))
    run.write()
    leave(disk, 0)
    assert free(disk) == 0
    for number in range(9):
        run.mark(f"pivot vd{number}")
        run.done(number)
    found = journal.read_journal(str(place), UUID)
    assert found is not None and len(found["marks"]) == 9
    assert all(entry["done"] for entry in found["steps"])
    run.close()
    assert list((place / "journal").iterdir()) == []
    empty(disk)
