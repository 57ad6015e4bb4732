# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans held against facts: what is looked up, and each reason to refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.freeze import FreezeRecord
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    BadInput,
    Conflict,
    NotFound,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import (
    DirectoryFact,
    FileFact,
    ImageUse,
    Job,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CommitDisk,
    ForgetSnapshot,
    Plan,
    RemoveFile,
    ResumeVm,
    SetSource,
    TakeSnapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.absent import (
    AbsentWish,
    plan_absent,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.pull import PullWish, plan_pull
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.room import OVERLAY_ROOM
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.snapshot import (
    SnapshotWish,
    plan_present,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import (
    Needs,
    needs,
    settle,
)
from builders import FOLDER, MIB, at, disk, facts, image, memory_of, of, paths, stacked, vm

TAKE = SnapshotWish("s1")
RUNNING = vm(disk("vda"), disk("vdb"))
MERGED = stacked("s1", "s2")


def settled(plan, state, *, ours=(), **found):
    return settle(plan, state, facts(needs(plan, state), **found), ours)


def take(state=RUNNING, wish=TAKE, **found):
    return settled(plan_present(wish, state), state, **found)


def commit(state=MERGED, wish=CommitWish(), **found):  # noqa: B008 - a value
    return settled(plan_commit(wish, state), state, **found)


# --- what is looked up ---


def test_what_a_snapshot_needs():
    state = vm(disk("vda"), disk("vdb", "/fast/b"), disk("sda", device="cdrom", readonly=True))
    assert needs(plan_present(TAKE, state), state) == Needs(
        files=(at("vda", "s1"), "/fast/db.vdb.s1.qcow2"),
        directories=("/fast", FOLDER),
        targets=("vda", "vdb"),
        agent=True,
    )


def test_memory_needs_room_for_its_file_and_an_agent_if_there_is_one():
    """The agent is not to freeze the guest, but to tell that nobody has."""
    wish = replace(TAKE, memory=True, disks=("vda",))
    for state, asked in (
        (RUNNING, True),
        (replace(RUNNING, status="paused"), False),
        (vm(disk("vda"), disk("vdb"), agent="disconnected"), False),
    ):
        found = needs(plan_present(wish, state), state)
        assert found.files == (at("vda", "s1"), memory_of("s1"))
        assert (found.directories, found.targets, found.agent) == ((FOLDER,), ("vda",), asked)
    inside = replace(TAKE, mode="internal")
    for status in ("running", "shutoff"):
        state = vm(status=status)
        assert needs(plan_present(inside, state), state).agent == (status == "running")


def test_what_a_commit_needs():
    state = stacked("s1", "s2", memory="external")
    files = (*paths("vda", "s2 s1"), memory_of("s1"), memory_of("s2"))
    assert needs(plan_commit(CommitWish(), state), state) == Needs(
        files=files,
        directories=(FOLDER,),
        images=(at("vda", "base"), *files),
        removed=files,
        targets=("vda",),
        written=(at("vda", "base"),),
    )


def test_an_empty_plan_needs_nothing_and_is_not_held_against_anything():
    assert needs(Plan("db"), RUNNING) == Needs()
    assert settle(Plan("db"), vm(), facts(Needs())) == Plan("db")


def test_a_vm_is_resumed_whatever_is_in_the_way():
    plan = Plan("db", (ResumeVm(),))
    assert settled(plan, RUNNING, agent="frozen") == plan


def test_a_plan_that_nothing_stands_in_the_way_of_is_left_as_it_is():
    assert take(agent="thawed") == plan_present(TAKE, RUNNING)
    assert commit() == plan_commit(CommitWish(), MERGED)


# --- new files ---


@pytest.mark.parametrize("kind", ["file", "directory", "symbolic link", "other"])
@pytest.mark.parametrize("path", [at("vdb", "s1"), memory_of("s1")])
def test_a_file_in_the_way(path, kind):
    found = {path: FileFact(path, kind, 12)}
    wish = replace(TAKE, memory=True)
    with pytest.raises(Conflict) as error:
        take(wish=wish, existing=found)
    assert error.value.found == f"{path} exists already ({kind}, 12 bytes)"
    assert take(wish=wish, existing=found, ours=[path]).steps, "it goes before this plan starts"


@pytest.mark.parametrize("trouble", ["does not exist", "is not writable"])
def test_a_directory_that_takes_no_files(trouble):
    places = {FOLDER: DirectoryFact(FOLDER, 1 << 50, trouble)}
    with pytest.raises(NotFound, match=f"the directory {FOLDER} {trouble}"):
        take(directories=places)


def test_room_for_overlays():
    exact = DirectoryFact(FOLDER, 2 * OVERLAY_ROOM)
    assert take(directories={FOLDER: exact}).steps
    with pytest.raises(
        Unsupported, match=f"{FOLDER} has {2 * OVERLAY_ROOM - 1} bytes free"
    ) as error:
        take(directories={FOLDER: replace(exact, free=exact.free - 1)})
    assert f"at least {2 * OVERLAY_ROOM} bytes" in error.value.wanted


def test_room_is_counted_for_each_directory():
    wish = replace(TAKE, files=(("vdb", "/fast/b"),))
    one = {path: DirectoryFact(path, OVERLAY_ROOM) for path in (FOLDER, "/fast")}
    assert take(wish=wish, directories=one).steps


def test_room_for_the_memory():
    wish = replace(TAKE, memory=True, quiesce="never")
    exact = {FOLDER: DirectoryFact(FOLDER, 2 * OVERLAY_ROOM + 700)}
    assert needs(plan_present(wish, RUNNING), RUNNING).memory
    assert not needs(plan_present(TAKE, RUNNING), RUNNING).memory
    assert take(wish=wish, directories=exact, memory=700).steps
    with pytest.raises(Unsupported, match=f"{FOLDER} has {2 * OVERLAY_ROOM + 700} bytes free"):
        take(wish=wish, directories=exact, memory=701)


# --- room for merged data ---


def sized(*sizes: int, base: str = "base"):
    """s2, s1 and a base with so many MiB each."""
    words = ("s2", "s1", base)
    images = {w: {"allocated": n * MIB} for w, n in zip(words, sizes, strict=True)}
    return vm(disk("vda", " ".join(words), images=images, stacked=" ".join(words)))


@pytest.mark.parametrize(
    ("sizes", "needed"),
    [
        ((50, 10, 20), 30),  # at least what s2 has more than the base
        ((10, 50, 20), 30),
        ((30, 30, 20), 10),  # the two may hold the same blocks
        ((20, 20, 20), 0),
    ],
)
def test_room_for_what_a_base_must_receive(sizes, needed):
    state = sized(*sizes)
    just = DirectoryFact(FOLDER, needed * MIB)
    assert commit(state, directories={FOLDER: just}).steps
    if needed:
        with pytest.raises(Unsupported, match="bytes free"):
            commit(state, directories={FOLDER: replace(just, free=just.free - 1)})


def test_a_block_device_does_not_grow():
    full = {"/dev/vg": DirectoryFact("/dev/vg", 0)}
    assert commit(sized(50, 10, 0, base="/dev/vg/lv"), directories=full).steps


def test_the_directory_of_a_base_need_not_take_new_files():
    readonly = {FOLDER: DirectoryFact(FOLDER, 0, "is not writable")}
    assert commit(sized(50, 10, 20), directories=readonly).steps


# --- users of images ---


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("base", "is to receive merged data"),
        ("s1", "is to be merged away"),
        ("s2", "is to be merged away"),
    ],
)
def test_an_image_that_somebody_else_stands_on(word, said):
    path = at("vda", word)
    uses = (ImageUse("/other", "VM x"), ImageUse(path, "disk vda of VM web"), ImageUse(path, "b"))
    with pytest.raises(Conflict) as error:
        commit(uses=uses)
    assert error.value.found == (
        f"image {path} of VM db {said} but is also used by disk vda of VM web, b"
    )
    assert commit(uses=uses[:1]).steps


def test_a_loose_overlay_that_somebody_else_stands_on():
    state = replace(stacked("s1"), disks=(disk("vda"),))
    plan = plan_absent(AbsentWish("s1"), state)
    assert settled(plan, state).steps
    with pytest.raises(Conflict, match="is to be removed but is also used by image /b"):
        settled(plan, state, uses=(ImageUse(at("vda", "s1"), "image /b"),))


# --- files that are still needed ---


def remove(path: str, state, identity=None, before=()):
    plan = Plan("db", (*before, RemoveFile(path, "no longer needed")))
    existing = {path: FileFact(path, "file", 1, identity or image(path).identity)}
    return settled(plan, state, existing=existing)


@pytest.mark.parametrize("word", ["s2", "s1", "base"])
def test_an_image_of_a_chain_is_not_removed(word):
    with pytest.raises(Conflict, match="the definition of VM db still names it"):
        remove(at("vda", word), MERGED)


@pytest.mark.parametrize(
    "state",
    [
        vm(disk("vda", "s2 base", persistent="old")),
        vm(disk("vda", "s2 base", recorded="old base")),
        vm(disk("vda", "s2 old", trouble="torn")),
        vm(disk("vda", "old", trouble="torn")),
    ],
    ids=["persistent", "recorded", "recorded live", "unreadable"],
)
def test_what_a_definition_names_is_not_removed(state):
    with pytest.raises(Conflict, match="still names it"):
        remove(at("vda", "old"), state)


def test_an_image_is_known_under_any_name():
    """The directory may be a symbolic link, the file a hard link."""
    with pytest.raises(Conflict, match=f"as {at('vda', 's1')}"):
        remove("/link/s1", MERGED, identity=image(at("vda", "s1")).identity)
    assert remove("/link/s9", MERGED).steps


def test_a_merged_image_is_removed_under_any_name():
    merge = of(CommitDisk, plan_commit(CommitWish(), MERGED))
    assert remove(at("vda", "s1"), MERGED, before=merge).steps
    assert remove("/link/s1", MERGED, image(at("vda", "s1")).identity, before=merge).steps
    with pytest.raises(Conflict):
        remove(at("vda", "base"), MERGED, before=merge)


def test_what_the_definition_is_moved_away_from_is_removed():
    """After a run died between the merge and the definition."""
    old = vm(disk("vda", "base", persistent="s2", recorded="s1 base"))
    move = SetSource("vda", *paths("vda", "s2 base"), "qcow2", paths("vda", "s2 s1"))
    for word in ("s2", "s1"):
        assert remove(at("vda", word), old, before=[move]).steps
        with pytest.raises(Conflict):
            remove(at("vda", word), old)


def test_what_the_definition_stays_on_is_not_removed():
    old = vm(disk("vda", "s2 base", recorded="s1 base"))
    same = SetSource("vda", *paths("vda", "s2 s2"), "qcow2", paths("vda", "s1"))
    assert remove(at("vda", "s1"), old, before=[same]).steps
    with pytest.raises(Conflict):
        remove(at("vda", "s2"), old, before=[same])


# --- block jobs ---


@pytest.mark.parametrize(
    "kind", ["pull", "copy", "commit", "active-commit", "backup", "unknown (9)"]
)
def test_a_snapshot_waits_for_no_job(kind):
    with pytest.raises(Conflict) as error:
        take(jobs=(Job("vdb", kind, at("vdb", "base"), True),))
    assert kind in error.value.found and "disk vdb of VM db" in error.value.found
    assert "virsh blockjob db vdb" in error.value.todo


def test_a_job_on_a_disk_that_is_left_out():
    assert take(wish=replace(TAKE, disks=("vda",)), jobs=(Job("vdb", "copy"),)).steps


BASE = at("vda", "base")


@pytest.mark.parametrize(
    ("wish", "resume", "job", "goes"),
    [
        (CommitWish(), True, Job("vda", "active-commit", BASE), True),
        (CommitWish(), True, Job("vda", "active-commit", BASE, True), True),
        (CommitWish(), False, Job("vda", "active-commit", BASE, True), False),
        (CommitWish(), True, Job("vda", "active-commit", at("vda", "s1")), False),
        (CommitWish(), True, Job("vda", "commit"), False),
        (CommitWish(), True, Job("vda", "copy", BASE, True), False),
        (CommitWish(), True, Job("vda", "pull"), False),
        (CommitWish(), True, Job("vda", "backup"), False),
        (CommitWish(top=at("vda", "s1")), True, Job("vda", "commit"), True),
        (CommitWish(top=at("vda", "s1")), False, Job("vda", "commit"), False),
        (CommitWish(top=at("vda", "s1")), True, Job("vda", "active-commit", BASE), False),
        (CommitWish(), False, Job("vdb", "copy"), True),
    ],
)
def test_only_the_job_of_an_interrupted_run_of_ours_goes_on(wish, resume, job, goes):
    plan = plan_commit(wish, MERGED)
    first, *rest = plan.steps
    plan = replace(plan, steps=(replace(first, resume=resume), *rest))
    if goes:
        assert settled(plan, MERGED, jobs=(job,)) == plan
        return
    with pytest.raises(Conflict, match=r"a block job \("):
        settled(plan, MERGED, jobs=(job,))


# --- what is written to ---


def test_images_on_a_read_only_file_system():
    """qemu-img says so half way, and libvirt when all else was done."""
    inside = replace(TAKE, mode="internal")
    off = stacked("s1", status="shutoff")
    pull = plan_pull(PullWish(), off)
    for plan, state, image_path in (
        (plan_present(inside, RUNNING), RUNNING, at("vda", "base")),
        (plan_commit(CommitWish(), off), off, at("vda", "base")),
        (plan_absent(AbsentWish("s1"), off), off, at("vda", "base")),
        (pull, off, at("vda", "s1")),
    ):
        assert image_path in needs(plan, state).written
        with pytest.raises(Unsupported, match="is on a read-only file system"):
            settled(plan, state, read_only=(image_path,))
    assert needs(plan_present(TAKE, RUNNING), RUNNING).written == ()


def test_one_overlay_for_two_disks_by_other_names():
    state = vm(disk("vda"), disk("vdb"))
    wish = replace(TAKE, files=(("vda", "/a/s1.qcow2"), ("vdb", "/b/s1.qcow2")))
    places = {
        "/a": DirectoryFact("/a", 1 << 50, real="/a"),
        "/b": DirectoryFact("/b", 1 << 50, real="/a"),
    }
    with pytest.raises(BadInput, match=r"/b/s1\.qcow2 and /a/s1\.qcow2 are the same file"):
        take(state, wish, directories=places)
    assert take(state, wish).steps


def test_memory_that_qemu_would_not_write():
    for wish in (replace(TAKE, memory=True), replace(TAKE, mode="internal")):
        assert needs(plan_present(wish, RUNNING), RUNNING).kept
        with pytest.raises(Unsupported, match="not write the memory of VM db: 9p is mounted"):
            take(wish=wish, held=("9p is mounted",))
    assert not needs(plan_present(TAKE, RUNNING), RUNNING).kept


# --- managed save ---


@pytest.mark.parametrize("status", ["shutoff", "running"])
def test_a_managed_save(status):
    state = stacked("s1", status=status)
    for plan in (plan_present(SnapshotWish("s2"), state), plan_commit(CommitWish(), state)):
        if status == "running":
            assert settled(plan, state, managed_save=True).steps
            continue
        with pytest.raises(Conflict, match="has a managed save") as error:
            settled(plan, state, managed_save=True)
        assert "managedsave-remove" in error.value.todo
    metadata = Plan("db", (ForgetSnapshot("s1"),))
    assert settled(metadata, state, managed_save=True) == metadata


def test_a_save_elsewhere():
    state = stacked("s1", status="shutoff")
    with pytest.raises(Conflict, match=r"was saved to .*, and continues on") as error:
        settled(plan_commit(CommitWish(), state), state, saved_to="/m.save")
    assert "vm_memory with state running and path /m.save" in error.value.todo


# --- the guest agent ---


@pytest.mark.parametrize("quiesce", ["preferred", "required"])
def test_somebody_else_has_frozen_the_guest(quiesce):
    with pytest.raises(Conflict, match="are frozen by somebody else"):
        take(wish=replace(TAKE, quiesce=quiesce), agent="frozen")


def test_the_memory_of_a_frozen_guest():
    """Whoever went back to it would find a guest that is frozen, and nobody who thaws it."""
    for wish in (replace(TAKE, memory=True), replace(TAKE, mode="internal")):
        with pytest.raises(Conflict, match="are frozen by somebody else"):
            take(wish=wish, agent="frozen")
        held = FreezeRecord("t", 60, "2026-01-01T00:00:00+00:00", (), ("/",))
        still = replace(RUNNING, status="paused", freeze=held)
        with pytest.raises(Conflict, match="are frozen by vm_freeze until 2026"):
            take(still, wish)
        assert take(still, TAKE).steps, "disks alone"
        assert take(wish=wish, agent="silent").steps


def test_an_agent_that_does_not_answer():
    plan = take(agent="silent")
    assert of(TakeSnapshot, plan)[0].quiesce == "never"
    assert plan.notes == ("db: not quiesced, the guest agent does not answer",)
    assert len(plan.steps) == 3, "all else is as it was"
    with pytest.raises(Unsupported, match="agent of VM db does not answer"):
        take(wish=replace(TAKE, quiesce="required"), agent="silent")


def test_an_agent_that_was_not_asked():
    assert take(wish=replace(TAKE, quiesce="never")).notes == ()


def test_an_agent_that_may_not_freeze():
    """Nor one that may not thaw: its guest would stay frozen."""
    for name in ("guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status"):
        plan = take(agent="silent" if "status" in name else "thawed", blocked=(name,))
        assert of(TakeSnapshot, plan)[0].quiesce == "never"
        assert plan.notes == (f"db: not quiesced, the guest agent does not allow {name}",)
        with pytest.raises(Unsupported, match=f"does not allow {name}"):
            take(wish=replace(TAKE, quiesce="required"), agent="thawed", blocked=(name,))


def test_an_agent_that_may_not_run_programs():
    wish = replace(TAKE, flush_timeout=30)
    assert of(TakeSnapshot, take(wish=wish, agent="thawed"))[0].flush_timeout == 30
    plan = take(wish=wish, agent="thawed", blocked=("guest-exec-status",))
    step = of(TakeSnapshot, plan)[0]
    assert (step.quiesce, step.flush_timeout) == (TAKE.quiesce, 0)
    assert plan.notes == (
        "db: not all was written out before the freeze: its agent does not allow guest-exec-status",
    )
    assert take(agent="thawed", blocked=("guest-exec",)).notes == (), "it was not to"


def test_nothing_is_run_in_a_guest_that_is_not_frozen():
    for wish in (replace(TAKE, quiesce="never"), replace(TAKE, memory=True)):
        plan = take(wish=replace(wish, flush_timeout=30))
        assert of(TakeSnapshot, plan)[0].flush_timeout == 0
    plan = take(wish=replace(TAKE, flush_timeout=30), agent="silent")
    assert of(TakeSnapshot, plan)[0].flush_timeout == 0


def test_only_what_lies_on_the_disks_that_are_taken_is_frozen():
    """Where the guest tells; all else is as it was. Nothing is to be looked up for all disks."""
    state = vm(disk("vda"), disk("vdb"), disk("sda", device="cdrom", readonly=True))
    wish = replace(TAKE, disks=("vdb",))
    plan = plan_present(wish, state)
    assert needs(plan, state).part == ("vdb",)
    for other in (TAKE, replace(TAKE, disks=("vda", "vdb")), replace(wish, quiesce="never")):
        assert needs(plan_present(other, state), state).part == ()

    def step(**found):
        return of(TakeSnapshot, settle(plan, state, facts(needs(plan, state), **found)))[0]

    assert step(agent="thawed", points=("/srv",)).mountpoints == ("/srv",)
    assert step(agent="thawed", points=None).mountpoints == ()
    blocked = ("guest-fsfreeze-freeze-list",)
    assert step(agent="thawed", points=("/srv",), blocked=blocked).mountpoints == ()
    assert step(agent="silent").mountpoints == ()


def test_disks_on_which_nothing_is_mounted():
    state = vm(disk("vda"), disk("vdb"))
    for quiesce in ("preferred", "required"):
        plan = plan_present(replace(TAKE, disks=("vdb",), quiesce=quiesce), state)
        found = facts(needs(plan, state), agent="thawed", points=())
        if quiesce == "required":
            with pytest.raises(
                Unsupported, match="no file system of VM db is mounted that lies on"
            ):
                settle(plan, state, found)
            continue
        plan = settle(plan, state, found)
        assert of(TakeSnapshot, plan)[0].quiesce == "never"
        assert plan.notes == ("db: not quiesced, no file system is mounted that lies on vdb",)
