# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about images that no VM uses, without any image."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image import (
    Image,
    InternalSnapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image_state import (
    ImageFacts,
    ImageState,
    Standing,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image_step import (
    ApplyTag,
    CommitOverlay,
    CreateTag,
    DeleteTag,
    ImagePlan,
    ImageStep,
    NewOverlay,
    Rebase,
    RemoveDraft,
    RemoveOverlay,
    Repair,
    from_dict,
    shown,
    to_dict,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Busy,
    Conflict,
    NotFound,
    Problem,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.qcow2_content import PRESENT
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import DirectoryFact
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.image_overlay import plan_overlay
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.image_predict import (
    picture,
    predict,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.image_recover import (
    bases_of,
    begun_mark,
    plan_image_recovery,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.image_snapshot import (
    TagWish,
    plan_tags,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.image_vet import needs, vet
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.image_wish import OverlayWish
from builders import GIB, MIB, bitmap, image
from hypothesis import given
from hypothesis import strategies as st

KINDS = get_args(ImageStep)
PATH, BASE = "/images/disk", "/images/base"


def tag(number: int, name: str, **values: Any) -> InternalSnapshot:
    return replace(InternalSnapshot(str(number), name, 0, 0, 0, 0, 0, None, GIB), **values)


def tagged(*names: str, holds: str = "", **values: Any) -> ImageState:
    """An image with snapshots 1, 2, ...; it has the content of that with the id ``holds``."""
    tags = tuple(tag(number, name) for number, name in enumerate(names, 1))
    found = image(PATH, snapshots=tags, **values)
    marks = {each.id: each.id.encode() for each in tags}
    return ImageState(PATH, PATH, "file", (found,), marks={**marks, PRESENT: holds.encode()})


def overlay(**values: Any) -> Image:
    return image(PATH, **{"backing_filename": BASE, "backing_format": "qcow2", **values})


def standing_on(base: Image, **values: Any) -> ImageState:
    return ImageState(PATH, PATH, "file", (overlay(**values), base))


def tags_plan(state: ImageState, wanted: str, name: str = "", **wish: str) -> list[ImageStep]:
    return list(plan_tags(TagWish(wanted, name, **wish), state).steps)


# --- steps ---


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.step)
@given(data=st.data())
def test_each_kind_survives_the_journal(kind: type, data: st.DataObject) -> None:
    step = data.draw(st.builds(kind))
    again = from_dict(json.loads(json.dumps(to_dict(step))))
    assert again == step and isinstance(again, kind)
    assert shown(PATH, step)["path"] == PATH and shown(PATH, step)["step"] == kind.step


def test_steps_are_shown_without_what_is_empty() -> None:
    step = NewOverlay(BASE, "raw", 512, 0o640, owner=0)
    assert shown(PATH, step) == {
        "path": PATH,
        "step": "create_overlay",
        "backing": BASE,
        "backing_format": "raw",
        "size": 512,
        "mode": "0640",
        "owner": 0,
    }
    assert shown(PATH, RemoveOverlay("why", 7)) == {
        "path": PATH,
        "step": "remove_file",
        "why": "why",
    }


# --- snapshots ---


def test_present_is_one_of_that_name() -> None:
    assert tags_plan(tagged("a"), "present", "b") == [CreateTag("b")]
    assert tags_plan(tagged("a", "a"), "present", "a") == []
    full = tagged(*(f"s{number}" for number in range(1024)))
    with pytest.raises(Unsupported, match="at most 1024"):
        tags_plan(full, "present", "new")


def test_absent_is_none_of_that_name() -> None:
    state = tagged("a", "b", "a")
    assert tags_plan(state, "absent", "a") == [DeleteTag("a", "1"), DeleteTag("a", "3")]
    assert tags_plan(state, "absent", id="1") == [DeleteTag("a", "1")]
    assert tags_plan(state, "absent", "b", id="1") == []
    with pytest.raises(Unsupported, match="not the first"):
        tags_plan(state, "absent", id="3")


def test_applied_wants_to_know_which_and_whether() -> None:
    state = tagged("a", "b", "a", holds="2")
    assert tags_plan(state, "applied", "b") == []
    assert tags_plan(state, "applied", id="3") == [ApplyTag("a", "3")]
    keeping = tags_plan(state, "applied", id="3", keep_current="new")
    assert keeping == [CreateTag("new"), ApplyTag("a", "3")]
    assert tags_plan(state, "applied", id="3", keep_current="b") == [ApplyTag("a", "3")]
    with pytest.raises(Conflict, match="another content"):
        tags_plan(state, "applied", id="3", keep_current="a")
    with pytest.raises(Conflict, match="2 snapshots"):
        tags_plan(state, "applied", "a")
    with pytest.raises(NotFound, match="no snapshot with the name 'c'"):
        tags_plan(state, "applied", "c")


def test_marks_that_are_not_known_prove_nothing() -> None:
    state = replace(tagged("a", holds="1"), marks={})
    assert tags_plan(state, "applied", "a") == [ApplyTag("a", "1")]


def test_two_snapshots_of_one_id() -> None:
    """Only a forged image has them: qemu-img would take the first."""
    found = image(PATH, snapshots=(tag(1, "a"), tag(1, "b")))
    state = ImageState(PATH, PATH, "file", (found,))
    with pytest.raises(Problem, match="several snapshots with the id"):
        tags_plan(state, "applied", "b")


def test_which_contents_are_compared() -> None:
    """Only those that a decision needs, and never more than a few of them."""
    found = tagged("a", "b", "k").chain[0]
    assert TagWish("applied", "a", keep_current="k").compared(found) == ("1", "3")
    assert TagWish("present", "a").compared(found) == ()
    assert TagWish("applied", "a").compared(tagged(*["a"] * 99).chain[0]) == ()


def test_bitmaps_bar_the_way_back_and_nothing_else() -> None:
    state = tagged("a", bitmaps=(bitmap("daily", "auto"),))
    with pytest.raises(Unsupported, match="'daily'"):
        tags_plan(state, "applied", "a")
    assert tags_plan(state, "absent", "a") and tags_plan(state, "present", "b")
    ours = "vmkeep-00c0ffee-20261102T030000Z"
    state = tagged("a", bitmaps=(bitmap(ours, "auto"), bitmap("daily", "auto")))
    with pytest.raises(Unsupported, match="bitmaps: 'daily'"):
        tags_plan(state, "applied", "a")
    state = tagged("a", bitmaps=(bitmap(ours, "auto"),))
    plan = plan_tags(TagWish("applied", "a"), state)
    assert plan.steps == (ApplyTag("a", "1", (ours,)),) and "full one" in plan.notes[0]
    after = predict(state, plan.steps).image
    assert after is not None and after.bitmaps == ()


def test_memory_is_told_of() -> None:
    found = image(PATH, snapshots=(tag(1, "live", vm_state_size=5),))
    plan = plan_tags(TagWish("applied", "live"), ImageState(PATH, PATH, "file", (found,)))
    assert "as after a power cut" in plan.notes[0]


def test_what_changes_nothing_asks_nothing() -> None:
    """An image that cannot be changed is fine where nothing is to be done."""
    state = tagged("a", encrypt=object())
    assert tags_plan(state, "present", "a") == []
    with pytest.raises(Unsupported, match="encrypted"):
        tags_plan(state, "present", "b")


# --- overlays ---


def overlay_plan(state: ImageState, wanted: str, **wish: Any) -> list[ImageStep]:
    return list(plan_overlay(OverlayWish(wanted, **wish), state).steps)


def test_a_new_overlay() -> None:
    state = ImageState(PATH, PATH, wanted=(image(BASE),))
    assert overlay_plan(state, "present") == [NewOverlay(BASE, "qcow2", GIB, 0o600)]
    assert overlay_plan(state, "present", size=GIB + 1)[0].size == GIB + 512
    with pytest.raises(Problem, match="at least as large"):
        overlay_plan(state, "present", size=GIB - 512)
    deep = replace(state, wanted=tuple(image(f"/images/{number}") for number in range(200)))
    with pytest.raises(Unsupported, match="200"):
        overlay_plan(deep, "present")


def test_an_overlay_that_is_there() -> None:
    base, other = image(BASE), image("/images/other")
    there = standing_on(base)
    assert overlay_plan(replace(there, wanted=(base,)), "present") == []
    elsewhere = replace(there, wanted=(other,))
    with pytest.raises(Conflict, match="stands on '/images/base'"):
        overlay_plan(elsewhere, "present")
    assert overlay_plan(elsewhere, "present", rebase=True) == [
        Rebase("/images/other", "qcow2", copy=True)
    ]
    with pytest.raises(Conflict, match="still there"):
        overlay_plan(elsewhere, "present", base_moved=True)
    moved = replace(elsewhere, chain=there.chain[:1], trouble=NotFound("gone"), lost=True)
    assert overlay_plan(moved, "present", base_moved=True) == [
        Rebase("/images/other", "qcow2", copy=False)
    ]
    with pytest.raises(Conflict, match="cannot be read"):
        overlay_plan(moved, "present", rebase=True)


def test_a_loop_is_never_made() -> None:
    base = image(BASE)
    state = replace(standing_on(base), wanted=(image("/images/above"), overlay(), base))
    for wish in ({"rebase": True}, {"base_moved": True}, {}):
        with pytest.raises(Problem, match="does not need the overlay"):
            overlay_plan(state, "present", **wish)


def test_a_commit_and_the_removal_that_follows_it() -> None:
    state = standing_on(image(BASE), allocated=5 * MIB)
    commit, removal = overlay_plan(state, "committed", bandwidth=3)
    assert commit == CommitOverlay(BASE, "qcow2", bytes=5 * MIB, bandwidth=3)
    assert (removal.inode, removal.same_as) == (state.chain[0].identity[1], BASE)
    assert overlay_plan(state, "committed", verify=False)[1].same_as == ""
    assert overlay_plan(ImageState(PATH, PATH), "committed") == []


def test_bitmaps_of_a_commit(header_of: Any) -> None:
    base = image(BASE, header=header_of(3), bitmaps=(bitmap("old", "in-use"),))
    state = standing_on(base, bitmaps=(bitmap("a", "auto"), bitmap("b", granularity=512)))
    commit = overlay_plan(state, "committed")[0]
    assert commit.bitmaps == (("a", 65536, True), ("b", 512, False))
    for name, version in (("old", 3), ("a", 2)):
        below = image(BASE, header=header_of(version), bitmaps=(bitmap("old", "in-use"),))
        with pytest.raises(Unsupported, match="cannot take over"):
            overlay_plan(standing_on(below, bitmaps=(bitmap(name, "auto"),)), "committed")


@pytest.fixture
def header_of() -> Any:
    from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.qcow2_header import (
        parse_header,
    )
    from images import build

    return lambda version: parse_header(build.Bytes(build.Fields(version=version)).build()[:112])


def test_a_block_device_does_not_grow() -> None:
    base = image(BASE, format="raw", virtual_size=MIB)
    device = base._replace(file=base.file._replace(identity=(7, 0), length=MIB))
    with pytest.raises(Unsupported, match="block device"):
        overlay_plan(standing_on(device, backing_format="raw"), "committed")


def test_removed_are_overlays_and_nothing_else() -> None:
    assert overlay_plan(ImageState(PATH, PATH), "absent") == []
    assert len(overlay_plan(standing_on(image(BASE)), "absent")) == 1
    for found in (image(PATH), image(PATH, format="raw")):
        with pytest.raises(Conflict, match="no overlay is left alone"):
            overlay_plan(ImageState(PATH, PATH, "file", (found,)), "absent")
    for kind in ("symbolic link", "device"):
        with pytest.raises(Conflict, match=kind):
            overlay_plan(replace(standing_on(image(BASE)), kind=kind), "absent")


# --- prediction ---


def test_what_will_be_needs_nothing_more() -> None:
    """Planning again after what is foreseen gives no steps."""
    state = tagged("a", "b", "a", holds="2")
    for wish in (
        TagWish("present", "new"),
        TagWish("absent", "a"),
        TagWish("applied", "", "3", "kept"),
    ):
        after = predict(state, plan_tags(wish, state).steps)
        assert after != state and plan_tags(wish, after).steps == ()
    other = image("/images/other")
    for wish, before in (
        (OverlayWish("present"), ImageState(PATH, PATH, wanted=(other,))),
        (OverlayWish("present", rebase=True), replace(standing_on(image(BASE)), wanted=(other,))),
        (OverlayWish("committed"), standing_on(image(BASE))),
        (OverlayWish("absent"), standing_on(image(BASE))),
    ):
        steps = plan_overlay(wish, before).steps
        assert steps and plan_overlay(wish, predict(before, steps)).steps == ()


def test_new_snapshots_are_counted_up() -> None:
    found = image(PATH, snapshots=(tag(7, "a"), replace(tag(0, "odd"), id="x")))
    after = predict(ImageState(PATH, PATH, "file", (found,)), [CreateTag("b"), CreateTag("c")])
    assert [each.id for each in after.snapshots] == ["7", "x", "8", "9"]


def test_pictures() -> None:
    assert picture(ImageState(PATH, PATH)) == f"image {PATH}\n  not there\n"
    assert picture(tagged("a", "b", holds="2")).splitlines()[1:] == [
        "  snapshots: 1 a, 2 b",
        "  content: that of snapshot 2 b",
    ]
    assert f"  chain: {BASE} <- {PATH}" in picture(standing_on(image(BASE)))
    odd = tagged("a\nb")
    assert len(picture(odd).splitlines()) == 3


# --- facts ---


def facts(state: ImageState, plan: ImagePlan, **values: Any) -> ImageFacts:
    """A host on which nothing is in the way."""
    wanted = needs(plan, state)
    known = {found.filename: found.identity for found in (*state.chain, *state.wanted)}
    directories = {path: DirectoryFact(path, GIB) for path in wanted.directories}
    return ImageFacts(**{"identities": known, "directories": directories, **values})


def test_who_uses_an_image_keeps_it() -> None:
    state = standing_on(image(BASE))
    plan = plan_overlay(OverlayWish("committed"), state)
    assert vet(plan, state, facts(state, plan)) == plan
    for path in (PATH, BASE):
        with pytest.raises(Busy, match=f"'{path}' is in use by process 7"):
            vet(plan, state, facts(state, plan, users={path: "process 7"}))
    with pytest.raises(Busy, match="half way"):
        vet(plan, state, facts(state, plan, claims={BASE: "/images/o2"}))
    with pytest.raises(Unsupported, match="cannot be written: read-only"):
        vet(plan, state, facts(state, plan, blocked={BASE: "read-only"}))
    with pytest.raises(Unsupported, match="qemu-img cannot be found"):
        vet(plan, state, facts(state, plan, missing="qemu-img"))


def test_who_stands_on_an_image_keeps_it() -> None:
    base, top = image(BASE), overlay()
    state = standing_on(base)
    plan = plan_overlay(OverlayWish("committed"), state)
    itself = Standing("image disk", (base.identity,), top.identity)
    assert vet(plan, state, facts(state, plan, standing=(itself,)))
    sibling = image("/images/sibling")
    for user in (
        Standing("a sibling", (base.identity,), sibling.identity),
        Standing("what is above", (top.identity,), sibling.identity),
        Standing("a VM on the overlay", (base.identity,), top.identity, vm=True),
        Standing("a VM above", (top.identity, base.identity), sibling.identity, vm=True),
        Standing("a VM on the base", (), base.identity, vm=True),
        Standing("a snapshot", (base.identity,)),
    ):
        with pytest.raises(Conflict, match=user.user):
            vet(plan, state, facts(state, plan, standing=(itself, user)))


def test_a_snapshot_is_deleted_whoever_stands_on_the_image() -> None:
    """But for one that libvirt has a record of, wherever in a chain its image is."""
    state = tagged("a", "b", holds="b")
    identity, above = state.chain[0].identity, image("/images/above").identity
    overlays = Standing("image above", (identity,), above)
    vm = Standing("disk vda of VM db", (identity,), above, vm=True)
    plan = plan_tags(TagWish("absent", "a"), state)
    assert vet(plan, state, facts(state, plan, standing=(overlays, vm)))
    inside = Standing("snapshot a of VM db", (), identity, tags=frozenset("a"))
    for user in (replace(vm, tags=frozenset("a")), inside):
        with pytest.raises(Conflict, match=f"recorded for {user.user}"):
            vet(plan, state, facts(state, plan, standing=(user,)))
    for wish in (TagWish("present", "c"), TagWish("applied", "a")):
        plan = plan_tags(wish, state)
        with pytest.raises(Conflict, match="needed as it is by image above"):
            vet(plan, state, facts(state, plan, standing=(overlays,)))
    state = standing_on(image(BASE))
    plan = plan_overlay(OverlayWish("absent"), state)
    inside = replace(inside, disk=state.chain[0].identity)
    with pytest.raises(Conflict, match="holds snapshot a of VM db"):
        vet(plan, state, facts(state, plan, standing=(inside,)))


def test_vms_that_are_off() -> None:
    state = tagged("a", "b", holds="b")
    identity = state.chain[0].identity
    vm = Standing("disk vda of VM db", (), identity, vm=True)
    for wish in (TagWish("present", "c"), TagWish("applied", "a"), TagWish("absent", "a")):
        plan = plan_tags(wish, state)
        notes = vet(plan, state, facts(state, plan, standing=(vm,))).notes
        assert "is disk vda of VM db" in notes[0]
    saved, recorded = replace(vm, saved=True), replace(vm, tags=frozenset("a"))
    plan = plan_tags(TagWish("applied", "a"), state)
    with pytest.raises(Conflict, match="memory is saved"):
        vet(plan, state, facts(state, plan, standing=(saved,)))
    plan = plan_tags(TagWish("absent", "a"), state)
    with pytest.raises(Conflict, match="recorded for"):
        vet(plan, state, facts(state, plan, standing=(recorded,)))


def test_the_disk_of_a_vm_is_merged_by_the_module_for_vms() -> None:
    """Which writes to what is below a VM's own disk only where that is named."""
    state = standing_on(image(BASE))
    vm = Standing("disk vda of VM db", (), state.chain[0].identity, vm=True)
    for wished, said in (
        ("committed", f"(with 'disks' and 'base: {BASE}')"),
        ("absent", "commit,"),
    ):
        plan = plan_overlay(OverlayWish(wished), state)
        with pytest.raises(Conflict) as refused:
            vet(plan, state, facts(state, plan, standing=(vm,)))
        assert said in refused.value.todo


def test_a_base_may_be_read_but_not_written_to() -> None:
    base = image(BASE)
    state = ImageState(PATH, PATH, wanted=(base,))
    plan = plan_overlay(OverlayWish("present"), state)
    assert vet(plan, state, facts(state, plan, users={BASE: "a reader"}))
    with pytest.raises(Busy, match="written to by a writer"):
        vet(plan, state, facts(state, plan, writers={BASE: "a writer"}))


def test_room_and_places() -> None:
    state = standing_on(image(BASE), allocated=50 * MIB)
    plan = plan_overlay(OverlayWish("committed"), state)
    small = {"/images": DirectoryFact("/images", 40 * MIB)}
    with pytest.raises(Unsupported, match=f"at least {49 * MIB} bytes"):
        vet(plan, state, facts(state, plan, directories=small))
    closed = {"/images": DirectoryFact("/images", GIB, "is not writable")}
    with pytest.raises(NotFound, match="is not writable"):
        vet(plan, state, facts(state, plan, directories=closed))


# --- recovery ---


def journal(*steps: ImageStep, done: int = 0, marks: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a run left that had done so many of its steps."""
    entries = [{"step": to_dict(step), "done": n < done} for n, step in enumerate(steps)]
    plain: dict[str, Any] = json.loads(json.dumps({"steps": entries, "marks": list(marks)}))
    return {**plain, "run": "a module 1"}


def left(state: ImageState, *steps: ImageStep, **options: Any) -> ImageState:
    return replace(state, journal=journal(*steps, **options))


COMMIT = CommitOverlay(BASE, "qcow2")
REMOVAL = RemoveOverlay("merged", overlay().identity[1])


def recovery(state: ImageState, **options: bool) -> list[ImageStep]:
    return list(plan_image_recovery(state, **options).steps)


def test_without_a_journal_there_is_nothing_to_recover() -> None:
    assert plan_image_recovery(tagged()) == ImagePlan(PATH)


def test_snapshots_are_there_or_not() -> None:
    assert recovery(left(tagged("a"), CreateTag("a"))) == [Repair(PATH)]
    assert recovery(left(tagged("a"), DeleteTag("a", "1"))) == [Repair(PATH)]


def test_going_back_is_finished_once_begun() -> None:
    step, begun = ApplyTag("a", "1"), (begun_mark(0),)
    assert recovery(left(tagged("a"), step)) == [Repair(PATH)]
    assert recovery(left(tagged("a"), step, marks=begun)) == [Repair(PATH), step]
    assert recovery(left(tagged("a", holds="1"), step, marks=begun)) == [Repair(PATH)]
    assert recovery(left(tagged("a"), step, marks=begun), finish=False) == [Repair(PATH)]
    with pytest.raises(Conflict, match="is gone"):
        recovery(left(tagged(), step, marks=begun))


def test_a_commit_is_finished_once_begun() -> None:
    state, begun = standing_on(image(BASE)), (begun_mark(0),)
    assert recovery(left(state, COMMIT, REMOVAL)) == [Repair(PATH)]
    finished = [Repair(PATH), Repair(BASE), COMMIT, REMOVAL]
    assert recovery(left(state, COMMIT, REMOVAL, marks=begun)) == finished
    assert recovery(left(state, COMMIT, REMOVAL, done=1, marks=begun)) == [REMOVAL]
    gone = ImageState(PATH, PATH)
    assert recovery(left(gone, COMMIT, REMOVAL, done=1, marks=begun)) == []
    with pytest.raises(Conflict, match="is gone, with what only it held"):
        recovery(left(gone, COMMIT, REMOVAL, marks=begun))
    moved = standing_on(image("/images/other"))
    with pytest.raises(Conflict, match="no longer stands on"):
        recovery(left(moved, COMMIT, REMOVAL, marks=begun))
    raw = standing_on(image(BASE, format="raw"))
    step = CommitOverlay(BASE, "raw")
    assert Repair(BASE) not in recovery(left(raw, step, REMOVAL, marks=begun))


def test_another_file_is_not_removed() -> None:
    """Somebody has made a new overlay where the merged one was."""
    state = standing_on(image(BASE))
    other = replace(REMOVAL, inode=REMOVAL.inode + 1)
    assert recovery(left(state, COMMIT, other, done=1)) == []


def test_a_removal_that_was_asked_for_is_asked_for_again() -> None:
    state = standing_on(image(BASE))
    assert recovery(left(state, REMOVAL)) == []


def test_an_overlay_that_was_begun_has_no_name() -> None:
    step = NewOverlay(BASE, "qcow2", GIB, 0o600)
    state = replace(ImageState(PATH, PATH), drafts=("/images/.vmkeep-1",))
    assert recovery(left(state, step)) == [RemoveDraft("/images/.vmkeep-1")]
    complete = replace(standing_on(image(BASE)), drafts=state.drafts)
    assert recovery(left(complete, step)) == [RemoveDraft("/images/.vmkeep-1")]


def test_a_rebase_leaves_one_or_the_other() -> None:
    state = standing_on(image(BASE))
    assert recovery(left(state, Rebase("/x", "raw", copy=True))) == [Repair(PATH)]


def test_bases_that_are_claimed() -> None:
    assert bases_of(journal(COMMIT, REMOVAL)) == ()
    assert bases_of(journal(COMMIT, REMOVAL, marks=(begun_mark(0),))) == (BASE,)
    assert bases_of(journal(COMMIT, REMOVAL, done=1, marks=(begun_mark(0),))) == ()


def test_what_was_done_is_told() -> None:
    begun = (begun_mark(0),)
    state = standing_on(image(BASE, bitmaps=(bitmap("daily", "in-use"),)))
    notes = plan_image_recovery(left(state, COMMIT, REMOVAL, marks=begun)).notes
    assert "finished what an interrupted run had begun (a module 1)" in notes[0]
    assert "'daily'" in notes[1] and "full one" in notes[1]
    assert "brought in order" in plan_image_recovery(left(tagged(), CreateTag("a"))).notes[0]
