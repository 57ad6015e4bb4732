# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps make a snapshot present, and what is said where it is there or cannot be."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import Source
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    BadInput,
    Conflict,
    NotFound,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    FILESYSTEM,
    SnapshotDisk,
    SnapshotSpec,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CreateOverlay,
    TakeSnapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.snapshot import (
    SnapshotWish,
    plan_present,
)
from builders import GIB, at, bitmap, disk, kinds, memory_of, of, snapshot, stacked, vm


def taken(wish, state) -> TakeSnapshot:
    (step,) = of(TakeSnapshot, plan_present(wish, state))
    return step


# --- taking one ---


def test_an_external_snapshot_of_a_running_vm():
    state = vm(disk("vda"), disk("vdb", "s0 base"), disk("sda", device="cdrom", readonly=True))
    plan = plan_present(SnapshotWish("s1", description="before", freeze_timeout=7), state)
    assert plan.steps == (
        CreateOverlay("vda", at("vda", "s1"), at("vda", "base"), "qcow2", GIB),
        CreateOverlay("vdb", at("vdb", "s1"), at("vdb", "s0"), "qcow2", GIB),
        TakeSnapshot(
            SnapshotSpec(
                "s1",
                "before",
                "external",
                (
                    SnapshotDisk("vda", "external", at("vda", "s1"), "qcow2"),
                    SnapshotDisk("vdb", "external", at("vdb", "s1"), "qcow2"),
                    SnapshotDisk("sda", "no"),
                ),
            ),
            ("atomic", "reuse_ext", "disk_only"),
            "preferred",
            7,
        ),
    )
    assert plan.notes == ()


def test_with_memory():
    wish = SnapshotWish("s1", memory=True)
    step = taken(wish, vm())
    assert step.spec.memory_file == memory_of("s1")
    assert step.flags == ("atomic", "reuse_ext", "live")
    assert step.quiesce == "never", "the restored guest would wake up frozen"
    assert plan_present(wish, vm()).notes == ()


def test_an_internal_snapshot():
    state = vm(disk("vda"), disk("vdb", readonly=True), disk("vdc"))
    plan = plan_present(SnapshotWish("s1", mode="internal"), state)
    disks = (
        SnapshotDisk("vda", "internal"),
        SnapshotDisk("vdb", "no"),
        SnapshotDisk("vdc", "internal"),
    )
    spec = SnapshotSpec("s1", "", "internal", disks)
    assert plan.steps == (TakeSnapshot(spec, (), "never", 10),)


def test_some_disks_only():
    state = vm(disk("vda"), disk("vdb"))
    wish = SnapshotWish("s1", disks=("vdb",), files=(("vdb", "/fast/b.qcow2"),))
    plan = plan_present(wish, state)
    assert [(step.target, step.file) for step in of(CreateOverlay, plan)] == [
        ("vdb", "/fast/b.qcow2")
    ]
    assert [disk.mode for disk in taken(wish, state).spec.disks] == ["no", "external"]


def test_in_another_directory():
    wish = SnapshotWish("s1", directory="/fast", memory=True)
    plan = plan_present(wish, vm(disk("vda", "/dev/vg/lv", kind="block")))
    assert [step.file for step in of(CreateOverlay, plan)] == ["/fast/db.vda.s1.qcow2"]
    assert of(TakeSnapshot, plan)[0].spec.memory_file == "/fast/db.memory.s1.save"


def test_the_name_of_the_vm_becomes_a_safe_part_of_a_file_name():
    state = replace(vm(), name="a b/c")
    assert of(CreateOverlay, plan_present(SnapshotWish("s1"), state))[0].file == (
        "/vms/a%20b%2Fc.vda.s1.qcow2"
    )


def test_bitmaps_go_on_in_an_offline_overlay():
    bitmaps = (
        bitmap("daily", "auto", granularity=512),
        bitmap("old"),
        bitmap("torn", "auto", "in-use"),
    )
    state = vm(disk("vda", images={"base": {"bitmaps": bitmaps}}), status="shutoff")
    (overlay,) = of(CreateOverlay, plan_present(SnapshotWish("s1"), state))
    assert overlay.bitmaps == (("daily", 512),)
    running = replace(state, status="running")
    (overlay,) = of(CreateOverlay, plan_present(SnapshotWish("s1"), running))
    assert overlay.bitmaps == (), "QEMU itself goes on with them"


def test_a_raw_disk_gets_a_qcow2_overlay():
    images = {"base": {"format": "raw"}}
    (overlay,) = of(CreateOverlay, plan_present(SnapshotWish("s1"), vm(disk(images=images))))
    assert overlay.backing_format == "raw"


# --- freezing ---


@pytest.mark.parametrize(
    ("status", "agent", "why"),
    [
        ("paused", "connected", "it is paused"),
        ("running", None, "no guest agent channel"),
        ("running", "disconnected", "no guest agent is connected"),
    ],
)
def test_a_vm_that_cannot_be_frozen(status, agent, why):
    state = vm(status=status, agent=agent)
    plan = plan_present(SnapshotWish("s1"), state)
    assert of(TakeSnapshot, plan)[0].quiesce == "never"
    assert (
        len(plan.notes) == 1
        and plan.notes[0].startswith("db: not quiesced")
        and why in plan.notes[0]
    )
    with pytest.raises(Unsupported, match=why):
        plan_present(SnapshotWish("s1", quiesce="required"), state)
    assert plan_present(SnapshotWish("s1", quiesce="never"), state).notes == ()


@pytest.mark.parametrize("quiesce", ["required", "preferred", "never"])
def test_a_vm_that_can_be_frozen(quiesce):
    assert taken(SnapshotWish("s1", quiesce=quiesce), vm()).quiesce == quiesce


def test_a_vm_that_is_off_needs_no_freeze():
    state = vm(status="shutoff", agent=None)
    plan = plan_present(SnapshotWish("s1", quiesce="required"), state)
    assert (of(TakeSnapshot, plan)[0].quiesce, plan.notes) == ("never", ())


# --- what cannot be ---


@pytest.mark.parametrize("status", ["crashed", "suspended", "shutting down", "blocked", ""])
def test_states_in_which_nothing_is_taken(status):
    with pytest.raises(Unsupported, match=f"VM db is {status}"):
        plan_present(SnapshotWish("s1"), vm(status=status))


def test_nothing_to_take():
    state = vm(disk("sda", device="cdrom", readonly=True), disk("vdb", readonly=True))
    with pytest.raises(Unsupported, match="no disk to take a snapshot of"):
        plan_present(SnapshotWish("s1"), state)


@pytest.mark.parametrize(
    ("wish", "status", "error", "said"),
    [
        (SnapshotWish("s1", memory=True), "shutoff", BadInput, "is off and has no memory"),
        (
            SnapshotWish("s1", memory=True, quiesce="required"),
            "running",
            BadInput,
            "wake up frozen",
        ),
        (
            SnapshotWish("s1", mode="internal", memory=False),
            "running",
            BadInput,
            "always includes its memory",
        ),
        (
            SnapshotWish("s1", mode="internal", quiesce="required"),
            "running",
            BadInput,
            "cannot be quiesced",
        ),
        (SnapshotWish("s1", disks=("vdz",)), "running", NotFound, "has no disk vdz"),
        (SnapshotWish("s1", disks=("sda",)), "running", BadInput, "is a cdrom"),
        (SnapshotWish("s1", directory="relative"), "running", BadInput, "'relative/db.vda.s1"),
        (SnapshotWish("s1", directory="/a\nb"), "running", BadInput, "the overlay of disk vda"),
        (SnapshotWish("s1", files=(("vda", "/a\x00"),)), "running", BadInput, "/a\\x00"),
        (
            SnapshotWish("s1", files=(("vda", "/" + "x" * 256),)),
            "running",
            BadInput,
            "is 256 bytes long",
        ),
        (
            SnapshotWish("s1", files=(("vda", "/same"), ("vdb", "/same"))),
            "running",
            BadInput,
            "same overlay file",
        ),
        (
            SnapshotWish("s1", files=(("vda", memory_of("s1")),), memory=True),
            "running",
            BadInput,
            "as its memory file",
        ),
        (
            SnapshotWish(
                "s1", files=(("vda", "/a"), ("vdb", "/b")), directory="relative", memory=True
            ),
            "running",
            BadInput,
            "the memory file of VM db is 'relative/",
        ),
    ],
)
def test_what_is_refused(wish, status, error, said):
    state = vm(disk("vda"), disk("vdb"), disk("sda", device="cdrom", readonly=True), status=status)
    with pytest.raises(error) as found:
        plan_present(wish, state)
    assert said in found.value.found
    assert found.value.wanted and found.value.todo


def test_no_memory_beside_what_bars_it():
    barred = replace(
        vm(disk()), live=replace(vm(disk()).live, bars=("disk vdb in the format vmdk",))
    )
    with pytest.raises(Unsupported, match="disk vdb in the format vmdk, with which"):
        plan_present(SnapshotWish("s1", memory=True), barred)
    assert plan_present(SnapshotWish("s1"), barred).steps


def test_a_name_that_is_too_long_only_for_the_memory_file():
    long = replace(vm(), name="x" * 240)
    assert plan_present(SnapshotWish("s1"), long).steps
    with pytest.raises(BadInput, match=r"for the memory file .* is 256 bytes long"):
        plan_present(SnapshotWish("s12", memory=True), replace(long, name="x" * 240))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shareable": True}, "is a shareable disk"),
        ({"device": "lun", "kind": "block"}, "is a LUN"),
        (
            {"source": Source("network", "", "name=p/i"), "trouble": "x"},
            "is a network name=p/i disk",
        ),
        ({"source": Source("file", "/a", sliced=True), "trouble": "x"}, "is a slice of /a"),
        ({"trouble": "it is torn"}, "cannot be read: it is torn"),
        (
            {"images": {"base": {"format": "vmdk", "virtual_size": None}}},
            "format vmdk is not known",
        ),
    ],
)
def test_disks_that_get_no_overlay(values, said):
    state = vm(disk("vda"), disk("vdb", **values))
    wish = SnapshotWish("s1", directory="/vms")
    with pytest.raises(Unsupported) as found:
        plan_present(wish, state)
    assert said in found.value.found and "disk vdb" in found.value.found
    assert "'disks'" in found.value.todo
    assert plan_present(replace(wish, disks=("vda",)), state).steps


def test_a_block_device_needs_a_directory_for_its_overlay():
    state = vm(disk("vda", "/dev/vg/lv", kind="block"))
    with pytest.raises(BadInput, match="is the block device /dev/vg/lv"):
        plan_present(SnapshotWish("s1"), state)
    assert plan_present(SnapshotWish("s1", files=(("vda", "/a"),)), state).steps


def test_internal_snapshots_need_qcow2_everywhere():
    state = vm(disk("vda"), disk("vdb", images={"base": {"format": "raw"}}))
    with pytest.raises(Unsupported, match="disk vdb of VM db is raw"):
        plan_present(SnapshotWish("s1", mode="internal"), state)


def test_internal_snapshots_cannot_leave_a_disk_out():
    state = vm(disk("vda"), disk("vdb"), disk("vdc", readonly=True))
    with pytest.raises(Unsupported, match="cannot leave out vda"):
        plan_present(SnapshotWish("s1", mode="internal", disks=("vdb",)), state)
    assert plan_present(SnapshotWish("s1", mode="internal", disks=("vdb", "vda")), state).steps


@pytest.mark.parametrize(
    ("unfit", "words"),
    [
        (disk("vdb", images={"base": {"data_file": "data"}}), "has a data file of its own"),
        (disk("vdb", trouble="torn"), "cannot be read: torn"),
        (replace(disk("vdb", trouble="no"), denied="become"), "cannot be read: no.*become"),
    ],
)
def test_internal_snapshots_need_images_that_can_be_read_and_hold_them(unfit, words):
    with pytest.raises(Unsupported) as refused:
        plan_present(SnapshotWish("s1", mode="internal"), vm(disk("vda"), unfit))
    assert re.search(words, str(refused.value))


def test_an_internal_snapshot_that_libvirt_does_not_know_is_not_written_over():
    state = vm(disk("vda"), disk("vdb", images={"base": {"internal": ("s0", "s1")}}))
    with pytest.raises(Conflict, match="disk vdb, holds an internal snapshot s1"):
        plan_present(SnapshotWish("s1", mode="internal"), state)
    assert plan_present(SnapshotWish("s1"), state).steps, "an overlay has a table of its own"
    assert plan_present(SnapshotWish("s2", mode="internal"), state).steps
    below = vm(disk("vda", "s0 base", images={"base": {"internal": ("s1",)}}))
    assert plan_present(SnapshotWish("s1", mode="internal"), below).steps


# --- it is there ---

PRESENT = stacked("s1", targets="vda vdb", description="before the update")


@pytest.mark.parametrize(
    "wish",
    [
        SnapshotWish("s1"),
        SnapshotWish("s1", mode="external"),
        SnapshotWish("s1", memory=False),
        SnapshotWish("s1", disks=("vdb", "vda")),
        SnapshotWish("s1", files=(("vda", at("vda", "s1")),)),
        SnapshotWish("s1", description=" before the update\n"),
        SnapshotWish("s1", quiesce="preferred"),
        SnapshotWish("s1", directory="/elsewhere"),
    ],
)
def test_as_it_was_asked_for(wish):
    plan = plan_present(wish, PRESENT)
    assert (plan.steps, plan.notes) == ((), ())


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (SnapshotWish("s1", mode="internal"), "is external, not internal"),
        (SnapshotWish("s1", memory=True), "has no memory"),
        (SnapshotWish("s1", disks=("vda",)), "covers vda, vdb, not vda"),
        (
            SnapshotWish("s1", files=(("vdb", "/x"),)),
            f"has {at('vdb', 's1')} as overlay of vdb, not /x",
        ),
        (SnapshotWish("s1", description="after"), "is described as 'before the update'"),
        (SnapshotWish("s1", description=""), "is described as 'before the update'"),
        (SnapshotWish("s1", quiesce="required"), "is only crash-consistent"),
    ],
)
def test_each_difference_is_said(wish, said):
    with pytest.raises(Conflict) as found:
        plan_present(wish, PRESENT)
    assert found.value.found.startswith("snapshot s1 of VM db exists but ")
    assert said in found.value.found
    assert found.value.todo


def test_all_differences_are_said_at_once():
    with pytest.raises(Conflict) as found:
        plan_present(SnapshotWish("s1", mode="internal", memory=True, disks=("vda",)), PRESENT)
    assert found.value.found.count(";") == 2


def test_memory_that_was_not_asked_for_is_a_difference():
    state = stacked("s1", memory="external")
    with pytest.raises(Conflict, match="includes the memory"):
        plan_present(SnapshotWish("s1", memory=False), state)
    assert plan_present(SnapshotWish("s1", memory=True, quiesce="required"), state).steps == ()


def test_a_quiesced_snapshot_is_what_was_required():
    state = stacked("s1", consistency=FILESYSTEM)
    assert plan_present(SnapshotWish("s1", quiesce="required"), state).steps == ()


def test_it_is_there_whatever_the_vm_does_now():
    state = replace(PRESENT, status="crashed")
    assert plan_present(SnapshotWish("s1"), state).steps == ()


def test_a_snapshot_whose_overlay_was_merged_by_hand_is_broken():
    state = replace(PRESENT, disks=(disk("vda"), PRESENT.disk("vdb")))
    with pytest.raises(Conflict, match="no longer in the chain of vda"):
        plan_present(SnapshotWish("s1"), state)


def test_a_snapshot_of_another_branch_is_whole():
    """Its overlay is in no chain now, perhaps given up, and nothing writes to its point."""
    branch = snapshot("s1", {"vda": "other"})
    state = vm(disk("vda", "s2 base"), snapshots=[branch])
    assert plan_present(SnapshotWish("s1"), state).steps == ()
    given_up = replace(state, missing=frozenset([at("vda", "s1")]))
    assert plan_present(SnapshotWish("s1"), given_up).steps == ()
    lost = replace(state, missing=frozenset([at("vda", "other")]))
    with pytest.raises(Conflict, match="which held that point of vda, is gone"):
        plan_present(SnapshotWish("s1"), lost)


def test_a_memory_file_that_is_gone():
    state = replace(stacked("s1", memory="external"), missing=frozenset([memory_of("s1")]))
    with pytest.raises(Conflict, match=f"its memory file {memory_of('s1')} is gone"):
        plan_present(SnapshotWish("s1"), state)


def test_a_disk_that_is_no_longer_there_breaks_nothing():
    state = replace(PRESENT, disks=PRESENT.disks[:1])
    assert plan_present(SnapshotWish("s1"), state).steps == ()


@pytest.mark.parametrize("mode", ["internal", "external"])
def test_what_was_taken_is_there(mode):
    wish = SnapshotWish("s1", mode=mode, description="text")
    state = vm(disk("vda"), disk("vdb"))
    after = predict(state, plan_present(wish, state))
    assert kinds(plan_present(wish, after)) == []
