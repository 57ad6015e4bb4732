# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps storage snapshots take, and what they are held against."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    BadInput,
    Conflict,
    NotFound,
    Problem,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    CHECKPOINT,
    FILESYSTEM,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import (
    FileFact,
    ImageUse,
    VmState,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    RemoveStorage,
    RevertStorage,
    SnapshotStorage,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.storage import (
    BTRFS,
    LVM,
    REFLINK,
    Copy,
    Ground,
    StorageSnapshot,
    StorageState,
    from_mark,
    gathered,
    mark_of,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.volume import Volume
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.picture import picture
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.storage import (
    TEMPORARY,
    StorageWish,
    plan_storage_absent,
    plan_storage_present,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.storage_revert import (
    StorageRevertWish,
    plan_storage_reverted,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import needs, settle
from builders import GIB, UUID, at, disk, facts, kinds, of, snapshot, vm

VDA, VDB = at("vda", "base"), at("vdb", "base")
BACK = StorageRevertWish("s1")


def copy(target: str = "vda", **values: Any) -> Copy:
    image = at(target, "base")
    return Copy(target, REFLINK, image, f"{image}@s1", f"{image}@s1", **values)


def taken(*copies: Copy, **values: Any) -> StorageSnapshot:
    values = {"consistency": FILESYSTEM, "created": 1000, **values}
    return StorageSnapshot("s1", copies=copies or (copy(), copy("vdb")), **values)


def stored(state: VmState, *snapshots: StorageSnapshot, **values: Any) -> VmState:
    """The VM with these storage snapshots, all of whose copies exist."""
    things = {thing for s in snapshots for c in s.copies for thing in (c.made, c.place)}
    values.setdefault("existing", frozenset(things))
    return replace(state, storage=StorageState(True, snapshots, **values))


def off(*disks: Any, **values: Any) -> VmState:
    return vm(*(disks or (disk("vda"), disk("vdb"))), status="shutoff", **values)


def volume(name: str = "vg/db", **values: Any) -> Volume:
    paths = (f"/dev/{name}", f"/dev/mapper/{name.replace('/', '-')}")
    fields = {"number": (253, 1), "size": GIB, "thin": False, "free": GIB, **values}
    return Volume(name, paths, **fields)


def on_volume(found: Volume | None, status: str = "shutoff", path: str = "/dev/vg/db") -> VmState:
    """A VM with one disk on a device."""
    state = vm(disk("vda", path, kind="block", images={path: {"format": "raw"}}), status=status)
    ground = Ground("vda", "", found, trouble="" if found else "it is no logical volume")
    volumes = (found,) if found else ()
    return stored(state, grounds=(ground,), volumes=volumes)


LVM_COPY = Copy("vda", LVM, "/dev/vg/db", "vg/db.s1", "/dev/vg/db.s1", "vg/db", size=GIB // 5)


# --- taking ---


def test_a_vm_that_is_off_is_copied_directly():
    plan = plan_storage_present(StorageWish("s1"), stored(off()))
    assert plan.steps == (SnapshotStorage("s1", (copy(), copy("vdb"))),)


def test_a_running_vm_writes_to_overlays_meanwhile():
    state = stored(vm(disk("vda"), disk("vdb")))
    plan = plan_storage_present(StorageWish("s1"), state)
    assert kinds(plan) == [
        *["create_overlay"] * 2, "take_snapshot", "snapshot_storage", *["commit"] * 2,
        "forget_snapshot", *["remove_file"] * 2,
    ]  # fmt: skip
    assert of(SnapshotStorage, plan)[0].frozen == TEMPORARY
    after = predict(state, plan)
    assert after.disks == state.disks and after.snapshots == ()
    assert plan_storage_present(StorageWish("s1"), after).steps == ()
    assert "      vda: /vms/db.vda.base.qcow2@s1" in picture(after)
    assert picture(state) != picture(after)


def test_a_picture_of_other_modules_says_nothing_of_storage():
    assert "storage" not in picture(vm())


def test_an_overlay_is_copied_with_what_it_stands_on():
    below = ((at("vda", "base"), "file 1 2 3"),)
    state = stored(off(disk("vda", "top base")), grounds=(Ground("vda", below=below),))
    (step,) = plan_storage_present(StorageWish("s1"), state).steps
    assert step.copies[0].image == at("vda", "top") and step.copies[0].below == below


def test_a_merge_that_was_not_done_is_made_up_for():
    found = taken(copy())
    state = stored(vm(disk("vda", f"{TEMPORARY} base"), snapshots=[snapshot(TEMPORARY)]), found)
    assert kinds(plan_storage_present(StorageWish("s1"), state)) == [
        "commit", "forget_snapshot", "remove_file",
    ]  # fmt: skip
    with pytest.raises(Conflict, match="whose journal is lost"):
        plan_storage_present(StorageWish("s2"), state)


@pytest.mark.parametrize(
    ("wish", "found", "words"),
    [
        ({"disks": ("vda",)}, {}, "covers vda, vdb, not vda"),
        ({"backend": LVM}, {}, "that of vda was made by reflink, not lvm"),
        ({"quiesce": "required"}, {"consistency": "crash"}, "only crash-consistent"),
    ],
)
def test_one_that_differs(wish, found, words):
    state = stored(off(), taken(**found))
    with pytest.raises(Conflict, match=words):
        plan_storage_present(StorageWish("s1", **wish), state)


def test_one_that_is_damaged():
    state = stored(off(), taken(), existing=frozenset({copy().made}))
    with pytest.raises(Conflict, match=r"vdb\.base\.qcow2@s1, which held vdb, is gone"):
        plan_storage_present(StorageWish("s1"), state)
    invalid = volume("vg/db.s1", origin="vg/db", invalid=True)
    state = stored(off(disk()), taken(LVM_COPY), volumes=(volume(), invalid))
    with pytest.raises(Conflict, match="its space for changes overflowed"):
        plan_storage_present(StorageWish("s1"), state)


def test_a_btrfs_subvolume():
    grounds = (Ground("vda", "/vms"), Ground("vdb", "/vms"))
    state = stored(off(), grounds=grounds)
    (step,) = plan_storage_present(StorageWish("s1", BTRFS), state).steps
    assert {c.made for c in step.copies} == {"/vms/.vmkeep/db@s1"}
    assert step.copies[0].file == "/vms/.vmkeep/db@s1/db.vda.base.qcow2"
    with pytest.raises(Unsupported, match="lies in no btrfs subvolume"):
        plan_storage_present(StorageWish("s1", BTRFS), stored(off()))


# --- LVM ---


def test_a_thick_volume():
    (step,) = plan_storage_present(StorageWish("s1"), on_volume(volume())).steps
    assert step.copies == (LVM_COPY,)
    exact = StorageWish("s1", cow_bytes=5 << 20)
    assert plan_storage_present(exact, on_volume(volume())).steps[0].copies[0].size == 5 << 20


def test_a_thin_volume():
    (step,) = plan_storage_present(StorageWish("s1"), on_volume(volume(thin=True))).steps
    assert step.copies[0].thin and step.copies[0].size == 0


def test_a_running_vm_on_a_volume_needs_a_directory():
    state = on_volume(volume(), "running")
    with pytest.raises(BadInput, match="set the option 'directory'"):
        plan_storage_present(StorageWish("s1"), state)
    plan = plan_storage_present(StorageWish("s1", directory="/tmp"), state)
    assert kinds(plan)[:3] == ["create_overlay", "take_snapshot", "snapshot_storage"]


@pytest.mark.parametrize(
    ("name", "found", "error", "words"),
    [
        ("s1", None, Unsupported, "it is no logical volume"),
        ("s1", volume(origin="vg/other"), Unsupported, "it is a snapshot itself"),
        ("at:noon", volume(), BadInput, "cannot be called db.at:noon"),
        ("x@y", volume(), BadInput, "cannot be called"),
        ("my_tmeta", volume(), BadInput, "cannot be called"),
        ("x" * 126, volume(), BadInput, "cannot be called"),
    ],
)
def test_volumes_that_cannot(name, found, error, words):
    with pytest.raises(error, match=words):
        plan_storage_present(StorageWish(name), on_volume(found))


def test_a_device_by_a_name_that_would_not_follow():
    state = on_volume(volume(), path="/dev/disk/by-id/dm-uuid-LVM-x")
    with pytest.raises(Unsupported, match="another name of vg/db"):
        plan_storage_present(StorageWish("s1"), state)


def settled(plan, state, **values):
    return settle(plan, state, facts(needs(plan, state), **values))


def test_room_in_the_group_and_in_the_pool():
    state = on_volume(volume(free=GIB // 10))
    with pytest.raises(Unsupported, match="the volume group vg has"):
        settled(plan_storage_present(StorageWish("s1"), state), state)
    thin, pool = volume(thin=True, pool="vg/pool"), volume("vg/pool", used=96.5)
    state = on_volume(thin)
    state = replace(state, storage=replace(state.storage, volumes=(thin, pool)))
    with pytest.raises(Unsupported, match=r"is 96\.5 % full"):
        settled(plan_storage_present(StorageWish("s1"), state), state)


def test_a_volume_of_that_name():
    state = on_volume(volume())
    state = replace(state, storage=replace(state.storage, volumes=(volume(), volume("vg/db.s1"))))
    with pytest.raises(Conflict, match=r"vg/db\.s1 exists already"):
        settled(plan_storage_present(StorageWish("s1"), state), state)


def lvm_taken(origin: Volume, *others: Volume) -> VmState:
    state = on_volume(origin)
    copied = volume("vg/db.s1", origin="vg/db", size=GIB // 5, used=50.0)
    volumes = (origin, copied, *others)
    storage = replace(
        state.storage, snapshots=(taken(LVM_COPY),), volumes=volumes,
        existing=frozenset({"vg/db", "vg/db.s1"}),
    )  # fmt: skip
    return replace(state, storage=storage)


def test_going_back_by_a_merge():
    state = lvm_taken(volume())
    assert settled(plan_storage_reverted(BACK, state), state).steps == (
        RevertStorage("s1", (LVM_COPY,)),
    )
    with pytest.raises(Conflict, match="it is open"):
        open_ = lvm_taken(volume(is_open=True))
        settled(plan_storage_reverted(BACK, open_), open_)
    small = volume("vg/db.s2", origin="vg/db", size=GIB // 20, used=90.0)
    state = lvm_taken(volume(), small)
    with pytest.raises(Unsupported, match=r"vg/db\.s2, another snapshot of vg/db, has room for"):
        settled(plan_storage_reverted(BACK, state), state)


# --- removing ---


def test_removing():
    assert plan_storage_absent("s1", stored(off())).steps == ()
    state = stored(off(), taken())
    plan = plan_storage_absent("s1", state)
    assert plan.steps == (RemoveStorage("s1", taken().copies),)
    assert plan_storage_absent("s1", predict(state, plan)).steps == ()


def test_a_copy_that_something_stands_on_is_not_removed():
    state = stored(off(), taken())
    plan = plan_storage_absent("s1", state)
    use = ImageUse(copy().file, "disk vda of VM clone")
    with pytest.raises(Conflict, match="is also used by disk vda of VM clone"):
        settled(plan, state, uses=(use,))


# --- going back ---


def test_going_back_to_it():
    state = stored(off(), taken())
    plan = plan_storage_reverted(BACK, state)
    assert plan.steps == (RevertStorage("s1", taken().copies),)
    after = predict(state, plan)
    assert plan_storage_reverted(BACK, after).steps == ()
    assert "vda holds what s1 holds" in picture(after)
    assert plan_storage_reverted(BACK, replace(after, storage=state.storage)).steps


def test_only_what_is_not_there_yet():
    state = stored(off(), taken(), at=(("vdb", "s1"),))
    assert plan_storage_reverted(BACK, state).steps == (RevertStorage("s1", (copy(),)),)
    one = StorageRevertWish("s1", ("vdb",))
    assert plan_storage_reverted(one, state).steps == ()


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        (stored(off()), NotFound, "has no storage snapshot s1"),
        (stored(vm(), taken()), Conflict, "is running"),
        (stored(vm(status="paused"), taken()), Conflict, "is paused"),
        (stored(off(), taken(), existing=frozenset()), Conflict, "is gone"),
        (stored(off(disk()), taken()), Conflict, "has no disk vdb any more"),
        (stored(off(disk("vda", "o base"), disk("vdb")), taken()), Conflict, "on the overlay"),
        (stored(off(disk("vda", "other"), disk("vdb")), taken()), Conflict, "other.qcow2 now"),
    ],
)
def test_what_is_against_it(state, error, words):
    with pytest.raises(error, match=words):
        plan_storage_reverted(BACK, state)


def test_what_made_the_overlay_above_is_named():
    disks = (disk("vda", "o base"), disk("vdb"))
    made = snapshot("o", kind=CHECKPOINT)
    for found, words in (
        ((made,), "remove checkpoint o first (vm_checkpoint with name o, state absent)"),
        ((), f"vm_blockcommit with disks [vda] and base {at('vda', 'base')}"),
    ):
        with pytest.raises(Conflict) as refused:
            plan_storage_reverted(BACK, stored(off(*disks, snapshots=found), taken()))
        assert words in refused.value.todo


def test_a_disk_that_it_does_not_have():
    with pytest.raises(NotFound, match="has no disk vdc"):
        plan_storage_reverted(StorageRevertWish("s1", ("vdc",)), stored(off(), taken()))


def test_snapshots_of_libvirt_that_it_would_destroy():
    disks = (disk("vda"), disk("vdb"))
    inside = snapshot("in", mode="internal", created=2000)
    for found, words in (
        (inside, "holds the internal snapshots in,"),
        (snapshot("point", {"vda": "base"}), "is what snapshot point goes back to"),
    ):
        state = stored(off(*disks, snapshots=[found]), taken())
        with pytest.raises(Conflict, match=words):
            plan_storage_reverted(BACK, state)
    older = stored(off(*disks, snapshots=[replace(inside, created=500)]), taken())
    assert plan_storage_reverted(BACK, older).steps


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ((("/b", "file 2"),), "/b was written to since"),
        ((), "/b is gone"),
    ],
)
def test_what_an_overlay_stands_on_must_be_as_it_was(now, words):
    found = taken(copy(below=(("/b", "file 1"),)))
    with pytest.raises(Conflict, match=words):
        plan_storage_reverted(BACK, stored(off(disk()), found, below=now))
    for known in ("file 1", ""):
        state = stored(off(disk()), found, below=(("/b", known),))
        assert plan_storage_reverted(BACK, state).steps, "whatever the disk stands on now"
    bitmap_gone = stored(
        off(disk()), found, below=(("/b", "file 2"),), kept=frozenset(found.copies[0].below)
    )
    assert plan_storage_reverted(BACK, bitmap_gone).steps


def test_one_whose_record_is_lost_is_said_to_be():
    plan = plan_storage_reverted(BACK, stored(off(), taken(recorded=False)))
    assert "the record of storage snapshot s1 is lost" in plan.notes[0]


# --- facts ---


def test_what_is_in_the_way():
    state = stored(off(), taken())
    back = plan_storage_reverted(BACK, state)
    new = f"{VDA}.vmkeep-new"
    with pytest.raises(Conflict, match="vmkeep-new exists already"):
        settled(back, state, existing={new: FileFact(new, "file", 7)})
    with pytest.raises(Conflict, match="is to be replaced or removed but is also used by image /o"):
        settled(back, state, uses=(ImageUse(VDA, "image /o"),))
    with pytest.raises(Conflict, match="has a managed save"):
        settled(back, state, managed_save=True)
    taking = plan_storage_present(StorageWish("s2"), stored(off()))
    with pytest.raises(Unsupported, match=r"cannot be cloned \(Operation not supported\)"):
        settled(taking, state, clones={"/vms": "Operation not supported"})
    with pytest.raises(Conflict, match="has a managed save"):
        settled(taking, state, managed_save=True)
    assert needs(taking, stored(off())).clones == ("/vms",)
    # What an earlier run has begun finds its own things.
    resumed = replace(back, steps=(replace(back.steps[0], resume=True),))
    assert settled(resumed, state, existing={new: FileFact(new, "file", 7)}).steps


def test_a_subvolume_that_others_live_in():
    state = stored(off(), grounds=(Ground("vda", "/vms"), Ground("vdb", "/vms")))
    plan = plan_storage_present(StorageWish("s1", BTRFS), state)
    assert needs(plan, state).subvolumes == ("/vms",)
    with pytest.raises(Conflict, match="holds disk vda of VM other as well"):
        settled(plan, state, dwellers=(ImageUse("/vms", "disk vda of VM other"),))


# --- marks ---


def test_a_snapshot_is_put_together_from_its_copies():
    marks = [(mark_of(taken(), c, UUID), c) for c in taken().copies]
    (found,) = gathered(from_mark(mark, c) for mark, c in marks)
    assert found == taken(recorded=False)


@pytest.mark.parametrize("lie", [{"consistency": "memory"}, {"consistency": ""}, {}])
def test_what_a_mark_does_not_say_is_not_guessed_upward(lie):
    mark = {"name": "s1", "created": "yesterday", **lie}
    assert from_mark(mark, copy()).consistency == "crash"
    good = from_mark({"name": "s1", "consistency": "filesystem"}, copy("vdb"))
    (both,) = gathered(iter([from_mark(mark, copy()), good]))
    assert both.consistency == "crash" and both.created == 0


@pytest.mark.parametrize("wish", [StorageWish("s1"), StorageWish("s1", disks=("vdx",))])
def test_disks_that_are_not_there(wish):
    state = stored(off(disk("vda", "base", readonly=True)))
    with pytest.raises(Problem, match=r"has no disk"):
        plan_storage_present(wish, state)
