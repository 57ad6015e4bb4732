# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images a block commit merges, and what follows for definition, snapshots and files."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import Source
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    BadInput,
    Conflict,
    NotFound,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CommitDisk,
    ForgetSnapshot,
    RemoveFile,
    RewriteSnapshot,
    SetSource,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.merge import children_first
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from builders import MIB, at, bitmap, disk, kinds, memory_of, of, paths, snapshot, stacked, vm
from hypothesis import given
from hypothesis import strategies as st


def chain_of(length: int) -> str:
    return " ".join([*(f"s{n}" for n in range(length - 1, 0, -1)), "base"])


# --- spans ---


@given(length=st.integers(1, 6), max_depth=st.integers(1, 7), off=st.booleans())
def test_max_depth_keeps_the_newest_images_and_the_base(length, max_depth, off):
    before = vm(disk("vda", chain_of(length)), status="shutoff" if off else "running")
    files = before.disk("vda").files
    wish = CommitWish(max_depth=max_depth)

    after = predict(before, plan_commit(wish, before))

    left = after.disk("vda").files
    assert len(left) == min(length, max_depth)
    assert left == (*files[: len(left) - 1], files[-1])
    assert plan_commit(wish, after).steps == ()


@given(length=st.integers(2, 6), data=st.data(), off=st.booleans())
def test_nothing_outside_of_top_and_base_is_merged(length, data, off):
    before = vm(disk("vda", chain_of(length)), status="shutoff" if off else "running")
    files = before.disk("vda").files
    top = data.draw(st.integers(0, length - 2))
    base = data.draw(st.integers(top + 1, length - 1))
    wish = CommitWish(base=files[base], top=files[top])

    plan = plan_commit(wish, before)

    (step,) = of(CommitDisk, plan)
    assert step.merged == files[top:base]
    assert (step.top, step.base) == (files[top], files[base])
    assert step.overlay == (files[top - 1] if top else "")
    after = predict(before, plan)
    assert after.disk("vda").files == (*files[:top], *files[base:])
    assert plan_commit(wish, after).steps == ()


@pytest.mark.parametrize(
    ("wish", "merged"),
    [
        (CommitWish(), "s3 s2 s1"),
        (CommitWish(base=at("vda", "s1")), "s3 s2"),
        (CommitWish(top=at("vda", "s1")), "s1"),
        (CommitWish(top=at("vda", "s2")), "s2 s1"),
        (CommitWish(top=at("vda", "s3")), "s3 s2 s1"),
        (CommitWish(max_depth=2), "s2 s1"),
        (CommitWish(max_depth=3), "s1"),
        (CommitWish(base=at("vda", "s3")), ""),
        (CommitWish(max_depth=4), ""),
    ],
)
def test_one_end_may_be_left_out(wish, merged):
    plan = plan_commit(wish, vm(disk("vda", "s3 s2 s1 base")))
    found = [step.merged for step in of(CommitDisk, plan)]
    assert found == ([paths("vda", merged)] if merged else [])


@pytest.mark.parametrize(
    ("status", "top", "how"),
    [
        ("running", "s2", "active"),
        ("paused", "s2", "active"),
        ("running", "s1", "middle"),
        ("shutoff", "s2", "offline"),
        ("shutoff", "s1", "offline"),
    ],
)
def test_how_it_is_merged(status, top, how):
    before = vm(disk("vda", "s2 s1 base"), status=status)
    (step,) = of(CommitDisk, plan_commit(CommitWish(top=at("vda", top)), before))
    assert step.how == how
    assert (step.target, step.resume) == ("vda", False)


def test_the_real_path_of_an_image_is_as_good_as_its_name():
    linked = disk(
        "vda", "s1 base", images={"s1": {"real": "/real/s1"}, "base": {"real": "/real/base"}}
    )
    (step,) = of(CommitDisk, plan_commit(CommitWish(base="/real/base", top="/real/s1"), vm(linked)))
    assert (step.top, step.base) == paths("vda", "s1 base")


def test_every_writable_disk_by_default():
    before = vm(
        disk("vda", "s1 base"),
        disk("vdb", "s1 base"),
        disk("vdc"),
        disk("vdd", "s1 base", readonly=True),
        disk("sda", "/iso", device="cdrom", readonly=True),
    )
    plan = plan_commit(CommitWish(bandwidth=7), before)
    assert [(step.target, step.bandwidth) for step in of(CommitDisk, plan)] == [
        ("vda", 7),
        ("vdb", 7),
    ]
    assert kinds(plan)[:2] == ["commit", "commit"], "jobs that follow each other run side by side"
    named = plan_commit(CommitWish(disks=("vdb",)), before)
    assert [step.target for step in of(CommitDisk, named)] == ["vdb"]


def test_what_has_been_written_is_summed_up():
    images = {"s2": {"allocated": 3 * MIB}, "s1": {"allocated": 4 * MIB}, "base": {}}
    (step,) = of(
        CommitDisk, plan_commit(CommitWish(), vm(disk("vda", "s2 s1 base", images=images)))
    )
    assert step.bytes == 7 * MIB


def test_bitmaps_are_carried_along_offline_oldest_image_first():
    images = {
        "s2": {"bitmaps": (bitmap("daily", "auto"), bitmap("torn", "in-use", "auto"))},
        "s1": {"bitmaps": (bitmap("daily", "auto", granularity=512),)},
    }
    both = disk("vda", "s2 s1 base", images=images)
    (step,) = of(CommitDisk, plan_commit(CommitWish(), vm(both, status="shutoff")))
    assert step.bitmaps == ((at("vda", "s1"), "daily", 512), (at("vda", "s2"), "daily", 65536))
    (live,) = of(CommitDisk, plan_commit(CommitWish(), vm(both)))
    assert live.bitmaps == (), "a running QEMU carries them itself"


def test_a_raw_base_cannot_hold_bitmaps():
    images = {"s1": {"bitmaps": (bitmap("daily", "auto"),)}, "base": {"format": "raw"}}
    before = vm(disk("vda", "s1 base", images=images), status="shutoff")
    (step,) = of(CommitDisk, plan_commit(CommitWish(), before))
    assert (step.bitmaps, step.base_format, step.top_format) == ((), "raw", "qcow2")


# --- refusals ---


@pytest.mark.parametrize(
    ("wish", "error", "said"),
    [
        (CommitWish(base="/a", top="/a"), BadInput, "same image /a"),
        (CommitWish(base="/nowhere"), NotFound, "/nowhere is not in the chain of disk vda"),
        (CommitWish(base=at("vda", "s2"), top=at("vda", "s1")), BadInput, "is not above base"),
        (CommitWish(top=at("vda", "base")), BadInput, "is not above the own disk"),
        (CommitWish(disks=("vdz",)), NotFound, "has no disk vdz"),
        (CommitWish(disks=("sda",)), BadInput, "is a cdrom"),
        (CommitWish(disks=("vdb",)), BadInput, "is a read-only disk"),
        (CommitWish(disks=("vdc",)), BadInput, "is a disk without a source"),
        (CommitWish(disks=("vdd",)), Unsupported, "chain of disk vdd of VM db cannot be read"),
        (CommitWish(), Unsupported, "chain of disk vdd of VM db cannot be read: torn"),
    ],
)
def test_what_is_refused(wish, error, said):
    before = vm(
        disk("vda", "s2 s1 base"),
        disk("sda", device="cdrom", readonly=True),
        disk("vdb", readonly=True),
        disk("vdc", ""),
        disk("vdd", trouble="torn"),
    )
    with pytest.raises(error) as found:
        plan_commit(wish, before)
    assert said in found.value.found
    assert found.value.wanted and found.value.todo


def test_a_vm_without_disks_is_told_so():
    with pytest.raises(NotFound) as found:
        plan_commit(CommitWish(disks=("vda",)), replace(vm(), disks=()))
    assert "(it has none)" in found.value.wanted


def test_a_network_disk_is_refused_by_name():
    remote = disk("vdb", trouble="its source is rbd", source=Source("network", "", "name=p/i"))
    with pytest.raises(Unsupported):
        plan_commit(CommitWish(), vm(disk("vda", "s1 base"), remote))


def test_a_top_that_is_not_there_is_merged_already():
    before = vm(disk("vda", "s1 base"))
    plan = plan_commit(CommitWish(top=at("vda", "s0"), base=at("vda", "base")), before)
    assert plan.steps == ()
    assert plan.notes == (
        f"db: {at('vda', 's0')} is not in the chain of vda; nothing to merge there",
    )


def test_internal_snapshots_in_a_merged_image_would_be_lost():
    holds = disk("vda", "s2 s1 base", images={"s1": {"internal": ("inside",)}})
    with pytest.raises(Conflict, match="internal snapshots: inside"):
        plan_commit(CommitWish(), vm(holds))
    assert plan_commit(CommitWish(base=at("vda", "s1")), vm(holds)).steps, "it only receives data"


def test_an_image_that_another_disk_stands_on_is_left_alone():
    before = vm(disk("vda", "s1 /vms/template"), disk("vdb", "s1 /vms/template"))
    named = CommitWish(disks=("vda",), base="/vms/template")
    with pytest.raises(Conflict, match=r"/vms/template.*chain of its disk vdb"):
        plan_commit(named, before)
    own = vm(disk("vda", "s2 s1 /vms/template"), disk("vdb", "s1 /vms/template"))
    assert plan_commit(CommitWish(("vda",), base=at("vda", "s1")), own).steps


def test_snapshots_of_other_tools_go_only_where_their_images_are_named():
    before = stacked("s1", "s2", ours=False)
    with pytest.raises(Conflict, match="s1 of VM db was taken by another tool"):
        plan_commit(CommitWish(), before)
    assert plan_commit(CommitWish(base=at("vda", "base")), before).steps
    assert plan_commit(CommitWish(top=at("vda", "s2")), before).steps
    assert plan_commit(CommitWish(), stacked("s1")).steps


# --- consequences ---


def test_a_snapshot_that_has_nothing_left_is_forgotten_and_its_files_go():
    before = stacked("s1", "s2", memory="external")
    plan = plan_commit(CommitWish(), before)
    assert kinds(plan) == [
        "commit", "forget_snapshot", "forget_snapshot",
        "remove_file", "remove_file", "remove_file", "remove_file",
    ]  # fmt: skip
    assert [step.name for step in of(ForgetSnapshot, plan)] == ["s2", "s1"]
    assert [step.file for step in of(RemoveFile, plan)] == [
        *paths("vda", "s2 s1"),
        memory_of("s1"),
        memory_of("s2"),
    ]


def test_a_memory_file_that_is_missing_is_not_removed():
    before = replace(stacked("s1", memory="external"), missing=frozenset([memory_of("s1")]))
    assert [s.file for s in of(RemoveFile, plan_commit(CommitWish(), before))] == [at("vda", "s1")]


def test_the_files_can_be_kept():
    before = stacked("s1", memory="external")
    plan = plan_commit(CommitWish(delete_merged=False), before)
    assert kinds(plan) == ["commit", "forget_snapshot"]


def test_a_snapshot_loses_one_of_its_disks():
    before = stacked("s1", targets="vda vdb")
    plan = plan_commit(CommitWish(("vda",)), before)
    assert of(RewriteSnapshot, plan) == [RewriteSnapshot("s1", (), ("vda",))]
    assert not of(ForgetSnapshot, plan)


def test_a_snapshot_with_memory_dies_with_one_of_its_disks():
    before = stacked("s1", targets="vda vdb", memory="external")
    plan = plan_commit(CommitWish(("vda",)), before)
    assert kinds(plan) == ["commit", "forget_snapshot", "remove_file", "remove_file"]


def test_a_later_snapshot_is_told_where_its_point_is_now():
    before = stacked("s1", "s2", "s3")
    plan = plan_commit(CommitWish(top=at("vda", "s1")), before)
    into = (at("vda", "s1"), at("vda", "base"), "qcow2")
    assert of(RewriteSnapshot, plan) == [
        RewriteSnapshot("s2", (into,)),
        # it records the image below its own
        RewriteSnapshot("s3", (into,)),
    ]
    assert [step.name for step in of(ForgetSnapshot, plan)] == ["s1"]


def test_a_surviving_point_is_not_written():
    branch = snapshot("branch", {"vda": "base"})
    before = replace(stacked("s1"), snapshots=(*stacked("s1").snapshots, branch))
    with pytest.raises(Conflict, match="is what snapshot branch goes back to"):
        plan_commit(CommitWish(), before)


def test_a_surviving_point_is_not_merged_with_newer_data():
    """The base then holds s2's data; branch wants what s1 held."""
    branch = snapshot("branch", {"vda": "s1"})
    before = stacked("s1", "s2", "s3")
    before = replace(before, snapshots=(*before.snapshots, branch))
    with pytest.raises(Conflict, match=f"{at('vda', 's1')}.* snapshot branch"):
        plan_commit(CommitWish(max_depth=2), before)
    # as the newest of the merged images its content is what the base holds afterwards
    plan = plan_commit(CommitWish(top=at("vda", "s1")), before)
    assert "branch" in [step.name for step in of(RewriteSnapshot, plan)]


def test_an_internal_snapshot_does_not_mind_what_is_written_to_its_image():
    inside = snapshot("inside", {"vda": "base"}, mode="internal")
    before = replace(stacked("s1"), snapshots=(inside, *stacked("s1").snapshots))
    assert kinds(plan_commit(CommitWish(), before)) == ["commit", "forget_snapshot", "remove_file"]


# --- the persistent definition ---


@pytest.mark.parametrize(
    ("values", "top", "wanted"),
    [
        # libvirt moves it along where both name the same image
        ({}, "s3", None),
        ({}, "s1", None),
        ({"recorded": "s2 s1 base"}, "s1", None),
        # it names an image that goes
        ({"persistent": "s2", "recorded": "s1 base"}, "s3", ("s2", "base")),
        # it records one below
        ({"persistent": "s2", "recorded": "s1 base"}, "s1", ("s2", "s2")),
        # it names nothing of what goes
        ({"persistent": "s2"}, "s1", None),
        ({"persistent": "base"}, "s3", None),
    ],
)
def test_of_a_running_vm(values, top, wanted):
    before = vm(disk("vda", "s3 s2 s1 base", **values))
    plan = plan_commit(CommitWish(top=at("vda", top)), before)
    (merged,) = (step.merged for step in of(CommitDisk, plan))
    expected = (
        [SetSource("vda", *paths("vda", " ".join(wanted)), "qcow2", merged)] if wanted else []
    )
    assert of(SetSource, plan) == expected


@pytest.mark.parametrize(
    ("values", "top", "wanted"),
    [
        ({}, "s2", ("s2", "base")),
        ({}, "s1", None),
        ({"recorded": "s1 base"}, "s1", ("s2", "s2")),
    ],
)
def test_of_a_vm_that_is_off(values, top, wanted):
    before = vm(disk("vda", "s2 s1 base", **values), status="shutoff")
    plan = plan_commit(CommitWish(top=at("vda", top)), before)
    moves = [(step.old, step.new) for step in of(SetSource, plan)]
    assert moves == ([paths("vda", " ".join(wanted))] if wanted else [])


def test_a_transient_vm_has_none():
    before = vm(disk("vda", "s1 base", persistent=""), persistent=False)
    assert kinds(plan_commit(CommitWish(), before)) == ["commit", "remove_file"]


def test_the_format_goes_with_the_source():
    images = {"base": {"format": "raw"}}
    before = vm(disk("vda", "s1 base", images=images), status="shutoff")
    assert [s.format for s in of(SetSource, plan_commit(CommitWish(), before))] == ["raw"]


# --- order ---


def test_children_are_forgotten_before_their_parents():
    family = [snapshot(name, parent=parent) for name, parent in
              [("a", ""), ("a1", "a"), ("a2", "a"), ("a1x", "a1"), ("b", "elsewhere")]]  # fmt: skip
    order = children_first(family)
    assert set(order) == {"a", "a1", "a2", "a1x", "b"}
    assert order.index("a1x") < order.index("a1") < order.index("a") > order.index("a2")
    assert children_first([]) == ()


def test_a_circle_of_parents_ends():
    assert children_first([snapshot("a", parent="b"), snapshot("b", parent="a")]) == ("a", "b")
