# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images a block pull takes out of a chain, and what follows; runs of it that died."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.journal import new_content
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    BadInput,
    Conflict,
    NotFound,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import (
    DirectoryFact,
    ImageUse,
    Job,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    ForgetSnapshot,
    PullDisk,
    RemoveFile,
    ResumeVm,
    RewriteSnapshot,
    SetSource,
    from_dict,
    to_dict,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.left import files_of, left_by
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.pull import PullWish, plan_pull
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.recover import plan_recovery
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import needs, settle
from builders import (
    FOLDER,
    MIB,
    at,
    bitmap,
    disk,
    facts,
    image,
    kinds,
    memory_of,
    of,
    paths,
    snapshot,
    stacked,
    vm,
)
from hypothesis import given
from hypothesis import strategies as st

WHOLE = PullWish()
BOOT = "a-boot"


def down_to(word: str, **values) -> PullWish:
    return PullWish(base=at("vda", word), **values)


def chain_of(length: int) -> str:
    return " ".join([*(f"s{n}" for n in range(length - 1, 0, -1)), "base"])


# --- chains ---


@given(length=st.integers(1, 6), data=st.data(), off=st.booleans())
def test_what_is_above_the_base_is_pulled_and_nothing_else(length, data, off):
    before = vm(disk("vda", chain_of(length)), status="shutoff" if off else "running")
    files = before.disk("vda").files
    base = data.draw(st.integers(1, length))
    wish = PullWish(base=files[base] if base < length else "")

    plan = plan_pull(wish, before)

    after = predict(before, plan)
    assert after.disk("vda").files == (files[0], *files[base:])
    assert [step.pulled for step in of(PullDisk, plan)] == ([files[1:base]] if base > 1 else [])
    assert plan_pull(wish, after).steps == ()


@given(length=st.integers(1, 6), max_depth=st.integers(1, 7))
def test_max_depth_keeps_the_active_image_and_the_lowest(length, max_depth):
    before = vm(disk("vda", chain_of(length)))
    files = before.disk("vda").files
    wish = PullWish(max_depth=max_depth)

    after = predict(before, plan_pull(wish, before))

    kept = min(length, max_depth)
    assert after.disk("vda").files == (files[0], *files[length - kept + 1 :])
    assert plan_pull(wish, after).steps == ()


def test_each_disk_is_pulled_by_itself():
    before = vm(disk("vda", "s1 base"), disk("vdb"), disk("vdc", "s2 s1 base"))
    pulls = of(PullDisk, plan_pull(WHOLE, before))
    assert [(step.target, step.into, step.base, step.how) for step in pulls] == [
        ("vda", at("vda", "s1"), "", "running"),
        ("vdc", at("vdc", "s2"), "", "running"),
    ]
    (step,) = of(PullDisk, plan_pull(PullWish(disks=("vdc",), bandwidth=7), before))
    assert (step.target, step.bandwidth, step.bytes) == ("vdc", 7, 2 * MIB)


@pytest.mark.parametrize(
    ("wish", "kind", "said"),
    [
        (down_to("s2"), BadInput, "db.vda.s2.qcow2 is the active image of disk vda"),
        (down_to("s9"), NotFound, "db.vda.s9.qcow2 is not in the chain of disk vda"),
        (PullWish(disks=("vdz",)), NotFound, "has no disk vdz"),
    ],
)
def test_a_base_or_a_disk_that_cannot_be(wish, kind, said):
    with pytest.raises(kind, match=said):
        plan_pull(wish, vm(disk("vda", "s2 s1 base")))


def test_a_base_is_known_by_its_real_path():
    linked = disk("vda", "s2 s1 base", images={"base": {"real": "/real/base"}})
    (step,) = of(PullDisk, plan_pull(PullWish(base="/real/base"), vm(linked)))
    assert (step.base, step.pulled) == (at("vda", "base"), paths("vda", "s1"))


def test_a_chain_that_cannot_be_read():
    with pytest.raises(Unsupported, match="chain of disk vda of VM db cannot be read: torn"):
        plan_pull(WHOLE, vm(disk("vda", "s1 base", trouble="torn")))


@pytest.mark.parametrize("status", ["paused", "suspended", "crashed"])
def test_a_vm_that_cannot_be_made_to_write_what_it_has(status):
    before = vm(disk("vda", "s1 base"), status=status)
    with pytest.raises(Unsupported, match=f"VM db is {status}"):
        plan_pull(WHOLE, before)
    assert plan_pull(down_to("base"), before).steps == ()


# --- internal snapshots, bitmaps, definition ---


@pytest.mark.parametrize("word", ["s2", "s1"])
def test_an_internal_snapshot_needs_what_its_image_stands_on(word):
    before = vm(disk("vda", "s2 s1 base", images={word: {"internal": ["old"]}}))
    with pytest.raises(Conflict, match=f"{at('vda', word)}.* holds internal snapshots: old"):
        plan_pull(WHOLE, before)


def test_an_internal_snapshot_below_the_base_is_not_concerned():
    before = vm(disk("vda", "s2 s1 base", images={"base": {"internal": ["old"]}}))
    assert kinds(plan_pull(down_to("base"), before)) == ["pull"]


def test_bitmaps_are_added_to_those_that_go_on_in_the_active_image():
    images = {
        "s2": {"bitmaps": (bitmap("kept", "auto"), bitmap("torn", "auto", "in-use"))},
        "s1": {"bitmaps": tuple(bitmap(name, "auto") for name in ("kept", "torn", "ended"))},
        "base": {"bitmaps": (bitmap("kept", "auto"),)},
    }
    found = disk("vda", "s2 s1 base", images=images)
    (step,) = of(PullDisk, plan_pull(down_to("base"), vm(found, status="shutoff")))
    assert step.bitmaps == ((at("vda", "s1"), "kept"),)
    (step,) = of(PullDisk, plan_pull(down_to("base"), vm(found)))
    assert step.bitmaps == (), "libvirt does it"


@pytest.mark.parametrize(
    ("status", "persistent", "recorded", "moved"),
    [
        ("shutoff", "s2", "", None),
        ("shutoff", "s2", "s1 base", "s2"),
        ("running", "s2", "s1 base", None),
        ("running", "s1", "base", "s1"),
        ("running", "base", "", None),
    ],
)
def test_no_definition_names_what_has_left_the_chain(status, persistent, recorded, moved):
    before = vm(disk("vda", "s2 s1 base", persistent=persistent, recorded=recorded), status=status)
    into, gone = paths("vda", "s2 s1")
    wanted = [SetSource("vda", at("vda", moved), into, "qcow2", (gone,))] if moved else []
    plan = plan_pull(down_to("base"), before)
    assert of(SetSource, plan) == wanted
    assert plan_pull(down_to("base"), predict(before, plan)).steps == ()


# --- snapshots ---


def test_a_snapshot_whose_point_leaves_is_forgotten_and_its_overlay_goes():
    before = stacked("s1", "s2", "s3", targets="vda vdb", memory="external")
    plan = plan_pull(WHOLE, before)
    assert of(ForgetSnapshot, plan) == [ForgetSnapshot(name) for name in ("s3", "s2", "s1")]
    assert [step.file for step in of(RemoveFile, plan)] == [
        *paths("vda", "s2 s1"), *paths("vdb", "s2 s1"), *(memory_of(f"s{n}") for n in (1, 2, 3))
    ]  # fmt: skip
    assert at("vda", "base") not in [step.file for step in of(RemoveFile, plan)]


def test_what_is_kept_on_request():
    plan = plan_pull(PullWish(delete_merged=False), stacked("s1", "s2", memory="external"))
    assert kinds(plan) == ["pull", "forget_snapshot", "forget_snapshot"]


def test_a_snapshot_of_which_only_the_overlay_leaves_gets_the_active_image_for_it():
    """s2 goes back to s1, on which s3 stands now; what s3 goes back to is in the chain no more."""
    before = stacked("s1", "s2", "s3")
    plan = plan_pull(down_to("s1"), before)
    assert of(RewriteSnapshot, plan) == [
        RewriteSnapshot("s2", files=(("vda", at("vda", "s3")),)),
    ]
    assert of(ForgetSnapshot, plan) == [ForgetSnapshot("s3")]
    assert [step.file for step in of(RemoveFile, plan)] == [at("vda", "s2")]
    after = predict(before, plan)
    assert [found.name for found in after.snapshots if found.current] == ["s2"]


def test_a_snapshot_that_loses_one_of_its_disks():
    before = stacked("s1", "s2", targets="vda vdb")
    plan = plan_pull(PullWish(disks=("vda",)), before)
    assert of(ForgetSnapshot, plan) == []
    assert [(step.name, step.without) for step in of(RewriteSnapshot, plan)] == [
        ("s1", ("vda",)), ("s2", ("vda",))
    ]  # fmt: skip
    with_memory = plan_pull(
        PullWish(disks=("vda",)), stacked("s1", targets="vda vdb", memory="external")
    )
    assert of(ForgetSnapshot, with_memory) == [ForgetSnapshot("s1")]


@pytest.mark.parametrize(("base", "needs"), [("", "base"), ("base", "s1"), ("base", "s2")])
def test_a_checkpoint_is_not_taken_apart(base, needs):
    on = {"base": "base", "s1": "s1", "s2": "base"}[needs]
    name = "kept" if needs != "s2" else "s1"
    point = snapshot(name, {"vda": on}, kind="checkpoint", memory="external")
    before = vm(disk("vda", "s2 s1 base"), snapshots=[point])
    with pytest.raises(Conflict, match=f"checkpoint {name} of VM db needs"):
        plan_pull(PullWish(base=at("vda", base) if base else ""), before)


def test_a_checkpoint_below_the_base_is_not_concerned():
    point = snapshot("s1", {"vda": "base"}, kind="checkpoint", memory="external")
    before = vm(disk("vda", "s3 s2 s1 base"), snapshots=[point])
    assert kinds(plan_pull(down_to("s1"), before)) == ["pull"]


def test_the_snapshot_of_another_tool_goes_only_where_a_base_is_named():
    before = stacked("s1", "s2", ours=False)
    with pytest.raises(Conflict, match="snapshot s1 of VM db was taken by another tool"):
        plan_pull(WHOLE, before)
    plan = plan_pull(down_to("base"), before)
    assert kinds(plan) == ["pull", "rewrite_snapshot", "forget_snapshot"], "its file is kept"


def test_what_another_snapshot_or_disk_stands_on_is_kept():
    before = stacked("s1", "s2")
    beside = (image(at("vda", "x")), *before.disk("vda").chain[1:])
    aside = snapshot("other", {"vda": "x"})
    state = replace(before, snapshots=(*before.snapshots, aside), branches=(beside,))
    plan = plan_pull(WHOLE, state)
    assert of(RemoveFile, plan) == [] and of(ForgetSnapshot, plan) == [
        ForgetSnapshot("s2"),
        ForgetSnapshot("s1"),
    ]
    twin = disk("vdb", " ".join(["/vms/twin.qcow2", *paths("vda", "s1 base")]))
    state = vm(*before.disks, twin, snapshots=before.snapshots)
    assert of(RemoveFile, plan_pull(PullWish(disks=("vda",)), state)) == []


# --- facts ---


def settled(state, wish=WHOLE, **found):
    plan = plan_pull(wish, state)
    return settle(plan, state, facts(needs(plan, state), **found))


def test_what_a_pull_needs():
    state = stacked("s1", "s2")
    found = needs(plan_pull(WHOLE, state), state)
    assert found.directories == (FOLDER,) and found.targets == ("vda",)
    assert found.images == paths("vda", "s1 base") and found.removed == paths("vda", "s1")


def test_room_for_what_is_pulled():
    images = {"base": {"allocated": 90 * MIB}, "s1": {"allocated": 10 * MIB}}
    state = vm(disk("vda", "s1 base", images=images))
    enough = {FOLDER: DirectoryFact(FOLDER, 80 * MIB)}
    assert settled(state, directories=enough).steps
    short = {FOLDER: DirectoryFact(FOLDER, 80 * MIB - 1)}
    with pytest.raises(Unsupported, match=f"at least {80 * MIB} bytes for VM db"):
        settled(state, directories=short)


def test_what_others_need_is_kept_with_all_that_it_stands_on():
    """A clone of s2 stands on s1 as well, and only the file of s2 names it."""
    state = stacked("s1", "s2", "s3", "s4")
    use = ImageUse(at("vda", "s2"), "image /vms/clone.qcow2")
    plan = settled(state, uses=(use,))
    assert [step.file for step in of(RemoveFile, plan)] == [at("vda", "s3")]
    assert plan.notes == tuple(
        f"db: {path} was kept, since image /vms/clone.qcow2 needs it"
        for path in paths("vda", "s2 s1")
    )


def test_an_image_that_another_vm_writes_to():
    use = ImageUse(at("vda", "base"), "disk vda of VM other", writes=True)
    with pytest.raises(Conflict, match="active image of disk vda of VM other"):
        settled(stacked("s1"), uses=(use,))
    assert settled(stacked("s1"), uses=(replace(use, writes=False),)).steps


@pytest.mark.parametrize("kind", ["pull", "copy", "commit"])
def test_a_job_of_others(kind):
    with pytest.raises(Conflict, match=rf"a block job \({kind}\) is running on disk vda"):
        settled(stacked("s1"), jobs=(Job("vda", kind),))


def test_a_managed_save():
    with pytest.raises(Conflict, match="VM db has a managed save"):
        settled(stacked("s1", status="shutoff"), managed_save=True)


# --- runs that died ---

BEFORE = stacked("s1", "s2")
PLAN = plan_pull(WHOLE, BEFORE)
(PULL,) = of(PullDisk, PLAN)
BEGUN = PULL.mark("7", BOOT)


def live(state, number="7"):
    return replace(state, live=replace(state.live, number=number))


def recover(state, *, plan=PLAN, done=0, marks=(BEGUN,), finish=True, boot=BOOT):
    content = json.loads(json.dumps(new_content("a run", "running", plan.steps, ())))
    for entry in content["steps"][:done]:
        entry["done"] = True
    content["marks"].extend(marks)
    left = left_by(content, frozenset(files_of(content)), group_complete=True, boot=boot)
    return plan_recovery(left, state, finish=finish)


def pulled(status="running"):
    """Its chain as it is after the pull, all else as before."""
    return replace(live(predict(BEFORE, replace(PLAN, steps=(PULL,)))), status=status)


def test_a_step_survives_the_journal():
    assert from_dict(json.loads(json.dumps(to_dict(PULL)))) == PULL


def test_a_pull_that_has_not_ended_is_begun_again():
    plan = recover(live(BEFORE))
    assert plan.steps[0] == replace(PULL, resume=True) and plan.steps[1:] == PLAN.steps[1:]
    off = recover(replace(BEFORE, status="shutoff"))
    assert off.steps[0] == replace(PULL, how="offline", resume=True)
    assert "finished what an interrupted run had begun" in plan.notes[0]


def test_a_pull_that_cannot_be_finished_is_left():
    assert recover(live(BEFORE), finish=False).steps == ()


@pytest.mark.parametrize("finish", [True, False])
def test_a_pull_that_has_ended_is_made_sure_of(finish):
    """Also where nothing more is to be done: the journal goes, and nobody would know."""
    plan = recover(pulled(), finish=finish)
    assert plan.steps == (replace(PULL, resume=True), *PLAN.steps[1:])
    assert recover(pulled(), done=1, finish=finish).steps == PLAN.steps[1:]


@pytest.mark.parametrize("finish", [True, False])
def test_a_pull_that_qemu_did_not_survive_is_done_again_from_the_former_chain(finish):
    plan = recover(pulled("shutoff"), finish=finish)
    again = replace(PULL, how="offline", resume=True, doubtful=True)
    assert plan.steps == (again, *PLAN.steps[1:])
    assert recover(pulled("shutoff"), done=1, finish=finish).steps == PLAN.steps[1:]


@pytest.mark.parametrize(("number", "boot"), [("8", BOOT), ("7", "the next boot")])
def test_a_vm_that_runs_on_what_is_left_of_an_image(number, boot):
    with pytest.raises(Conflict, match=r"went off while .* were pulled into .* started again"):
        recover(live(pulled(), number), boot=boot)
    assert recover(live(pulled(), number), boot=boot, done=1).steps == PLAN.steps[1:]


def test_a_pull_by_qemu_img_that_has_ended_is_on_the_disk():
    off = replace(BEFORE, status="shutoff")
    plan = plan_pull(WHOLE, off)
    after = predict(off, replace(plan, steps=plan.steps[:1]))
    assert recover(after, plan=plan, marks=()).steps == plan.steps[1:]


@pytest.mark.parametrize("ours", [True, False])
def test_a_vm_that_is_paused(ours):
    """A run pauses it for a moment; if somebody else did, it stays so."""
    marks = (BEGUN, *([PULL.pause_mark] if ours else []))
    plan = recover(pulled("paused"), marks=marks)
    assert (plan.steps[0] == ResumeVm()) is ours


@pytest.mark.parametrize("chain", ["x base", "s2 x base", "s2 s1 x base"])
def test_a_disk_that_went_elsewhere(chain):
    """Nobody knows what became of the pull, so no image goes."""
    plan = recover(live(vm(disk("vda", chain), snapshots=BEFORE.snapshots)))
    assert of(PullDisk, plan) == [] and of(RemoveFile, plan) == []
