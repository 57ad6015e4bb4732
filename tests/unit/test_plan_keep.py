# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merges around what checkpoints and others need (``needed: keep``)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import CHECKPOINT
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import Job, VmState
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CommitDisk,
    ForgetSnapshot,
    SetSource,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import needs, settle
from builders import at, disk, facts, of, paths, snapshot, stacked, vm
from hypothesis import given
from hypothesis import strategies as st


def with_kind(before: VmState, *names: str, **values: object) -> VmState:
    """The VM with these snapshots made into checkpoints, or whatever ``values`` say."""
    values = values or {"kind": CHECKPOINT}
    changed = (replace(s, **values) if s.name in names else s for s in before.snapshots)
    return replace(before, snapshots=tuple(changed))


def chain_after(before: VmState, max_depth: int, target: str = "vda") -> tuple[str, ...]:
    """The chain that is left; what is left to do after that is nothing."""
    wish = CommitWish(max_depth=max_depth, keep=True)
    after = predict(before, plan_commit(wish, before))
    assert plan_commit(wish, after).steps == ()
    return after.disk(target).files


@pytest.mark.parametrize(
    ("checkpoints", "max_depth", "left"),
    [
        ("", 1, "base"),
        ("", 3, "s5 s4 base"),
        ("s3", 1, "s3 base"),
        ("s3", 2, "s3 base"),
        ("s3", 4, "s5 s4 s3 base"),
        ("s3", 3, "s5 s3 base"),
        ("s2 s4", 1, "s4 s2 base"),
        ("s1", 1, "s1 base"),
        ("s5", 1, "s5 base"),
        ("s1 s2 s3 s4 s5", 2, "s5 s4 s3 s2 s1 base"),
    ],
)
@pytest.mark.parametrize("status", ["running", "shutoff"])
def test_what_is_left(checkpoints, max_depth, left, status):
    before = stacked("s1", "s2", "s3", "s4", "s5", status=status)
    before = with_kind(before, *checkpoints.split())
    assert chain_after(before, max_depth) == paths("vda", left)


def test_checkpoints_stay_and_the_note_says_why():
    before = with_kind(stacked("s1", "s2", "s3"), "s2")
    plan = plan_commit(CommitWish(keep=True), before)
    assert [step.name for step in of(ForgetSnapshot, plan)] == ["s1", "s3"]
    assert plan.notes == ("db: 2 images stay in the chain of vda: checkpoint s2 is kept",)
    assert plan_commit(CommitWish(max_depth=2, keep=True), before).notes == ()


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"ours": False}, "snapshot s2 was taken by another tool"),
        ({"kind": CHECKPOINT}, "checkpoint s2 is kept"),
    ],
)
def test_snapshots_of_others_stay(values, why):
    before = with_kind(stacked("s1", "s2", "s3"), "s2", **values)
    assert chain_after(before, 1) == paths("vda", "s2 base")
    assert why in plan_commit(CommitWish(keep=True), before).notes[0]


def test_a_snapshot_beside_the_present_state_stays():
    branch = snapshot("branch", {"vda": "s1"})
    before = stacked("s1", "s2", "s3")
    before = replace(before, snapshots=(*before.snapshots, branch))
    # its point s1 is not written: it can only become the base as a whole
    assert chain_after(before, 1) == paths("vda", "s2 base")


def test_what_something_else_stands_on_stays():
    before = replace(stacked("s1", "s2", "s3"), shared=frozenset([at("vda", "s1")]))
    assert chain_after(before, 1) == paths("vda", "s2 s1 base")
    template = replace(stacked("s1", "s2", "s3"), shared=frozenset([at("vda", "base")]))
    assert chain_after(template, 1) == paths("vda", "s1 base")
    twins = vm(disk("vda", "s2 s1 /vms/template"), disk("vdb", "s1 /vms/template"))
    assert chain_after(twins, 1) == paths("vda", "s1 /vms/template")


def test_an_image_with_internal_snapshots_stays():
    holds = vm(disk("vda", "s3 s2 s1 base", images={"s2": {"internal": ("inside",)}}))
    assert chain_after(holds, 1) == paths("vda", "s2 base")


def test_merges_of_two_disks_run_side_by_side():
    before = with_kind(stacked("s1", "s2", "s3", targets="vda vdb"), "s2")
    steps = of(CommitDisk, plan_commit(CommitWish(keep=True), before))
    assert [(step.target, step.base) for step in steps] == [
        ("vda", at("vda", "base")),
        ("vdb", at("vdb", "base")),
        ("vda", at("vda", "s2")),
        ("vdb", at("vdb", "s2")),
    ]


def test_the_job_of_a_dead_run_is_that_of_the_first_merge():
    before = with_kind(stacked("s1", "s2", "s3"), "s2")
    plan = plan_commit(CommitWish(keep=True), before)
    plan = replace(plan, steps=tuple(
        replace(s, resume=True) if isinstance(s, CommitDisk) else s for s in plan.steps
    ))  # fmt: skip
    running = facts(needs(plan, before), jobs=(Job("vda", "commit"),))
    assert settle(plan, before, running).steps == plan.steps


def test_two_merges_of_a_definition_that_is_off():
    before = with_kind(stacked("s1", "s2", "s3", status="shutoff"), "s2")
    moves = of(SetSource, plan_commit(CommitWish(keep=True), before))
    assert [(move.old, move.new) for move in moves] == [paths("vda", "s3 s2")]


@given(
    length=st.integers(1, 6), max_depth=st.integers(1, 7), kept=st.sets(st.integers(1, 6)),
)  # fmt: skip
def test_no_checkpoint_is_lost_and_nothing_too_much_is_left(length, max_depth, kept):
    names = [f"s{n}" for n in range(1, length)]
    before = with_kind(stacked(*names) if names else vm(), *(f"s{n}" for n in kept))
    files = chain_after(before, max_depth)
    needed = {at("vda", name) for name in names if int(name[1:]) in kept}
    assert needed <= set(files)
    assert len(files) == max(min(length, max_depth), len(needed) + 1)


def test_two_merges_of_a_definition_that_names_an_image_below():
    named = disk("vda", "s4 s3 s2 s1 base", persistent="s3", recorded="s2 s1 base")
    kept = snapshot("s2", {"vda": "s1"}, kind=CHECKPOINT)
    moves = of(SetSource, plan_commit(CommitWish(keep=True), vm(named, snapshots=[kept])))
    # the second finds what the first has left, which only forgets the image below
    assert [(move.old, move.new) for move in moves] == [
        paths("vda", "s3 s3"),
        paths("vda", "s3 s2"),
    ]
