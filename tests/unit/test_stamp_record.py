# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of stamps beside the snapshots, and what time tells where nothing is kept."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._flow import stamping
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import birth
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.journal import (
    Journal,
    new_content,
    read_journal,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.stamp_record import (
    StampRecord,
    as_words,
    outdated,
    read_stamps,
    recorded,
    write_stamps,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Problem
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stamp import SECOND, Stamp
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import VmState
from builders import disk, image, snapshot, vm
from hypothesis import given
from hypothesis import strategies as st

THEIRS = replace(snapshot("h5 Prüfung: $(id) & <y>"), ours=False, created=1_700_000_000, stamps=())
ODD = Stamp("/vms/a b:c,d.qcow2", 1000, 5, 77, tables="abcd", backing="/vms/base: 1.qcow2")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXTS, TEXTS)
def test_names_of_others_come_back_as_they_were(name, image_name):
    record = StampRecord(sound=tuple(as_words({(name, image_name)})))
    assert outdated(None, record) == {(name, image_name)}


def test_a_journal_and_the_record_name_what_is_out_of_date(tmp_path):
    words = as_words({("s1", "/a b.qcow2")})
    Journal(
        str(tmp_path), "uuid", {**new_content("a run", "running", (), ()), "sound": words}
    ).write()
    found = read_journal(str(tmp_path), "uuid")
    assert outdated(found, StampRecord()) == {("s1", "/a b.qcow2")}
    write_stamps(str(tmp_path), "uuid", StampRecord(tuple(as_words({("s2", "/c.qcow2")}))))
    assert outdated(found, read_stamps(str(tmp_path), "uuid")) == {
        ("s1", "/a b.qcow2"),
        ("s2", "/c.qcow2"),
    }
    write_stamps(str(tmp_path), "uuid", StampRecord())
    assert not (tmp_path / "stamps" / "uuid.json").exists()
    assert read_stamps(str(tmp_path), "uuid") == StampRecord()


def test_another_tools_snapshot_has_its_stamps_beside_it(tmp_path):
    ours = replace(snapshot("s1"), stamps=(ODD,))
    theirs = replace(THEIRS, stamps=(ODD,))
    stale = tuple(as_words({(theirs.name, ODD.image)}))
    write_stamps(str(tmp_path), "uuid", replace(recorded([ours, theirs]), sound=stale))
    record = read_stamps(str(tmp_path), "uuid")
    assert [other.name for other in record.others] == [theirs.name]
    assert outdated(None, record) == {(theirs.name, ODD.image)}
    assert record.on([replace(ours, stamps=()), THEIRS]) == (replace(ours, stamps=()), theirs)
    assert record.knows(THEIRS)
    # One of the same name that was taken later is another one.
    later = replace(THEIRS, created=THEIRS.created + 1)
    assert record.on([later]) == (later,)
    assert not record.knows(later)


def test_the_record_of_the_first_version_is_understood(tmp_path):
    (tmp_path / "stamps").mkdir()
    (tmp_path / "stamps" / "uuid.json").write_text(
        '{"format": 1, "version": "0.1.0", "sound": ["s1 /a b.qcow2"]}'
    )
    assert outdated(None, read_stamps(str(tmp_path), "uuid")) == {("s1", "/a b.qcow2")}


def test_what_could_not_be_renewed_stays_out_of_date(monkeypatch, tmp_path):
    def refused(*_args):
        raise Problem("libvirt says no")

    theirs = replace(THEIRS, stamps=(ODD,))
    write_stamps(str(tmp_path), "uuid", recorded([theirs]))
    monkeypatch.setattr(stamping, "_stamped", refused)
    journal = SimpleNamespace(content={"sound": as_words({("s1", "/a.qcow2")})})
    work = SimpleNamespace(
        host=SimpleNamespace(state_dir=str(tmp_path)),
        vm=SimpleNamespace(name="db01", uuid="uuid"),
        journal=journal,
        resumed=True,
        notes=[],
    )
    stamping.keep_stamps(work)
    record = read_stamps(str(tmp_path), "uuid")
    assert outdated(None, record) == {("s1", "/a.qcow2")}
    assert record.on([THEIRS]) == (theirs,)
    assert "libvirt says no" in work.notes[0]


# --- where nothing is kept ---


def test_the_birth_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "-- a\nb"
    before = time.time_ns()
    path.touch()
    os.utime(path, (1, 1))
    known = subprocess.run(["stat", "--format=%W", path], check=True, capture_output=True).stdout
    if known.strip() in (b"0", b"-"):
        pytest.skip(
            f"SKIPPED LOUDLY: the file system of {tmp_path} does not know when a file came to be"
        )
    assert before - SECOND < birth.birth(str(path)) < time.time_ns() + SECOND
    assert birth.birth(str(tmp_path / "gone")) == 0
    assert birth.birth("/proc/version") == 0


def standing_on_what_was_written(after: float) -> VmState:
    """A VM that is off and has another tool's snapshot; `after`: seconds since that."""
    point = THEIRS.image_before("vda")
    top, below = image(THEIRS.overlays["vda"]), image(point)
    moment = int((THEIRS.created + after) * SECOND)
    below = below._replace(file=below.file._replace(time=moment))
    return vm(replace(disk("vda"), chain=(top, below)), snapshots=[THEIRS], status="shutoff")


@pytest.mark.parametrize(
    ("born", "after", "written"),
    [
        (0, 3600, None),  # of an overlay that is gone nobody knows
        (1, 2, None),
        (1, 3.1, True),
        (3600, 3601, None),  # the memory was saved for an hour before
        (3600, 3603, True),
        (-3600, 1.9, None),  # the overlay had been made before
        (-3600, 2.1, True),
        (1, 10**9, None),  # the image came from a host whose clock is ahead
    ],
)
def test_what_was_written_after_the_overlay_was_made(monkeypatch, born, after, written):
    start = THEIRS.created * SECOND
    monkeypatch.setattr(birth, "birth", lambda _path: born and start + born * SECOND)
    state = standing_on_what_was_written(after)
    (seen,) = birth.seen_late(state, set())
    point = THEIRS.image_before("vda")
    assert (seen.snapshot, seen.image, seen.written) == (THEIRS.name, point, written)
    assert birth.seen_late(state, {(THEIRS.name, point)}) == ()
    ours = replace(state, snapshots=(replace(THEIRS, ours=True),))
    assert birth.seen_late(ours, set()) == ()
    known = replace(state, snapshots=(replace(THEIRS, stamps=(Stamp(point),)),))
    assert birth.seen_late(known, set()) == ()


@pytest.mark.parametrize(("began", "written"), [(29, None), (31, True), (None, None)])
def test_what_qemu_itself_has_written_is_no_harm(monkeypatch, began, written):
    """It removes bitmaps; what it has merged does not stand there any more."""
    moment = None if began is None else THEIRS.created + began
    monkeypatch.setattr(birth, "birth", lambda _path: THEIRS.created * SECOND)
    monkeypatch.setattr(birth, "started_at", lambda _uuid: moment)
    running = replace(standing_on_what_was_written(30), status="running")
    assert [seen.written for seen in birth.seen_late(running, set())] == [written]
