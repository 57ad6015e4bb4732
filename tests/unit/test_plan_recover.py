# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done after a run that died; test_plan_history.py tries all moments at random."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.journal import new_content
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CommitDisk,
    ForgetSnapshot,
    GiveUpCheckpoints,
    Plan,
    RemoveFile,
    ResumeVm,
    RevertInternal,
    RewriteSnapshot,
    SetSource,
    StopVm,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.absent import (
    AbsentWish,
    plan_absent,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.left import (
    files_of,
    left_by,
    over,
    point_of,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.recover import (
    plan_recovery,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.snapshot import (
    SnapshotWish,
    plan_present,
)
from builders import at, disk, kinds, memory_of, of, paths, snapshot, stacked, vm

BEFORE = vm(disk("vda"), disk("vdb"))
TAKE = plan_present(SnapshotWish("s1"), BEFORE)
TAKE_MEMORY = plan_present(SnapshotWish("s1", memory=True), BEFORE)
NEW = (at("vda", "s1"), at("vdb", "s1"))


def journal(plan: Plan, *, done: int = 0, marks=(), status="running"):
    """The journal of a run that has marked so many steps as done."""
    content = json.loads(json.dumps(new_content("a run", status, plan.steps, ())))
    for entry in content["steps"][:done]:
        entry["done"] = True
    content["marks"].extend(marks)
    return content


def recover(
    plan: Plan, state, *, existing=None, done=0, marks=(), status="running", finish=True, **left
) -> Plan:
    """The recovery; all the files of the journal exist unless it is said which."""
    content = journal(plan, done=done, marks=marks, status=status)
    found = frozenset(files_of(content) if existing is None else existing)
    return plan_recovery(
        left_by(content, found, **{"group_complete": True, **left}), state, finish=finish
    )


# --- the journal ---


def test_the_files_of_a_journal():
    assert files_of(journal(TAKE_MEMORY)) == (*NEW, memory_of("s1"))
    assert files_of(journal(TAKE)) == NEW
    merge = plan_commit(CommitWish(), stacked("s1", memory="external"))
    assert files_of(journal(merge)) == (at("vda", "s1"), memory_of("s1"))


def test_the_point_in_time_of_a_journal():
    assert point_of(journal(plan_commit(CommitWish(), stacked("s1")))) is None
    assert point_of(journal(TAKE, done=2)) == (TAKE.steps[-1], False)
    assert point_of(journal(TAKE, done=3)) == (TAKE.steps[-1], True)


def test_a_journal_that_an_older_version_wrote_has_no_marks():
    content = journal(TAKE)
    del content["marks"], content["status"]
    left = left_by(content, frozenset(), group_complete=True)
    assert (left.marks, left.status, left.steps) == (frozenset(), "", TAKE.steps)


def test_a_job_is_over_once_the_chain_shows_its_work():
    vm = stacked("s1", "s2", "s3")
    plan = plan_commit(CommitWish(disks=("vda",), max_depth=2), vm)
    assert plan.steps[0].how == "middle"
    assert over(None, vm) == over(journal(plan), vm) == frozenset()
    assert over(journal(plan), predict(vm, plan)) == {"vda"}
    # what an active commit leaves for its pivot is not over, whatever the chain says
    whole = plan_commit(CommitWish(), vm)
    assert over(journal(whole), predict(vm, whole)) == frozenset()


# --- a snapshot that was begun ---


def test_nothing_was_done_yet():
    plan = recover(TAKE, BEFORE, existing=())
    assert plan.steps == ()
    assert plan.notes == ("db: undid snapshot s1 of an interrupted run",)


@pytest.mark.parametrize("existing", [NEW[:1], NEW])
def test_overlays_were_created_and_not_used(existing):
    plan = recover(TAKE, BEFORE, existing=existing)
    assert plan.steps == tuple(
        RemoveFile(path, "unused overlay of an interrupted run") for path in existing
    )


def test_overlays_are_used_and_there_is_no_metadata():
    switched = vm(disk("vda", "s1 base"), disk("vdb", "s1 base"))
    plan = recover(TAKE, switched, done=2)
    assert kinds(plan) == ["commit", "commit", "remove_file", "remove_file"]
    assert all(step.resume and step.how == "active" for step in of(CommitDisk, plan))
    assert predict(switched, plan).disks == BEFORE.disks


def test_one_overlay_is_used_and_one_is_not():
    state = vm(disk("vda", "s1 base"), disk("vdb"))
    plan = recover(TAKE, state)
    assert [step.target for step in of(CommitDisk, plan)] == ["vda"]
    assert {step.file for step in of(RemoveFile, plan)} == set(NEW)


def test_an_overlay_was_put_on_top_by_others():
    state = vm(disk("vda", "other s1 base"), disk("vdb"))
    (step,) = of(CommitDisk, recover(TAKE, state))
    assert (step.how, step.merged, step.overlay) == ("middle", (NEW[0],), at("vda", "other"))


def test_a_complete_snapshot_stays():
    after = predict(BEFORE, TAKE)
    plan = recover(TAKE, after, done=2)
    assert plan.steps == ()
    assert plan.notes == ("db: snapshot s1 of an interrupted run is complete",)


@pytest.mark.parametrize("why", ["group_complete", "proven"])
def test_a_snapshot_that_is_not_what_was_promised_is_undone(why):
    """Another VM of the group does not have it, or the freeze may not have held."""
    after = predict(BEFORE, TAKE)
    plan = recover(TAKE, after, done=2, **{why: False})
    assert kinds(plan) == ["commit", "commit", "forget_snapshot", "remove_file", "remove_file"]
    undone = predict(after, plan)
    assert undone.disks == BEFORE.disks and undone.snapshots == ()
    assert all(step.resume for step in of(CommitDisk, plan))


def test_a_recorded_snapshot_whose_overlays_are_not_used():
    """An error after the metadata was written, or somebody went back."""
    recorded = replace(BEFORE, snapshots=predict(BEFORE, TAKE).snapshots)
    plan = recover(TAKE, recorded)
    assert kinds(plan) == ["forget_snapshot", "remove_file", "remove_file"]


def test_undoing_is_not_refused_for_a_snapshot_that_goes_back_to_the_same_image():
    """The guest writes to that image again as it did before: nothing is worse than it was."""
    older = snapshot("older", {"vda": "base"})
    switched = vm(disk("vda", "s1 base"), disk("vdb", "s1 base"), snapshots=[older])
    assert recover(TAKE, switched).steps
    both = replace(switched, snapshots=(older, predict(BEFORE, TAKE).snapshots[0]))
    assert recover(TAKE, both, group_complete=False).steps


def test_a_memory_file_is_removed():
    plan = recover(TAKE_MEMORY, BEFORE)
    assert [step.file for step in of(RemoveFile, plan)] == [*NEW, memory_of("s1")]
    none = recover(TAKE_MEMORY, BEFORE, existing=NEW)
    assert [step.file for step in of(RemoveFile, none)] == list(NEW)


@pytest.mark.parametrize(
    ("status", "now", "resumed"),
    [("running", "paused", True), ("paused", "paused", False), ("running", "running", False)],
)
def test_a_vm_that_was_paused_for_its_memory_runs_again(status, now, resumed):
    plan = recover(TAKE_MEMORY, replace(BEFORE, status=now), status=status)
    assert (plan.steps[:1] == (ResumeVm(),)) == resumed
    assert len(of(ResumeVm, plan)) == resumed


def test_an_internal_snapshot_leaves_nothing_to_undo():
    plan = plan_present(SnapshotWish("s1", mode="internal"), BEFORE)
    assert recover(plan, BEFORE).steps == ()
    assert "is complete" in recover(plan, predict(BEFORE, plan)).notes[0]


# --- merges that were begun ---

MERGED = stacked("s1", "s2", targets="vda vdb")
COMMIT = plan_commit(CommitWish(), MERGED)
FINISHED = "db: finished what an interrupted run had begun"


def test_all_is_still_to_be_done():
    plan = recover(COMMIT, MERGED)
    assert kinds(plan) == kinds(COMMIT)
    assert all(step.resume for step in of(CommitDisk, plan))
    assert plan.notes == (FINISHED,)
    assert predict(MERGED, plan) == predict(MERGED, COMMIT)


@pytest.mark.parametrize("status", ["running", "shutoff"])
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize(
    "wish",
    [
        CommitWish(),
        CommitWish(max_depth=2),
        CommitWish(disks=("vda",), top=at("vda", "s1")),
        CommitWish(delete_merged=False),
        AbsentWish("s1"),
        AbsentWish("s2"),
        AbsentWish("s1", subtree=True),
    ],
    ids=str,
)
def test_from_every_moment_to_the_same_end(wish, marked, status):
    """After each step, whether or not it was marked as done."""
    before = stacked("s1", "s2", targets="vda vdb", status=status, memory="external")
    plan = plan_commit(wish, before) if isinstance(wish, CommitWish) else plan_absent(wish, before)
    steps, whole = plan.steps, predict(before, plan)
    for count in range(len(steps) + 1):
        state = predict(before, Plan("db", steps[:count]))
        gone = {step.file for step in of(RemoveFile, steps[:count])}
        switched = [s for s in of(CommitDisk, steps[:count]) if s.how == "active"]
        found = recover(
            plan,
            state,
            existing={step.file for step in of(RemoveFile, steps)} - gone,
            done=count if marked else max(0, count - 1),
            marks=[step.pivot_mark for step in switched],
            status=status,
        )
        assert predict(state, found) == whole, f"died after step {count}"


def test_a_definition_that_was_not_moved_yet():
    before = vm(disk("vda", "s2 s1 base", persistent="s1", recorded="base"))
    plan = plan_commit(CommitWish(), before)
    assert kinds(plan) == ["commit", "set_source", "remove_file", "remove_file"]
    pivoted = vm(disk("vda", "base", persistent="s1", recorded="base"))
    found = recover(plan, pivoted, done=1)
    assert kinds(found) == ["set_source", "remove_file", "remove_file"]


def test_a_definition_that_somebody_has_moved_elsewhere():
    before = vm(disk("vda", "s2 s1 base", persistent="s1"))
    plan = plan_commit(CommitWish(), before)
    elsewhere = vm(disk("vda", "base", persistent="/vms/other"))
    assert not of(SetSource, recover(plan, elsewhere, done=1))


def test_a_record_that_still_names_a_merged_image():
    before = vm(disk("vda", "s2 s1 base", recorded="s1 base"), status="shutoff")
    plan = plan_commit(CommitWish(top=at("vda", "s1")), before)
    merged = vm(disk("vda", "s2 base", recorded="s1 base"), status="shutoff")
    assert kinds(recover(plan, merged, done=1)) == ["set_source", "remove_file"]
    corrected = vm(disk("vda", "s2 base"), status="shutoff")
    assert kinds(recover(plan, corrected, done=1)) == ["remove_file"]


def test_a_definition_offline_is_moved_with_the_merge():
    before = vm(disk("vda", "s1 base"), status="shutoff")
    plan = plan_commit(CommitWish(), before)
    found = recover(plan, before, done=1, status="shutoff")
    assert kinds(found) == ["commit", "set_source", "remove_file"], "once, not twice"


def test_images_that_appeared_in_between_are_merged_too():
    before = vm(disk("vda", "s2 s1 base"))
    plan = plan_commit(CommitWish(), before)
    (step,) = of(CommitDisk, recover(plan, vm(disk("vda", "s2 extra s1 base"))))
    assert step.merged == paths("vda", "s2 extra s1")


def test_what_was_done_is_not_done_again():
    after = predict(MERGED, COMMIT)
    assert recover(COMMIT, after, existing=(), done=len(COMMIT.steps)).steps == ()
    before = stacked("s1", "s2")
    plan = plan_absent(AbsentWish("s1"), before)
    assert kinds(plan) == ["commit", "rewrite_snapshot", "forget_snapshot", "remove_file"]
    rewritten = predict(before, Plan("db", plan.steps[:2]))
    assert kinds(recover(plan, rewritten, done=1)) == ["forget_snapshot", "remove_file"]
    partly = stacked("s1", targets="vda vdb")
    without = plan_commit(CommitWish(("vda",)), partly)
    assert kinds(recover(without, predict(partly, Plan("db", without.steps[:1])), done=1)) == [
        "rewrite_snapshot",
        "remove_file",
    ]


def test_an_internal_snapshot_is_deleted_once():
    inside = snapshot("inside", mode="internal")
    plan = plan_absent(AbsentWish("inside"), vm(snapshots=[inside]))
    assert recover(plan, vm(snapshots=[inside])).steps == plan.steps
    assert recover(plan, vm()).steps == ()
    without_disk = replace(vm(snapshots=[inside]), disks=(disk("vdb"),))
    assert recover(plan, without_disk).steps[0].images == ()


# --- what must not be lost ---


@pytest.mark.parametrize(
    ("status", "marks", "depth", "stops"),
    [
        ("shutoff", ["pivot vda"], "s1 base", True),
        ("shutoff", [], "s1 base", False),
        ("shutoff", ["pivot vdb"], "s1 base", False),
        ("running", ["pivot vda"], "s1 base", False),
        ("shutoff", ["pivot vda"], "base", False),
    ],
)
@pytest.mark.parametrize("finish", [True, False])
def test_a_stop_in_the_middle_of_a_switch(status, marks, depth, stops, finish):
    plan = plan_commit(CommitWish(), vm(disk("vda", "s1 base")))
    state = vm(disk("vda", depth), status=status)
    if not stops:
        assert recover(plan, state, marks=marks, finish=finish).notes
        return
    with pytest.raises(Conflict, match="either may hold the newer data") as error:
        recover(plan, state, marks=marks, finish=finish)
    assert "do not start it" in error.value.todo
    assert recover(plan, state, marks=marks, done=1, finish=finish).notes, "the switch was seen"


def test_a_stop_while_a_snapshot_was_being_undone():
    state = vm(disk("vda", "s1 base"), disk("vdb"), status="shutoff")
    with pytest.raises(Conflict, match="either may hold the newer data"):
        recover(TAKE, state, marks=["pivot vda"])


@pytest.mark.parametrize("plan", [COMMIT, TAKE], ids=["merge", "snapshot"])
@pytest.mark.parametrize("finish", [True, False])
def test_a_chain_that_cannot_be_read(plan, finish):
    state = replace(MERGED, disks=(MERGED.disks[0], disk("vdb", trouble="torn")))
    with pytest.raises(Unsupported, match="disk vdb of VM db cannot be read: torn"):
        recover(plan, state, finish=finish)


def test_a_chain_that_cannot_be_read_after_its_merge_was_seen():
    state = replace(MERGED, disks=(MERGED.disks[0], disk("vdb", trouble="torn")))
    assert recover(COMMIT, state, done=2).steps


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (None, "the disk was detached"),
        ("other", "another image was put in"),
        ("branch base", "somebody went back by a new overlay"),
    ],
)
@pytest.mark.parametrize("finish", [True, False])
def test_images_that_may_not_have_been_merged_are_kept(chain, why, finish):
    before = vm(disk("vda", "s1 base"), disk("vdb", "s1 base"))
    plan = plan_commit(CommitWish(), before)
    vdb = [disk("vdb", chain)] if chain else []
    found = recover(plan, vm(disk("vda"), *vdb), marks=["pivot vda", "pivot vdb"], finish=finish)
    assert [step.file for step in of(RemoveFile, found)] == [at("vda", "s1")], why
    assert found.notes[1:] == (
        f"db: {at('vdb', 's1')} was left alone, since it may hold what the guest wrote",
    )
    seen = recover(plan, vm(disk("vda"), *vdb), done=2, finish=finish)
    assert len(of(RemoveFile, seen)) == 2, "the run had seen that both were merged"


def test_a_vm_that_was_off_may_have_run_on_a_merged_image_since():
    """Its definition still named it; then the disk was detached with what the guest wrote."""
    before = vm(disk("vda", "s1 base"), disk("vdb"), status="shutoff")
    plan = plan_commit(CommitWish(), before)
    found = recover(plan, vm(disk("vdb")), done=1, status="shutoff")
    assert of(RemoveFile, found) == [] and "may hold what the guest wrote" in found.notes[1]


def test_a_switch_that_was_not_ours_proves_nothing():
    plan = plan_commit(CommitWish(), vm(disk("vda", "s1 base")))
    assert not of(RemoveFile, recover(plan, vm(disk("vda")), marks=[]))
    assert of(RemoveFile, recover(plan, vm(disk("vda")), marks=["pivot vda"]))


@pytest.mark.parametrize(
    ("chain", "merged"),
    [("s2 base", True), ("s3 s2 base", True), ("base", False), ("s3 base", False)],
)
def test_a_merge_in_the_middle_is_seen_by_the_image_above(chain, merged):
    plan = plan_commit(CommitWish(top=at("vda", "s1")), vm(disk("vda", "s2 s1 base")))
    assert bool(of(RemoveFile, recover(plan, vm(disk("vda", chain))))) == merged


def test_a_snapshot_is_not_told_of_a_merge_that_may_not_have_been():
    before = stacked("s1", "s2", targets="vda vdb")
    plan = plan_absent(AbsentWish("s1"), before)
    state = replace(before, disks=(disk("vda", "s2 base"),))
    (step,) = of(RewriteSnapshot, recover(plan, state))
    assert [old for old, _new, _format in step.sources] == [at("vda", "s1")]


@pytest.mark.parametrize("chain", [None, "other"])
def test_an_overlay_that_may_have_been_used_is_kept(chain):
    vdb = [disk("vdb", chain)] if chain else []
    found = recover(TAKE, vm(disk("vda"), *vdb))
    assert [step.file for step in of(RemoveFile, found)] == [at("vda", "s1")]
    assert at("vdb", "s1") in found.notes[1]


# --- what cannot be finished ---

LEFT_ALONE = "db: left alone what could not be merged, and brought the rest in order"


def test_merges_that_are_not_done_stay_undone():
    plan = recover(COMMIT, MERGED, finish=False)
    assert (plan.steps, plan.notes) == ((), (LEFT_ALONE,))


def test_what_was_merged_is_brought_in_order():
    state = replace(MERGED, disks=(disk("vda"), MERGED.disk("vdb")))
    plan = recover(COMMIT, state, done=1, finish=False)
    assert of(RewriteSnapshot, plan) == [
        RewriteSnapshot(
            name,
            tuple((p, at("vda", "base"), "qcow2") for p in gone),
            ("vda",),
        )
        for name, gone in [("s1", ()), ("s2", paths("vda", "s1"))]
    ]
    assert [step.file for step in of(RemoveFile, plan)] == list(paths("vda", "s2 s1"))
    assert not of(ForgetSnapshot, plan) and not of(CommitDisk, plan)
    after = predict(state, plan)
    assert [list(found.overlays) for found in after.snapshots] == [["vdb"], ["vdb"]]


def test_no_file_is_left_that_nobody_knows_of_any_more():
    before = vm(disk("vda", "s1"), snapshots=(snapshot("s1", memory="external"),))
    plan = plan_absent(AbsentWish("s1"), before)
    assert memory_of("s1") in [step.file for step in of(RemoveFile, plan)]
    for count in range(1, len(plan.steps)):
        state = predict(before, replace(plan, steps=plan.steps[:count]))
        found = recover(plan, state, done=count, finish=False)
        assert predict(state, found).snapshots == ()
        removed = {step.file for step in of(RemoveFile, found)}
        assert {step.file for step in of(RemoveFile, plan.steps[count:])} <= removed, count
    assert of(RemoveFile, recover(plan, before, finish=False)) == []


def test_files_that_were_to_be_kept_are_kept():
    plan = plan_commit(CommitWish(delete_merged=False), MERGED)
    state = replace(MERGED, disks=(disk("vda"), MERGED.disk("vdb")))
    found = recover(plan, state, done=1, finish=False, existing=files_of(journal(plan)))
    assert not of(RemoveFile, found)


# --- a way back that switches the VM off first ---


@pytest.mark.parametrize(
    ("wanted", "number", "begun", "steps"),
    [
        ("running", "", False, ["start_vm"]),
        ("running", "", True, ["start_vm"]),
        ("running", "5", True, []),
        ("shutoff", "", True, []),
    ],
    ids=["before", "as it began", "by libvirt", "and stays off"],
)
def test_a_vm_that_was_switched_off_to_go_back_runs_again(wanted, number, begun, steps):
    """libvirt has not left it off, since it was off before; nor does anything else start it."""
    step = RevertInternal("s1", (at("vda", "base"),), wanted)
    plan = Plan("db", (StopVm(), GiveUpCheckpoints((), step.images), step))
    found = snapshot("s1", mode="internal", memory="internal", current=True)
    off = vm(snapshots=[found], status="shutoff")
    marks = (step.mark(number),) if begun else ()
    assert kinds(recover(plan, off, done=2, marks=marks)) == steps
