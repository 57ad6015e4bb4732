# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks a VM has after it went back, and what becomes of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import Disk, Source
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    NotFound,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CreateOverlay,
    DefineAsOf,
    RemoveFile,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.revert import (
    RevertWish,
    plan_reverted,
)
from builders import at, definition, disk, image, of, snapshot, vm

S1 = snapshot("s1", {"vda": "base"}, ours=True)


def change(state) -> DefineAsOf:
    (step,) = of(DefineAsOf, plan_reverted(RevertWish("s1"), state))
    return step


def test_what_came_is_detached_and_its_image_stays() -> None:
    state = vm(disk("vda", "s1 base"), disk("vdb", "new"), snapshots=[S1])
    plan = plan_reverted(RevertWish("s1"), state)
    assert change(state).detached == (("vdb", at("vdb", "new")),)
    assert all(at("vdb", "new") != step.file for step in of(RemoveFile, plan))
    assert [found.target for found in predict(state, plan).disks] == ["vda"]
    assert any(at("vdb", "new") in note and "stays" in note for note in plan.notes)


def test_what_is_given_up_stays_where_others_stand_on_it() -> None:
    state = vm(disk("vda", "s1 base"), snapshots=[S1])
    (gone,) = of(RemoveFile, plan_reverted(RevertWish("s1"), state))
    assert (gone.file, gone.spare) == (at("vda", "s1"), True)


def test_a_disk_that_was_left_out_is_the_same_one_whatever_was_pulled_into_it() -> None:
    """s2 left out vdb, which was on an overlay of s1 then, and stands alone since it was pulled."""
    s1 = snapshot("s1", {"vda": "base", "vdb": "vdb"}, created=1)
    s2 = snapshot("s2", {"vda": "s1", "vdb": "s1"}, without=["vdb"], created=2)
    now = vm(disk("vda", "s1.r1 base"), disk("vdb", "s1.r1 vdb"), snapshots=[s1, s2])
    state = replace(now, branches=(disk("vda", "s1 base").chain, disk("vdb", "s1").chain))
    (step,) = of(DefineAsOf, plan_reverted(RevertWish("s2"), state))
    assert step.attached == () and step.detached == ()


def test_a_new_overlay_gets_no_name_that_a_snapshot_knows() -> None:
    left = replace(S1, former=("/vms/db.vda.s1.r1.qcow2",))
    state = vm(disk("vda", "s1 base"), snapshots=[left])
    (step,) = of(CreateOverlay, plan_reverted(RevertWish("s1"), state))
    assert step.file == "/vms/db.vda.s1.r2.qcow2"


def test_a_new_overlay_gets_no_name_that_was_left_of_another_tools_snapshot() -> None:
    theirs = replace(S1, ours=False)
    state = vm(disk("vda", "s1 base"), snapshots=[theirs])
    left = {"/vms/db.vda.s1.r1.qcow2", "/vms/db.vda.s1.r2.qcow2"}
    (step,) = of(CreateOverlay, plan_reverted(RevertWish("s1"), replace(state, numbered=left)))
    assert step.file == "/vms/db.vda.s1.r3.qcow2"


def test_what_came_only_into_the_definition_is_told_too() -> None:
    state = vm(disk("vda", "s1 base"), snapshots=[S1])
    coming = Disk("vdz", "disk", Source("file", "/z"), "raw")
    state = replace(state, config=definition((*state.live.disks, coming)))
    assert change(state).detached == (("vdz", "/z"),)


def test_what_went_is_attached_again_where_the_snapshot_has_it() -> None:
    both = snapshot("s1", {"vda": "base", "vdb": "base"})
    branch = (image(at("vdb", "base")),)
    state = replace(vm(disk("vda", "s1 base"), snapshots=[both]), branches=(branch,))
    plan = plan_reverted(RevertWish("s1"), state)
    assert change(state).attached == (("vdb", "/vms/db.vdb.s1.r1.qcow2"),)
    after = predict(state, plan).disk("vdb")
    assert after is not None and after.files[1:] == (at("vdb", "base"),)


def test_another_image_at_the_target_is_neither_removed_nor_merged() -> None:
    both = snapshot("s1", {"vda": "base", "vdb": "base"})
    later = snapshot("s2", {"vdb": "other"}, created=200)
    state = vm(disk("vda", "s1 base"), disk("vdb", "s2 other"), snapshots=[both, later])
    state = replace(state, branches=((image(at("vdb", "base")),),))
    plan = plan_reverted(RevertWish("s1"), state)
    assert change(state).detached == (("vdb", at("vdb", "s2")),)
    assert at("vdb", "s2") not in [step.file for step in of(RemoveFile, plan)]


def test_what_was_left_out_keeps_what_it_holds() -> None:
    part = snapshot("s1", {"vda": "base", "vdb": "base"}, without=["vdb"])
    state = vm(disk("vda", "s1 base"), disk("vdb", "later base"), snapshots=[part])
    plan = plan_reverted(RevertWish("s1"), state)
    assert ("vdb", at("vdb", "later"), "qcow2") in change(state).disks
    assert any("not part of snapshot s1" in note for note in plan.notes)


def test_what_was_left_out_stays_where_its_image_of_then_is_gone() -> None:
    """Somebody has gone back to a snapshot below, which gave that image up."""
    part = snapshot("s1", {"vda": "base", "vdb": "then"}, without=["vdb"])
    state = vm(
        disk("vda", "s1 base"),
        disk("vdb", "later base"),
        snapshots=[part],
        missing=[at("vdb", "then")],
    )
    step = change(state)
    assert ("vdb", at("vdb", "later"), "qcow2") in step.disks
    assert (step.detached, step.attached) == ((), ())


def test_what_was_left_out_does_not_come_back_where_another_snapshot_needs_it() -> None:
    """The guest would write to it, with no overlay in between."""
    part = snapshot("s1", {"vda": "base", "vdb": "then"}, without=["vdb"])
    other = snapshot("s2", {"vdb": "then"}, created=200)
    state = vm(disk("vda", "s1 base"), disk("vdb", "new"), snapshots=[part, other])
    state = replace(state, branches=((image(at("vdb", "then")),),))
    with pytest.raises(Conflict, match="which snapshot s1 leaves out, is what snapshot s2"):
        plan_reverted(RevertWish("s1"), state)
    alone = replace(state, snapshots=(part,))
    assert change(alone).attached == (("vdb", at("vdb", "then")),)


def test_the_image_of_an_internal_snapshot_that_another_branch_stands_on() -> None:
    """The guest would write to it, below what the other one goes back to."""
    inside = snapshot("inside", {"vda": "low"}, mode="internal")
    other = snapshot("kept", {"vda": "high"}, created=200)
    low = image(at("vda", "low"), internal=("inside",))
    branch = (image(at("vda", "high")), low, image(at("vda", "base")))
    state = replace(vm(disk("vda", "now base"), snapshots=[inside, other]), branches=(branch,))
    with pytest.raises(Conflict, match="snapshot kept goes back to or stands on"):
        plan_reverted(RevertWish("inside"), state)


@pytest.mark.parametrize("kind", ["disk", "cdrom"])
def test_a_file_of_then_that_is_gone_is_named(kind: str) -> None:
    lost = Disk("sda", kind, Source("file", "/lost"), "raw", readonly=kind == "cdrom")
    before = replace(S1.before, disks=(*S1.before.disks, lost))
    found = replace(S1, before=before)
    state = vm(disk("vda", "s1 base"), snapshots=[found], missing=["/lost"])
    with pytest.raises(NotFound, match="disk sda of VM db was /lost"):
        plan_reverted(RevertWish("s1"), state)


def test_a_disk_that_the_guest_had_only_live_is_there_again() -> None:
    both = snapshot("s1", {"vda": "base", "vdb": "base"})
    later = replace(both.before, disks=both.before.disks[:1])
    state = vm(disk("vda", "s1 base"), snapshots=[replace(both, later=later)])
    state = replace(state, branches=((image(at("vdb", "base")),),))
    plan = plan_reverted(RevertWish("s1"), state)
    assert [target for target, _image, _format in change(state).disks] == ["vda", "vdb"]
    assert any("it is in its definition now" in note for note in plan.notes)


def test_other_hardware_of_then_is_a_reason_to_go_back_and_is_named() -> None:
    then = replace(S1.before, shape=(("memory", 1), ("vcpu", 1), ("interface", 1)))
    found = replace(S1, before=then, state="shutoff", current=True)
    there = replace(disk("vda", "s1 base"), unwritten=True)
    state = vm(there, snapshots=[found], status="shutoff")
    same = replace(state, live=replace(state.live, shape=then.shape))
    assert plan_reverted(RevertWish("s1"), same).steps == ()
    now = replace(state.live, shape=(("memory", 2), ("vcpu", 1)))
    plan = plan_reverted(RevertWish("s1"), replace(state, live=now))
    assert of(DefineAsOf, plan)
    assert any("differs from that of now in interface, memory" in note for note in plan.notes)
    # A disk that has another cache by now is named so, and not one that came or went.
    then = replace(then, shape=(("disk vda", 1), ("disk vdb", 1), ("title", 1)))
    now = replace(state.live, shape=(("disk vda", 2), ("disk vdc", 1), ("title", 1)))
    found = replace(found, before=then)
    plan = plan_reverted(RevertWish("s1"), replace(state, live=now, snapshots=(found,)))
    assert any(note.endswith("from that of now in disk vda") for note in plan.notes)
    # A glance does not tell.
    glance = replace(state, live=replace(state.live, shape=None))
    assert plan_reverted(RevertWish("s1"), glance).steps


def test_what_was_left_out_and_has_another_image_now_gets_the_one_of_then() -> None:
    part = snapshot("s1", {"vda": "base", "vdb": "base"}, without=["vdb"])
    state = vm(disk("vda", "s1 base"), disk("vdb", "/other"), snapshots=[part])
    state = replace(state, branches=((image(at("vdb", "base")),),))
    step = change(state)
    assert ("vdb", at("vdb", "base"), "qcow2") in step.disks
    assert step.attached == (("vdb", at("vdb", "base")),)
    assert step.detached == (("vdb", "/other"),)
