# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a block commit does about snapshots whose overlays were committed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import CHECKPOINT
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stamp import Seen
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import VmState
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    ForgetSnapshot,
    RemoveFile,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.storage import stored_user
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.snapshot import (
    SnapshotWish,
    plan_present,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.users import (
    harmed,
    what_to_do_about,
)
from builders import at, disk, image, kinds, of, snapshot, vm
from test_plan_history import carry_out, die, journal_of, recovery
from world import World

BOTH = {"vda": "base", "vdb": "base"}


def half(*, proven: bool = True, **values: object) -> VmState:
    """A snapshot of two disks, one of which somebody has committed by hand."""
    found = snapshot("s1", BOTH, **values)
    before = vm(disk("vda"), disk("vdb", "s1 base"), snapshots=[found])
    return replace(before, committed=frozenset([at("vda", "s1")] if proven else []))


def test_the_snapshot_goes_with_what_was_committed_by_hand():
    plan = plan_commit(CommitWish(), half())
    assert kinds(plan) == ["commit", "forget_snapshot", "remove_file", "remove_file"]
    assert [step.file for step in of(RemoveFile, plan)] == [at("vdb", "s1"), at("vda", "s1")]
    kept = plan_commit(CommitWish(delete_merged=False), half())
    assert kinds(kept) == ["commit", "forget_snapshot"]


@pytest.mark.parametrize(("disks", "goes"), [((), True), (("vda",), True), (("vdb",), False)])
def test_also_where_nothing_is_left_to_merge(disks, goes):
    before = replace(vm(disk("vda"), disk("vdb"), snapshots=[snapshot("s1")]),
                     committed=frozenset([at("vda", "s1")]))  # fmt: skip
    plan = plan_commit(CommitWish(disks), before)
    assert kinds(plan) == (["forget_snapshot", "remove_file"] if goes else [])


def test_an_overlay_that_was_removed_after_it_was_committed_by_hand_is_over():
    both = {"vda": "s1", "vdb": "s1"}
    snapshots = [snapshot("s1", BOTH), snapshot("s2", both, parent="s1", created=200)]
    gone = (at("vda", "s1"), at("vda", "s2"))
    before = vm(disk("vda"), disk("vdb", "s2 s1 base"), snapshots=snapshots, missing=gone)
    plan = plan_commit(CommitWish(), before)
    assert [step.name for step in of(ForgetSnapshot, plan)] == ["s2", "s1"]
    upper = replace(before, missing=frozenset(gone[1:]), committed=frozenset(gone[:1]))
    assert len(of(ForgetSnapshot, plan_commit(CommitWish(), upper))) == 2
    # where the disk does not write to the point, that may be whole
    elsewhere = replace(before, disks=(disk("vda", "other"), before.disks[1]))
    assert not of(ForgetSnapshot, plan_commit(CommitWish(), elsewhere))


def test_what_may_be_the_only_copy_stays_and_is_said():
    plan = plan_commit(CommitWish(), half(proven=False))
    assert [step.file for step in of(RemoveFile, plan)] == [at("vdb", "s1")]
    assert not of(ForgetSnapshot, plan)
    (note,) = plan.notes
    assert at("vda", "s1") in note and "vm_snapshot with name s1, state absent" in note


@pytest.mark.parametrize("values", [{"kind": CHECKPOINT}, {"ours": False}])
def test_what_is_not_ours_to_drop_stays(values):
    before = half(**values)
    before = replace(before, disks=(disk("vda"), disk("vdb")))
    assert plan_commit(CommitWish(), before).steps == ()


def test_with_one_disk_still_on_its_overlay_it_stays():
    assert plan_commit(CommitWish(("vda",)), half()).steps == ()
    assert plan_commit(CommitWish(max_depth=2), half()).steps == ()


def test_whose_removal_leads_on_is_said():
    before = vm(disk("vda", "s1 base"), snapshots=[
        snapshot("s1"),
        snapshot("s2", {"vda": "s1"}, created=200, kind=CHECKPOINT),
    ])  # fmt: skip
    mine, other = f"image {at('vda', 's2')}", "image /vms/other.qcow2"
    assert what_to_do_about([mine], before).startswith("remove checkpoint s2 first (vm_checkpoint")
    assert "qcow2_overlay with path /vms/other.qcow2" in what_to_do_about([other], before)
    # An image that nobody records, and that a snapshot needs, is no one's to remove.
    below = vm(disk("vda"), snapshots=[snapshot("s3", {"vda": "left"})])
    below = replace(below, branches=((image(at("vda", "left")), image("/vms/other.qcow2")),))
    assert what_to_do_about([other], below).startswith("remove snapshot s3 first")
    both = what_to_do_about([other, "image /vms/third.qcow2"], before)
    assert "remove /vms/other.qcow2, /vms/third.qcow2 if nobody needs them" in both
    assert "qcow2_overlay with path /vms/third.qcow2, state absent" in both
    stored = what_to_do_about([stored_user("z1", "db"), other], before)
    assert "(vm_storage_snapshot with name z1, state absent)" in stored and "other" not in stored
    assert "detach the other user" in what_to_do_about(["disk vda of VM twin"], before)


@pytest.mark.parametrize(("state", "left"), [("disk-snapshot", False), ("shutoff", True)])
def test_an_overlay_on_what_a_later_snapshot_found_running_is_in_nobodys_way(state, left):
    """It was committed by hand: what it stands on has changed already."""
    before = vm(disk("vda", "s2 base"), snapshots=[
        snapshot("s1"), snapshot("s2", created=200, state=state)
    ])  # fmt: skip
    user = f"image {at('vda', 's1')}"
    assert harmed(at("vda", "base"), [user, "disk vda of VM twin"], before) == [
        *([user] if left else []),
        "disk vda of VM twin",
    ]


@pytest.mark.parametrize("written", [True, False, None])
def test_what_stands_there_for_a_snapshot_that_has_lost_its_content_is_in_nobodys_way(written):
    """s2 goes back to an overlay of s1, below which somebody has written since."""
    before = vm(disk("vda", "s3 base"), snapshots=[snapshot("s2", {"vda": "s1"})])
    before = replace(
        before,
        branches=(disk("vda", "s1 base").chain,),
        seen=(Seen("s2", at("vda", "base"), written),),
    )
    user, other = f"image {at('vda', 's1')}", "image /vms/others.qcow2"
    left = [other] if written else [user, other]
    assert harmed(at("vda", "base"), [user, other], before) == left


@pytest.mark.parametrize("moment", range(16))
def test_a_run_that_dies_is_finished(moment):
    world = World.fresh(("vda", "vdb"))
    taking = plan_present(SnapshotWish("s1", "external", quiesce="never"), world.observe())
    carry_out(world, taking)
    world.commit_by_hand("vda")
    world.settle()
    state = replace(world.observe(), committed=frozenset([at("vda", "s1")]))
    plan = plan_commit(CommitWish(), state)
    assert kinds(plan) == ["commit", "forget_snapshot", "remove_file", "remove_file"]
    journal = journal_of(world, plan)
    die(world, plan.steps, journal, moment, own=True)
    carry_out(world, recovery(world, journal))
    after = world.observe()
    assert after.snapshots == () and [len(found.chain) for found in after.disks] == [1, 1]
    assert sorted(world.files) == [at("vda", "base"), at("vdb", "base")]
