# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof that nothing which the guest had made durable is lost.

The writer in the guest (`guest/writer`) appends records to `records` on each disk. A record is
acknowledged on the host, in a file, only after the disk has it. So after any accident the records
read from the disks must contain every acknowledged one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .programs import LabError


@dataclasses.dataclass(frozen=True)
class Record:
    """One line of the writer: number, microseconds of the guest's clock, boot, disk."""

    number: int
    time: int
    boot: str
    disk: str

    def check(self) -> int:
        """The checksum that the guest computes."""
        return (self.number * 2654435761 + self.time * 40503 + int(self.boot, 16)) & 0xFFFFFFFF


class RecordsDamaged(LabError):
    """What was read is not what a writer has written."""


def parse_records(data: bytes, disk: str) -> list[Record]:
    """Records of one disk; a last line without its end is one that never was acknowledged."""
    lines = data.split(b"\n")[:-1]
    records = [_parse(line, disk) for line in lines]
    for before, after in zip(records, records[1:]):
        if after.number != before.number + 1:
            raise RecordsDamaged(f"{disk}: record {after.number} follows {before.number}")
    return records


def _parse(line: bytes, disk: str) -> Record:
    try:
        number, time, boot, name, check = line.decode("ascii").split(" ")
        record = Record(int(number), int(time), boot, name)
        good = record.check() == int(check, 16) and name == disk
    except ValueError:
        good = False
    if not good:
        raise RecordsDamaged(f"{disk}: not a record: {line[:80]!r}")
    return record


def parse_acknowledged(path: Path) -> dict[str, set[tuple[str, int]]]:
    """Disk to the (boot, number) of every record known to be durable."""
    found: dict[str, set[tuple[str, int]]] = {}
    text = path.read_text() if path.exists() else ""
    for line in text.split("\n")[:-1]:
        boot, disk, number = line.split(" ")
        found.setdefault(disk, set()).add((boot, int(number)))
    return found


def missing(
    acknowledged: dict[str, set[tuple[str, int]]], records: dict[str, list[Record]]
) -> list[str]:
    """Acknowledged records that are not there, in words; empty when nothing is lost."""
    lost = []
    for disk, known in sorted(acknowledged.items()):
        present = {(record.boot, record.number) for record in records.get(disk, [])}
        lost += [f"{disk}: record {number} of boot {boot}" for boot, number in known - present]
    return sorted(lost)


def longest_gap(records: list[Record]) -> float:
    """Longest time between two records of one boot, in milliseconds."""
    pairs = [(a, b) for a, b in zip(records, records[1:]) if a.boot == b.boot]
    return max(((b.time - a.time) / 1000 for a, b in pairs), default=0.0)
