# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logical volumes from what a real lvs printed (LVM 2.03.31; fixtures/lvm-2.03).

``plain``: a thick volume with a snapshot, a thin one with a snapshot that it went back to.
``invalid``: more was written to the thick one than its snapshot had room for. ``deferred``: a merge
that waits, since the origin is open.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Problem
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.volume import (
    FIELDS,
    Volume,
    mark_tags,
    parse_volumes,
)

FOLDER = Path(__file__).parent / "fixtures" / "lvm-2.03"


def volumes(name: str) -> dict[str, Volume]:
    return {volume.name: volume for volume in parse_volumes((FOLDER / f"{name}.json").read_text())}


def test_the_fields_are_those_that_were_recorded():
    row = json.loads((FOLDER / "plain.json").read_text())["report"][0]["lv"][0]
    assert tuple(row) == FIELDS


def test_thick_and_thin():
    found = volumes("plain")
    thick, copy = found["vmk/thick"], found["vmk/thick.s1"]
    assert thick.paths == ("/dev/vmk/thick", "/dev/mapper/vmk-thick")
    assert (thick.number, thick.size, thick.thin, thick.origin) == ((253, 0), 200 << 20, False, "")
    assert (copy.origin, copy.size, copy.used, copy.invalid) == ("vmk/thick", 40 << 20, 0.0, False)
    thin, kept = found["vmk/thin"], found["vmk/thin.s1"]
    assert thin.thin and thin.pool == "vmk/pool" and thin.number
    assert kept.thin and kept.number is None and not kept.is_open
    assert found["vmk/pool"].used == 10.94, "its metadata is fuller than its data"


def test_a_snapshot_that_overflowed():
    copy = volumes("invalid")["vmk/thick.s1"]
    assert copy.invalid and copy.used == 100.0


def test_a_merge_that_waits():
    found = volumes("deferred")
    origin, copy = found["vmk/thick"], found["vmk/thick.s1"]
    assert origin.merging and origin.is_open
    assert copy.merging and copy.origin == "vmk/thick" and not copy.invalid


def test_marks_are_tags():
    mark = {"vm": "5762cac2", "name": "s1", "of": "vg/db"}
    tags = mark_tags(mark)
    assert tags[0] == "vmkeep" and all(char.isalnum() or char in "_+.-/=" for char in "".join(tags))
    volume = Volume("vg/db.s1", (), None, 0, False, tags=(*tags, "theirs", "vmkeeper=x"))
    assert volume.mark == mark
    assert Volume("vg/db", (), None, 0, False, tags=("theirs",)).mark == {}


@pytest.mark.parametrize("text", ["", "{}", '{"report": [{"lv": [{"vg_name": "vg"}]}]}', "[1]"])
def test_something_else_is_a_problem(text):
    with pytest.raises(Problem, match="lvs printed something else"):
        parse_volumes(text)
