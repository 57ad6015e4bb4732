# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done after a run died that was about storage snapshots; by LVM too, which few can run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Conflict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CommitDisk,
    Plan,
    RemoveStorage,
    RevertStorage,
    UnprepareRevert,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.storage import (
    LVM,
    REFLINK,
    Copy,
    StorageSnapshot,
    StorageState,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.left import files_of
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.storage import (
    TEMPORARY,
    StorageWish,
    plan_storage_absent,
    plan_storage_present,
)
from builders import at, disk, kinds, of, vm
from test_plan_recover import journal, recover

SEEN = StorageState(seen=True)
RUNNING = replace(vm(disk("vda"), disk("vdb")), storage=SEEN)
OFF = replace(vm(disk("vda"), disk("vdb"), status="shutoff"), storage=SEEN)
TAKE = plan_storage_present(StorageWish("s1"), RUNNING)
TAKE_OFF = plan_storage_present(StorageWish("s1"), OFF)
COPIES = TAKE_OFF.steps[0].copies
MADE = tuple(copy.made for copy in COPIES)
TAKEN = StorageSnapshot("s1", "filesystem", 1000, COPIES)
SWITCHED = predict(RUNNING, Plan("db", TAKE.steps[:3]))


def storing(state, *snapshots, existing=()):
    return replace(state, storage=replace(SEEN, snapshots=snapshots, existing=frozenset(existing)))


def test_the_files_of_a_journal_are_also_those_that_the_storage_makes():
    assert set(files_of(journal(TAKE_OFF))) >= set(MADE)


# --- taking ---


@pytest.mark.parametrize("existing", [(), MADE[:1], MADE])
def test_copies_that_are_not_on_record_are_undone(existing):
    plan = recover(TAKE_OFF, storing(OFF, existing=existing))
    assert plan.steps == ((RemoveStorage("s1", COPIES),) if existing else ())
    assert plan.notes == ("db: undid storage snapshot s1 of an interrupted run",)


def test_the_overlays_are_merged_back():
    plan = recover(TAKE, storing(SWITCHED, existing=MADE[:1]), done=3)
    assert kinds(plan) == [
        "remove_storage", "commit", "commit", "forget_snapshot", "remove_file", "remove_file",
    ]  # fmt: skip
    after = predict(SWITCHED, plan)
    assert after.disks == RUNNING.disks and after.snapshots == ()


def test_a_snapshot_of_libvirt_that_is_complete_is_no_reason_to_keep_it():
    """vm_snapshot keeps what it has taken; here it only held the images still."""
    plan = recover(TAKE, storing(SWITCHED), done=3)
    assert kinds(plan)[0] == "commit" and "forget_snapshot" in kinds(plan)


def test_one_that_is_on_record_is_finished():
    state = storing(SWITCHED, TAKEN, existing=MADE)
    plan = recover(TAKE, state, done=3)
    assert kinds(plan) == [*["commit"] * 2, "forget_snapshot", *["remove_file"] * 2]
    assert all(step.resume for step in of(CommitDisk, plan))
    assert plan.notes == ("db: finished what an interrupted run had begun",)
    assert predict(state, plan).storage.snapshots == (TAKEN,)
    left = recover(TAKE, state, done=3, finish=False)
    assert left.steps == (), "a merge that cannot be done leaves its overlay in use"


def test_one_that_was_only_found_by_name_does_not_count():
    found = replace(TAKEN, recorded=False)
    plan = recover(TAKE_OFF, storing(OFF, found, existing=MADE))
    assert plan.steps == (RemoveStorage("s1", COPIES),)


def test_the_temporary_snapshot_is_told_from_others():
    assert [found.name for found in SWITCHED.snapshots] == [TEMPORARY]


# --- removing ---


@pytest.mark.parametrize(
    ("snapshots", "existing", "todo"),
    [((TAKEN,), MADE, 1), ((TAKEN,), (), 1), ((), MADE[1:], 1), ((), (), 0)],
)
def test_a_removal_is_finished(snapshots, existing, todo):
    begun = plan_storage_absent("s1", storing(OFF, TAKEN, existing=MADE))
    plan = recover(begun, storing(OFF, *snapshots, existing=existing))
    assert len(plan.steps) == todo and plan.steps == begun.steps[:todo]


# --- going back ---

IMAGES = {target: at(target, "base") for target in ("vda", "vdb")}
FILES = tuple(
    Copy(target, REFLINK, image, f"{image}@s1", f"{image}@s1") for target, image in IMAGES.items()
)
THICK = Copy("vda", LVM, "/dev/vg/db", "vg/db.s1", "/dev/vg/db.s1", "vg/db", size=1 << 20)
THIN = Copy("vdb", LVM, "/dev/vg/thin", "vg/thin.s1", "/dev/vg/thin.s1", "vg/thin", thin=True)
PREPARED = ("prepared s1",)


def back(*copies: Copy) -> Plan:
    return Plan("db", (RevertStorage("s1", copies),))


def recover_back(copies, existing, marks=(), state=OFF, **values):
    return recover(back(*copies), storing(state, TAKEN, existing=existing), marks=marks, **values)


def everything(*copies: Copy, without: tuple[str, ...] = ()) -> set[str]:
    """All is prepared and nothing changed yet."""
    things = {thing for c in copies for thing in (c.place, c.made)}
    things |= {copy.new for copy in copies if not copy.is_merged}
    return things - set(without)


ALL = pytest.mark.parametrize(
    "copies", [FILES, (THICK, THIN), (THICK,), (THIN,), FILES[:1]],
    ids=["files", "volumes", "thick", "thin", "file"],
)  # fmt: skip


@ALL
@pytest.mark.parametrize("marks", [(), PREPARED])
@pytest.mark.parametrize("status", ["shutoff", "running"])
def test_before_a_disk_has_changed_nothing_is_lost(copies, marks, status):
    """The VM may have run since, so that what it had is not given up."""
    state = replace(OFF, status=status)
    plan = recover_back(copies, everything(*copies), marks, state)
    prepared = any(not copy.is_merged for copy in copies)
    assert plan.steps == ((UnprepareRevert("s1", copies),) if prepared else ())
    assert not prepared or plan.notes == ("db: undid what an interrupted run had begun",)


@ALL
def test_nothing_was_prepared(copies):
    things = everything(*copies) - {copy.new for copy in copies}
    assert recover_back(copies, things).steps == ()


@pytest.mark.parametrize(
    ("copies", "changes", "marks"),
    [
        (FILES, {FILES[1].place: FILES[1].old}, ()),  # hidden
        (FILES, {FILES[1].place: FILES[1].old, FILES[0].new: ""}, ()),  # the first replaced
        (FILES, {FILES[0].new: "", FILES[1].new: FILES[1].old}, ()),  # only the old one is left
        ((THICK, THIN), {"vg/db": THICK.old}, ()),
        ((THICK, THIN), {"vg/db": THICK.old, "vg/db.s1": ""}, ()),  # merged, not taken anew
        ((THICK, THIN), {"vg/db": THICK.old, "vg/thin": THIN.old}, ("placed vda",)),
        ((THICK, THIN), {"vg/thin": THIN.old}, ("placed vda",)),
        ((THIN,), {"vg/thin": THIN.old, THIN.new: ""}, ()),
    ],
)
def test_from_then_on_it_is_finished(copies, changes, marks):
    things = everything(*copies)
    for thing, becomes in changes.items():
        things = (things - {thing}) | ({becomes} if becomes else set())
    plan = recover_back(copies, things, (*PREPARED, *marks))
    assert plan.steps == (RevertStorage("s1", copies, resume=True),)
    assert plan.notes == ("db: finished what an interrupted run had begun",)
    closed = recover_back(copies, things, (*PREPARED, *marks), finish=False)
    assert closed.steps == plan.steps, "no VM is left without its images"


def test_all_is_done_but_the_journal():
    things = everything(*FILES) - {copy.new for copy in FILES}
    assert recover_back(FILES, things, PREPARED).steps == ()
    things = everything(THICK)
    assert recover_back((THICK,), things, (*PREPARED, "placed vda")).steps == ()
    done = recover_back(FILES, things, PREPARED, done=1)
    assert done.steps == ()


def test_a_vm_that_runs_on_the_new_disks_only_loses_the_old_ones():
    things = (everything(*FILES) - {copy.new for copy in FILES}) | {FILES[1].old}
    plan = recover_back(FILES, things, PREPARED, replace(OFF, status="running"))
    assert kinds(plan) == ["revert_storage"]


def test_a_vm_that_runs_on_a_part_of_them_is_told_of():
    things = everything(*FILES, without=(FILES[0].new,))
    with pytest.raises(Conflict, match="only some of its disks back"):
        recover_back(FILES, things, PREPARED, replace(OFF, status="running"))
