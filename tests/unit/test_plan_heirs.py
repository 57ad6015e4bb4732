# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An overlay that another snapshot needs stays on record when the one that made it goes."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    parse_snapshot,
    rewritten,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import VmState
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CreateOverlay,
    ForgetSnapshot,
    RemoveFile,
    RewriteSnapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.absent import (
    AbsentWish,
    plan_absent,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.pull import PullWish, plan_pull
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.revert import (
    RevertWish,
    plan_reverted,
)
from builders import at, disk, of, snapshot, vm
from recorded import recorded


def been_back(*, ours: bool = True) -> VmState:
    """After s1, s2, s3 the VM went back to s2, and then to s1: s2 has had two overlays."""
    first = snapshot("s1", {"vda": "base"}, created=1, current=True)
    second = snapshot("s2", {"vda": "s1"}, created=2)
    third = replace(snapshot("s3", {"vda": "s2"}, created=3), ours=ours, parent="s2")
    first, second = (
        replace(
            found,
            former=(at("vda", found.name),),
            disks=tuple(replace(entry, file=f"{entry.file}.r1") for entry in found.disks),
        )
        for found in (first, second)
    )
    active = first.overlays["vda"]
    beside = disk("vda", "s2 s1 base")
    state = vm(disk("vda", f"{active} base"), snapshots=[first, second, third])
    return replace(state, branches=(beside.chain,), missing=frozenset(second.overlays.values()))


def test_who_needs_it_records_it_and_it_goes_with_that_one():
    before = been_back()
    plan = plan_absent(AbsentWish("s2"), before)
    assert plan.steps == (
        RewriteSnapshot("s3", former=(at("vda", "s2"),)),
        ForgetSnapshot("s2"),
    )
    after = predict(before, plan)
    assert after.snapshot("s3").former == (at("vda", "s2"),)
    gone = [step.file for step in of(RemoveFile, plan_absent(AbsentWish("s3"), after))]
    assert gone[-2:] == [at("vda", "s2"), at("vda", "s1")]


def test_what_only_another_tools_snapshot_needs_any_of_ours_records():
    before = been_back(ours=False)
    plan = plan_absent(AbsentWish("s2"), before)
    assert of(RewriteSnapshot, plan) == [RewriteSnapshot("s1", former=(at("vda", "s2"),))]
    after = predict(before, plan)
    gone = [step.file for step in of(RemoveFile, plan_absent(AbsentWish("s3"), after))]
    assert at("vda", "s2") in gone


def test_without_one_of_ours_a_note_says_what_becomes_of_it():
    before = been_back(ours=False)
    alone = replace(before, snapshots=tuple(s for s in before.snapshots if s.name != "s1"))
    plan = plan_absent(AbsentWish("s2"), alone)
    assert of(RewriteSnapshot, plan) == []
    path = at("vda", "s2")
    [note] = plan.notes
    assert f"{path} was kept, since snapshot s3 of another tool needs it" in note
    assert f"qcow2_overlay with path {path}, state absent" in note


def test_nobody_records_what_all_that_need_it_take_along():
    assert of(RewriteSnapshot, plan_absent(AbsentWish("s2", subtree=True), been_back())) == []
    assert of(RewriteSnapshot, plan_absent(AbsentWish("s3"), been_back())) == []


def test_what_is_pulled_out_of_a_chain_is_handed_on_where_it_stays():
    first = snapshot("s1", {"vda": "base"}, created=1)
    second = snapshot("s2", {"vda": "s1"}, created=2)
    other = snapshot("s3", {"vda": "x"}, created=3)
    state = vm(disk("vda", "s2 s1 base"), snapshots=[first, second, other])
    state = replace(state, branches=(disk("vda", "x s1 base").chain,))
    plan = plan_pull(PullWish(), state)
    # what stays in use is ours, too, and goes when somebody goes back to the one that is left
    made = (at("vda", "s1"), at("vda", "s2"))
    assert of(RewriteSnapshot, plan)[-1] == RewriteSnapshot("s3", former=made)
    assert of(RemoveFile, plan) == []


def test_it_stands_in_the_note_after_those_that_were_there():
    xml = recorded("snapshot/external-memory.xml")
    once = rewritten(xml, {}, former=["/a b.qcow2"])
    assert parse_snapshot(rewritten(once, {}, former=["/c"])).former == ("/a b.qcow2", "/c")


def test_a_new_overlay_gets_a_name_that_none_on_record_has():
    """The VM stands on the second overlay of s1, and the third stays for another snapshot."""
    state = been_back()
    now, third, fourth = (at("vda", "s1").replace(".qcow2", f".r{n}.qcow2") for n in (1, 2, 3))
    first = replace(
        state.snapshot("s1"),
        former=(at("vda", "s1"), third),
        disks=(replace(state.snapshot("s1").disks[0], file=now),),
    )
    state = replace(
        state,
        disks=(disk("vda", f"{now} base"),),
        snapshots=(first, *state.snapshots[1:]),
    )
    created = of(CreateOverlay, plan_reverted(RevertWish("s1"), state))
    assert [step.file for step in created] == [fourth]
