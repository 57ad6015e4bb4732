# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps make a snapshot absent."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image import Encryption
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stamp import Seen
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CommitDisk,
    DeleteInternal,
    ForgetSnapshot,
    RemoveFile,
    RewriteSnapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.absent import (
    AbsentWish,
    plan_absent,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.revert import (
    RevertWish,
    plan_reverted,
)
from builders import at, disk, image, kinds, memory_of, of, paths, snapshot, stacked, vm


def with_snapshots(before, *more):
    return replace(before, snapshots=(*before.snapshots, *more))


@pytest.mark.parametrize("status", ["running", "shutoff"])
@pytest.mark.parametrize(
    ("name", "merged", "base", "how", "left"),
    [
        ("s3", "s3", "s2", "active", "s2 s1 base"),
        ("s2", "s2", "s1", "middle", "s3 s1 base"),
        ("s1", "s1", "base", "middle", "s3 s2 base"),
    ],
)
def test_newest_middle_and_oldest(name, merged, base, how, left, status):
    before = stacked("s1", "s2", "s3", targets="vda vdb", status=status)
    plan = plan_absent(AbsentWish(name, bandwidth=5), before)
    for target, step in zip(("vda", "vdb"), of(CommitDisk, plan), strict=True):
        assert (step.target, step.merged) == (target, paths(target, merged))
        assert (step.base, step.bandwidth) == (at(target, base), 5)
        assert step.how == (how if status == "running" else "offline")
    after = predict(before, plan)
    assert [disk.files for disk in after.disks] == [paths("vda", left), paths("vdb", left)]
    assert name not in [found.name for found in after.snapshots]
    assert plan_absent(AbsentWish(name), after).steps == ()


def test_the_steps_in_order():
    before = stacked("s1", "s2", targets="vda vdb", memory="external")
    assert kinds(plan_absent(AbsentWish("s1"), before)) == [
        "commit", "commit", "rewrite_snapshot", "forget_snapshot",
        "remove_file", "remove_file", "remove_file",
    ]  # fmt: skip


def test_children_learn_where_their_point_is_now():
    before = stacked("s1", "s2", targets="vda vdb")
    (step,) = of(RewriteSnapshot, plan_absent(AbsentWish("s1"), before))
    assert step.name == "s2"
    assert step.sources == tuple(
        (at(target, "s1"), at(target, "base"), "qcow2") for target in ("vda", "vdb")
    )


def test_what_is_not_there_needs_nothing():
    assert plan_absent(AbsentWish("s9", subtree=True), stacked("s1")).steps == ()
    assert plan_absent(AbsentWish("s9", metadata_only=True), vm()).steps == ()


def test_a_subtree_is_merged_in_one_go():
    before = stacked("s1", "s2", "s3", memory="external")
    plan = plan_absent(AbsentWish("s2", subtree=True), before)
    (step,) = of(CommitDisk, plan)
    assert (step.merged, step.base) == (paths("vda", "s3 s2"), at("vda", "s1"))
    assert [s.name for s in of(ForgetSnapshot, plan)] == ["s3", "s2"]
    assert [s.file for s in of(RemoveFile, plan)] == [
        *paths("vda", "s3 s2"),
        memory_of("s2"),
        memory_of("s3"),
    ]


@pytest.mark.parametrize("subtree", [False, True])
def test_metadata_only_touches_no_image(subtree):
    before = stacked("s1", "s2", "s3", memory="external")
    plan = plan_absent(AbsentWish("s2", subtree=subtree, metadata_only=True), before)
    assert plan.steps == tuple(
        ForgetSnapshot(name) for name in (["s3", "s2"] if subtree else ["s2"])
    )


def test_metadata_can_go_where_nothing_else_can():
    before = vm(disk(trouble="torn"), snapshots=[snapshot("s1")])
    assert plan_absent(AbsentWish("s1", metadata_only=True), before).steps


def test_a_snapshot_of_memory_alone():
    only = snapshot("s1", {"vda": "base"}, mode="no", memory="external")
    plan = plan_absent(AbsentWish("s1"), vm(snapshots=[only]))
    assert plan.steps == (
        ForgetSnapshot("s1"),
        RemoveFile(memory_of("s1"), "memory of snapshot s1"),
    )


# --- chains that were changed by others ---


def test_an_overlay_that_is_in_no_chain_any_more_is_removed():
    """One of two disks was committed by hand."""
    before = stacked("s1", targets="vda vdb")
    before = replace(before, disks=(disk("vda", "base"), before.disk("vdb")))
    plan = plan_absent(AbsentWish("s1"), before)
    assert [step.target for step in of(CommitDisk, plan)] == ["vdb"]
    assert of(RemoveFile, plan)[-1] == RemoveFile(
        at("vda", "s1"), "overlay of snapshot s1, in no chain"
    )
    gone = replace(before, missing=frozenset([at("vda", "s1")]))
    assert at("vda", "s1") not in [
        s.file for s in of(RemoveFile, plan_absent(AbsentWish("s1"), gone))
    ]


def test_the_overlay_of_a_detached_disk_is_left_alone():
    """It holds what was written to that disk since; nothing was merged."""
    before = stacked("s1", targets="vda vdb")
    before = replace(before, disks=before.disks[:1])
    plan = plan_absent(AbsentWish("s1"), before)
    assert [step.file for step in of(RemoveFile, plan)] == [at("vda", "s1")]
    assert plan.notes == (
        f"db: {at('vdb', 's1')} was left as it is, since the VM has no disk vdb any more",
    )
    gone = replace(before, missing=frozenset([at("vdb", "s1")]))
    assert plan_absent(AbsentWish("s1"), gone).notes == ()


def test_an_unreadable_chain_is_refused():
    before = vm(disk(trouble="torn"), snapshots=[snapshot("s1")])
    with pytest.raises(Unsupported, match="disk vda of VM db cannot be read: torn") as found:
        plan_absent(AbsentWish("s1"), before)
    assert "metadata_only" in found.value.todo
    other = vm(disk("vda", "s1 base"), disk("vdb", trouble="torn"), snapshots=[snapshot("s1")])
    assert plan_absent(AbsentWish("s1"), other).steps, "the snapshot does not cover vdb"


def test_a_foreign_image_between_the_overlays_of_a_subtree():
    before = vm(
        disk("vda", "s2 byhand s1 base"),
        snapshots=[snapshot("s1"), snapshot("s2", {"vda": "byhand"}, parent="s1")],
    )
    with pytest.raises(Conflict, match=f"{at('vda', 'byhand')} of disk vda") as found:
        plan_absent(AbsentWish("s1", subtree=True), before)
    assert "vm_blockcommit" in found.value.todo
    assert plan_absent(AbsentWish("s2"), before).steps, "one by one they can be removed"


@pytest.mark.parametrize("below", ["", " /cloud", " base2"])
def test_an_overlay_that_became_the_own_disk_is_not_merged_into_a_template(below):
    """What it stood on was pulled into it by hand, or merged away."""
    before = vm(disk("vda", f"s1{below}"), snapshots=[snapshot("s1")])
    plan = plan_absent(AbsentWish("s1"), before)
    assert kinds(plan) == ["forget_snapshot"]
    assert f"{at('vda', 's1')} stays in use by vda" in plan.notes[0]
    # nor with what was taken above it since
    later = snapshot("s2", {"vda": "s1"}, parent="s1")
    before = vm(disk("vda", f"s2 s1{below}"), snapshots=[snapshot("s1"), later])
    plan = plan_absent(AbsentWish("s1", subtree=True), before)
    assert [step.base for step in of(CommitDisk, plan)] == [at("vda", "s1")]


def test_a_branch_that_goes_back_to_the_base_keeps_it():
    before = with_snapshots(stacked("s1"), snapshot("branch", {"vda": "base"}))
    with pytest.raises(Conflict, match="is what snapshot branch goes back to"):
        plan_absent(AbsentWish("s1"), before)
    # it may go together with what stood in the way
    assert plan_absent(AbsentWish("branch"), before).steps


def test_a_branch_that_goes_too_is_not_in_the_way():
    root = snapshot("root", {"vda": "older"}, current=False)
    left = snapshot("left", {"vda": "root"}, parent="root")
    right = snapshot("right", {"vda": "root"}, parent="root")
    before = vm(disk("vda", "left root older"), snapshots=[root, left, right])
    plan = plan_absent(AbsentWish("root", subtree=True), before)
    assert [step.merged for step in of(CommitDisk, plan)] == [paths("vda", "left root")]
    assert of(RemoveFile, plan)[-1].file == at("vda", "right")
    with pytest.raises(Conflict, match="snapshot right goes back to"):
        plan_absent(AbsentWish("left"), before)


# --- internal snapshots ---


def internal(name="inside", on="base", **values):
    return snapshot(name, {"vda": on}, mode="internal", **values)


def test_an_internal_snapshot_is_left_to_libvirt():
    before = vm(disk("vda"), disk("vdb"), snapshots=[
        snapshot("inside", {"vda": "base", "vdb": "base"}, mode="internal", memory="internal")
    ])  # fmt: skip
    plan = plan_absent(AbsentWish("inside"), before)
    assert plan.steps == (DeleteInternal("inside", (at("vda", "base"), at("vdb", "base"))),)
    assert predict(before, plan).snapshots == ()


def test_internal_in_a_lower_image():
    before = vm(disk("vda", "s1 base"), snapshots=[internal(), snapshot("s1", parent="inside")])
    with pytest.raises(Conflict, match="not the active image of disk vda") as found:
        plan_absent(AbsentWish("inside"), before)
    assert f"'disks: [vda]' and 'base: {at('vda', 'base')}'" in found.value.todo
    assert "switch the VM off" in found.value.todo
    off = replace(before, status="shutoff")
    plan = plan_absent(AbsentWish("inside"), off)
    assert plan.steps == (DeleteInternal("inside", (at("vda", "base"),), below=True),)
    assert [found.name for found in predict(off, plan).snapshots] == ["s1"]
    # the overlay above it goes, and it stays what it is
    assert kinds(plan_absent(AbsentWish("s1"), before)) == [
        "commit",
        "forget_snapshot",
        "remove_file",
    ]


def test_the_advice_about_an_internal_snapshot_between_overlays_leads_on():
    """Merging all would lose it, so the image that holds it has to be named."""
    between = disk("vda", "s2 s1 base", images={"s1": {"internal": ("inside",)}})
    found = [snapshot("s1"), internal(on="s1", parent="s1"), snapshot("s2", {"vda": "s1"})]
    before = vm(between, snapshots=found)
    with pytest.raises(Conflict, match="not the active image of disk vda") as refused:
        plan_absent(AbsentWish("inside"), before)
    assert f"'base: {at('vda', 's1')}'" in refused.value.todo
    with pytest.raises(Conflict, match="holds internal snapshots"):
        plan_commit(CommitWish(), before)
    merging = plan_commit(CommitWish(("vda",), base=at("vda", "s1")), before)
    after = predict(before, merging)
    assert kinds(plan_absent(AbsentWish("inside"), after)) == ["delete_internal"]


def test_an_internal_snapshot_beside_the_present_state_goes_with_its_image():
    """After going back to the external one below it."""
    outer = replace(snapshot("s1"), former=(at("vda", "old"),))
    beside = (image(at("vda", "old"), internal=("inside",)), image(at("vda", "base")))
    before = vm(disk("vda", "s1 base"), snapshots=[outer, internal(on="old", parent="s1")])
    before = replace(before, branches=(beside,))
    with pytest.raises(Conflict, match="is what snapshot inside goes back to") as refused:
        plan_absent(AbsentWish("s1"), before)
    assert "remove snapshot inside first" in refused.value.todo
    plan = plan_absent(AbsentWish("inside"), before)
    assert kinds(plan) == ["forget_snapshot", "remove_file"]
    (gone,) = of(RemoveFile, plan)
    # What others have left may stand on it.
    assert (gone.file, gone.spare) == (at("vda", "old"), True)
    assert plan_absent(AbsentWish("s1"), predict(before, plan)).steps


def test_an_internal_snapshot_is_deleted_from_an_image_beside_that_stays():
    """Another one needs the image; where the disk is not in it, libvirt deletes from the rest."""
    outer = replace(snapshot("s1"), former=(at("vda", "old"),))
    there = {"vda": "old", "vdb": "old"}
    inside = snapshot("inside", there, mode="internal", parent="s1")
    beside = (image(at("vda", "old"), internal=("inside",)), image(at("vda", "base")))
    found = [outer, inside, snapshot("s2", {"vda": "old"})]
    before = vm(disk("vda", "s1 base"), disk("vdb", "old"), snapshots=found, status="shutoff")
    before = replace(before, branches=(beside,))
    (step,) = plan_absent(AbsentWish("inside"), before).steps
    assert step == DeleteInternal("inside", (at("vdb", "old"),), beside=(at("vda", "old"),))
    after = predict(before, plan_absent(AbsentWish("inside"), before))
    assert after.branches[0][0].snapshots == () and after.snapshot("inside") is None
    sealed = beside[0]._replace(encrypt=Encryption("luks"))
    locked = replace(before, branches=((sealed, beside[1]),))
    (step,) = plan_absent(AbsentWish("inside"), locked).steps
    assert step == DeleteInternal("inside", (at("vdb", "old"),))


def test_a_former_overlay_is_kept_for_those_whom_nobody_records():
    """What the snapshot itself stands on there is as good as any."""
    inner = replace(snapshot("s1"), former=(at("vda", "old"),))
    (gone,) = of(RemoveFile, plan_absent(AbsentWish("s1"), vm(disk("vda"), snapshots=[inner])))[1:]
    assert (gone.file, gone.spare) == (at("vda", "old"), True)


def test_a_note_says_which_overlay_stays_that_no_snapshot_records():
    """What it stands on is the VM's own disk, which nobody is told to remove."""
    found = snapshot("s1", {"vda": "left"})
    before = replace(
        vm(disk("vda", "base"), snapshots=[found]), branches=(disk("vda", "left old").chain,)
    )
    (note,) = plan_absent(AbsentWish("s1"), before).notes
    assert f"{at('vda', 'left')} was kept, since no snapshot records who has made it" in note
    assert f"qcow2_overlay with path {at('vda', 'left')}, state absent" in note


def kept_of_s2(*, written: bool | None = False, current: str = "s1", **values):
    """After s1 and s2 the VM went back to s1, and kept what was in the overlay of s2."""
    found = [
        snapshot("s1", current=current == "s1"),
        snapshot("s2", {"vda": "s1"}, parent="s1"),
        snapshot("kept", {"vda": "s2"}, parent="s2", current=current == "kept"),
    ]
    found[0] = replace(
        found[0],
        former=(at("vda", "s1"),),
        disks=(replace(found[0].disks[0], file=at("vda", "s1.r1")),),
    )
    return replace(
        vm(disk("vda", "s1.r1 base"), snapshots=found),
        branches=(disk("vda", "s2 s1 base").chain,),
        missing=frozenset([at("vda", "kept")]),
        seen=(Seen("kept", at("vda", "s2"), written),),
        **values,
    )


def test_the_overlay_of_one_that_stays_goes_with_the_only_point_it_was_kept_for():
    before = kept_of_s2()
    plan = plan_absent(AbsentWish("kept"), before)
    assert kinds(plan) == ["forget_snapshot", "remove_file"]
    (gone,) = of(RemoveFile, plan)
    assert (gone.file, gone.spare) == (at("vda", "s2"), True)
    after = predict(before, plan)
    assert plan_reverted(RevertWish("s2"), after).steps


@pytest.mark.parametrize(
    "before",
    [
        kept_of_s2(written=True),
        kept_of_s2(written=None),
        kept_of_s2(current="kept"),  # somebody has moved the VM
        replace(kept_of_s2(), disks=()),  # the disk was detached, or is another one:
        replace(kept_of_s2(), disks=(disk("vda", "/other"),)),
        with_snapshots(kept_of_s2(), snapshot("more", {"vda": "s2"}, parent="s2")),
        with_snapshots(kept_of_s2(), snapshot("in", {"vda": "s2"}, parent="s2", mode="internal")),
    ],
)
def test_it_stays_where_it_may_hold_more_or_another_needs_it(before):
    plan = plan_absent(AbsentWish("kept"), before)
    assert at("vda", "s2") not in [step.file for step in of(RemoveFile, plan)]


def test_it_stays_for_an_internal_point_beside_which_there_may_be_more():
    before = kept_of_s2()
    inside = snapshot("kept", {"vda": "s2"}, parent="s2", mode="internal")
    before = replace(before, snapshots=(*before.snapshots[:2], inside))
    assert of(RemoveFile, plan_absent(AbsentWish("kept"), before)) == []


def test_internal_in_the_overlay_that_would_be_merged():
    top = disk("vda", "s1 base", images={"s1": {"internal": ("inside",)}})
    before = vm(top, snapshots=[snapshot("s1"), internal(on="s1", parent="s1")])
    with pytest.raises(Conflict, match="internal snapshots: inside") as refused:
        plan_absent(AbsentWish("s1"), before)
    assert "(vm_snapshot with name inside, state absent)" in refused.value.todo
    with pytest.raises(Conflict) as refused:
        plan_absent(AbsentWish("s1"), replace(before, snapshots=before.snapshots[:1]))
    assert f"qcow2_snapshot with path {at('vda', 's1')}, name inside" in refused.value.todo
    after = predict(before, plan_absent(AbsentWish("inside"), before))
    assert plan_absent(AbsentWish("s1"), after).steps


def test_internal_snapshots_of_a_subtree_go_children_first():
    before = vm(snapshots=[internal("a"), internal("a1", parent="a"), internal("a2", parent="a1")])
    plan = plan_absent(AbsentWish("a", subtree=True), before)
    assert [step.name for step in of(DeleteInternal, plan)] == ["a2", "a1", "a"]
    assert kinds(plan) == ["delete_internal"] * 3


@pytest.mark.parametrize("now", [[], [disk("vdb", "other")]], ids=["went", "exchanged"])
def test_a_detached_disk_keeps_an_internal_snapshot_only_while_the_vm_runs(now):
    """libvirt 9.0 dies of a target that is gone, and refuses other images and media."""
    both = snapshot("inside", {"vda": "base", "vdb": "base"}, mode="internal")
    off = vm(disk("vda"), *now, snapshots=[both], status="shutoff")
    plan = plan_absent(AbsentWish("inside"), off)
    assert plan.steps == (DeleteInternal("inside", (at("vda", "base"),)),)
    with pytest.raises(Conflict, match=f"vdb of VM db was {at('vdb', 'base')}") as refused:
        plan_absent(AbsentWish("inside"), replace(off, status="running"))
    assert "switch the VM off" in refused.value.todo


def test_an_unreadable_chain_does_not_keep_an_internal_snapshot():
    before = vm(disk(trouble="torn"), snapshots=[internal()])
    assert kinds(plan_absent(AbsentWish("inside"), before)) == ["delete_internal"]


def test_what_goes_is_not_corrected_as_well():
    inside = snapshot(
        "inside", {"vda": "s1", "vdb": "base"}, mode="internal", without=["vda"], parent="s1"
    )
    before = vm(disk("vda", "s1 base"), disk("vdb"), snapshots=[snapshot("s1"), inside])
    plan = plan_absent(AbsentWish("s1", subtree=True), before)
    assert kinds(plan) == ["commit", "delete_internal", "forget_snapshot", "remove_file"]
    assert [step.name for step in of(ForgetSnapshot, plan)] == ["s1"]
