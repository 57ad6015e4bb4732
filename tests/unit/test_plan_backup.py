# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a backup is decided: whether one is needed, of which type and why, what is tidied up."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.backup import (
    Parent,
    RestorePoint,
    StoredDisk,
    in_utc,
    sealed,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.backups import Backups
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image import (
    Bitmap,
    Encryption,
    Header,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    NotFound,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import (
    DirectoryFact,
    VmState,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import BackUp, RemoveBitmap
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stock import Stock, Verified
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.backup import (
    BackupWish,
    left_to_do,
    plan_backup,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import needs, settle
from builders import GIB, NAME, UUID, at, disk, facts, kinds, of, vm

NOW = datetime(2026, 11, 25, 3, tzinfo=timezone.utc)
REPOSITORY = "/srv/backup"
FOLDER = f"{REPOSITORY}/{NAME}.{UUID}"
PREFIX = "vmkeep-00c0ffee-"


def tracked(target: str = "vda", version: int = 3, **values: Any):
    """A qcow2 disk that can have bitmaps, or cannot."""
    header = Header(b"QFI\xfb", version, 0, 0, 16, GIB, 0, 0, 0, 0, 0, 0, 0)
    return disk(target, images={"base": {"header": header, **values}})


def of_format(name: str):
    """A disk whose format we know by name only."""
    return disk(format=name, images={"base": {"format": name, "virtual_size": None}})


def point(number: int, parent: RestorePoint | None = None, **values: Any) -> RestorePoint:
    """The restore point of a day of November, with a checkpoint."""
    id = f"202611{number:02}T030000Z"
    kind = "incremental" if parent else "full"
    made = RestorePoint(
        id=id,
        vm=NAME,
        uuid=UUID,
        sequence=number,
        time=in_utc(datetime(2026, 11, number, 3, tzinfo=timezone.utc)),
        type=kind,
        reason="",
        consistency="crash",
        files=(),
        disks=(StoredDisk("vda", "vda.qcow2", kind, "qcow2", GIB, "/vms/x", tracked=True),),
        started="",
        finished="",
        seconds=1.0,
        parent=Parent(parent.id, parent.digest) if parent else None,
        checkpoint=f"{PREFIX}{id}",
    )
    return sealed(replace(made, **values))


FULL = point(23)
NEXT = point(24, FULL)


def observed(*points: RestorePoint, state: VmState | None = None, **values: Any) -> VmState:
    """A VM with restore points, of which libvirt has the newest's checkpoint."""
    stock = Stock(REPOSITORY, FOLDER, points, **values.pop("stock", {}))
    names = (points[-1].checkpoint,) if points else ()
    known = {"checkpoints": names, "now": NOW, **values}
    state = state or vm(tracked())
    return replace(state, backups=Backups("00c0ffee", stock, **known))


def decided(state: VmState, **wish: Any) -> BackUp:
    [step] = of(BackUp, plan_backup(BackupWish(**wish), state))
    return step


def test_the_first_is_full_and_the_next_stands_on_it() -> None:
    first = decided(observed(new=True))
    assert (first.type, first.reason) == ("full", "the first restore point")
    assert first.checkpoint == f"{PREFIX}{first.id}" and first.since == ""
    step = decided(observed(FULL, NEXT))
    assert (step.type, step.parent, step.since) == ("incremental", NEXT.id, NEXT.checkpoint)
    assert step.copies[0].backing == f"../{NEXT.id}/vda.qcow2"
    assert kinds(plan_backup(BackupWish(), observed(FULL))) == ["back_up", "drop_checkpoint"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (observed(FULL, checkpoints=()), "no checkpoint of a restore point"),
        (observed(FULL, checkpoints=("foreign",)), "no checkpoint of a restore point"),
        (observed(FULL, NEXT, unsound="bitmap gone"), "bitmap gone"),
        (observed(FULL, NEXT, stock={"troubles": {FULL.id: "it is bad"}}), "would not restore"),
        (
            observed(FULL, stock={"verified": {FULL.id: Verified("", FULL.digest, "flipped")}}),
            "flipped",
        ),
        (observed(replace(FULL, disks=())), "no disk can be"),
        (observed(FULL, state=vm(disk())), "which holds none"),
        (observed(FULL, state=vm(tracked(virtual_size=2 * GIB))), "no disk can be incremental"),
        (observed(FULL, state=vm(tracked(version=2))), "which holds none"),
    ],
)
def test_full_where_there_can_be_no_increment_and_it_says_why(state: VmState, words: str) -> None:
    step = decided(state)
    assert step.type == "full" and words in step.reason and step.parent == ""
    assert all(copy.type == "full" and not copy.backing for copy in step.copies)
    with pytest.raises(Conflict, match="cannot have an incremental"):
        decided(state, type="incremental")


def test_a_verification_of_a_manifest_that_was_replaced_says_nothing() -> None:
    stale = {FULL.id: Verified("", "0" * 64, "flipped")}
    assert decided(observed(FULL, stock={"verified": stale})).type == "incremental"


def test_so_many_increments_and_no_more() -> None:
    state = observed(FULL, NEXT)
    assert decided(state, max_increments=2).type == "incremental"
    assert decided(state, max_increments=1).type == "full"
    assert decided(observed(FULL), max_increments=0).type == "full"


def test_a_disk_that_is_new_is_full_beside_an_increment() -> None:
    step = decided(observed(FULL, state=vm(tracked(), tracked("vdb"))))
    assert [copy.type for copy in step.copies] == ["incremental", "full"]
    assert step.type == "incremental"


@pytest.mark.parametrize(
    ("sources", "types"),
    [
        ({"vda": "base", "vdb": "base"}, ("incremental", "incremental")),
        ({"vda": "base", "vdb": "/gone/by/a/merge"}, ("incremental", "incremental")),
        ({"vda": at("vdb", "base"), "vdb": at("vda", "base")}, ("full", "full")),
        ({"vda": "base", "vdb": "/away", "vdc": at("vdb", "base")}, ("incremental", "full")),
        ({"vda": "base", "vdb": at("vda", "base")}, ("full", "full")),
    ],
    ids=["same", "merged", "swapped", "renamed", "was another's"],
)
def test_the_bitmap_of_another_disk_makes_no_increment(sources: dict, types: tuple) -> None:
    """All bitmaps of a checkpoint have one name, and disks can change theirs."""
    stored = (
        StoredDisk(target, f"{target}.qcow2", "full", "qcow2", GIB, at(target, path), tracked=True)
        for target, path in sources.items()
    )
    before = point(23, disks=tuple(stored))
    step = decided(observed(before, state=vm(tracked(), tracked("vdb"))))
    assert tuple(copy.type for copy in step.copies) == types
    off = observed(before, state=vm(tracked(), tracked("vdb"), status="shutoff"))
    assert {copy.type for copy in decided(off).copies} == {"incremental"}, "contents are compared"


def test_off_it_is_compared_with_the_newest_whatever_libvirt_has() -> None:
    state = observed(FULL, NEXT, checkpoints=(), state=vm(tracked(), status="shutoff"))
    step = decided(state)
    assert (step.how, step.type, step.parent) == ("off", "incremental", NEXT.id)
    assert (step.since, step.checkpoint, step.quiesce) == ("", "", "never")


@pytest.mark.parametrize(("hours", "needed"), [(23, True), (24, True), (25, False)])
def test_a_point_that_is_young_enough(hours: int, needed: bool) -> None:
    plan = plan_backup(BackupWish(max_age=hours * 3600), observed(FULL, NEXT))
    assert bool(of(BackUp, plan)) is needed


def test_a_point_of_the_future_or_a_bad_one_is_not_young() -> None:
    early = observed(FULL, NEXT, now=NOW - timedelta(days=10))
    assert of(BackUp, plan_backup(BackupWish(max_age=10**9), early))
    bad = observed(FULL, NEXT, stock={"troubles": {NEXT.id: "it is bad"}})
    assert of(BackUp, plan_backup(BackupWish(max_age=25 * 3600), bad))


def test_what_a_dead_run_left_goes_first() -> None:
    debris = f"{FOLDER}/20261124T040000Z"
    state = observed(
        FULL,
        stock={"debris": (debris,)},
        job=(f"{debris}/vda.qcow2",),
        checkpoints=(FULL.checkpoint, f"{PREFIX}20261124T040000Z", "vmkeep-other000-x", "foreign"),
    )
    plan = plan_backup(BackupWish(), state)
    assert kinds(plan) == [
        *("end_backup", "remove_debris", "drop_checkpoint"),
        *("back_up", "drop_checkpoint"),
    ]
    assert kinds(left_to_do(predict(state, plan))) == []
    after = predict(state, plan).backups
    assert after is not None
    assert set(after.checkpoints) == {f"{PREFIX}20261125T030000Z", "vmkeep-other000-x", "foreign"}


def test_a_guest_that_a_dead_run_stopped_goes_on() -> None:
    debris = f"{FOLDER}/20261124T040000Z"
    paused = vm(tracked(), status="paused")
    known = {"stock": {"debris": (debris,)}, "stopped": True, "state": paused}
    begun = (FULL.checkpoint, f"{PREFIX}20261124T040000Z")
    for ours in ({"job": (f"{debris}/vda.qcow2",)}, {"checkpoints": begun}):
        plan = plan_backup(BackupWish(), observed(FULL, **known, **ours))
        assert kinds(plan)[kinds(plan).index("remove_debris") + 1] == "resume_vm"
    assert "resume_vm" not in kinds(plan_backup(BackupWish(), observed(FULL, **known)))
    known["stopped"] = False
    plan = plan_backup(BackupWish(), observed(FULL, **known, checkpoints=begun))
    assert "resume_vm" not in kinds(plan)


def test_bitmaps_whose_records_are_lost_go_and_no_others() -> None:
    lost, other = f"{PREFIX}20261124T040000Z", "vmkeep-other000-20261124T040000Z"
    names = (lost, FULL.checkpoint, other, f"{PREFIX}mine", "foreign")
    on_disk = tuple(Bitmap(name, 65536, ()) for name in names)
    for status in ("running", "shutoff"):
        state = vm(tracked(bitmaps=on_disk), tracked("vdb"), status=status)
        seen = () if status == "shutoff" else (("vdb", lost), ("vdb", "foreign"))
        whole = observed(FULL, state=state, bitmaps=seen)
        for wish in (BackupWish(), BackupWish(max_age=10**9)):
            plan = plan_backup(wish, whole)
            [step] = of(RemoveBitmap, plan)
            assert step.name == lost
            assert [target for target, _image in step.disks] == ["vda", "vdb"][: 1 + bool(seen)]
            assert not of(RemoveBitmap, plan_backup(wish, predict(whole, plan)))
    template = {"base": {"bitmaps": on_disk}, "over": {"bitmaps": on_disk[:1]}}
    clone = vm(disk("vda", "over base", images=template))
    assert not of(RemoveBitmap, plan_backup(BackupWish(), observed(FULL, state=clone)))


def test_what_goes_first_makes_room() -> None:
    state = observed(stock={"debris": (f"{FOLDER}/20261124T040000Z",)})
    plan = plan_backup(BackupWish(), state)
    wanted = needs(plan, state)
    assert wanted.debris == (f"{FOLDER}/20261124T040000Z",) and wanted.backup
    little = {REPOSITORY: DirectoryFact(REPOSITORY, free=20 << 20)}
    for size, left, debris, fits in (
        (1 << 20, 0, 0, True),
        (64 << 20, 0, 0, False),
        (64 << 20, 0, 64 << 20, True),
        (1 << 20, 64 << 20, 0, False),
    ):
        found = facts(wanted, directories=little, rooms={"vda": size}, left=left, debris=debris)
        if fits:
            assert of(BackUp, settle(plan, state, found))[0].bytes == size
        else:
            with pytest.raises(Unsupported, match="bytes free"):
                settle(plan, state, found)


def test_the_job_of_somebody_else_is_left_alone() -> None:
    for files in ((), ("/elsewhere/vda",), (f"{FOLDER}/{FULL.id}/vda.qcow2",)):
        with pytest.raises(Conflict, match="somebody else"):
            plan_backup(BackupWish(), observed(FULL, job=files))


@pytest.mark.parametrize(
    ("state", "wish", "error", "words"),
    [
        (vm(tracked()), {"disks": ("vdz",)}, NotFound, "no disk vdz"),
        (vm(tracked(encrypt=Encryption("luks"))), {}, Unsupported, "encrypted"),
        (vm(disk(trouble="it is on the network")), {}, Unsupported, "on the network"),
        (vm(disk(shareable=True)), {}, Unsupported, "shareable"),
        (vm(disk("vdb"), of_format("vmdk")), {}, Unsupported, "disk vda .* has the format vmdk"),
        (vm(of_format("vdi"), status="shutoff"), {}, Unsupported, "-f vdi -O qcow2"),
        (vm(disk(device="cdrom")), {}, NotFound, "no disk that a guest writes to"),
    ],
)
def test_disks_that_cannot_be_copied(state: VmState, wish: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        plan_backup(BackupWish(**wish), observed(state=state))


def test_room_is_looked_for_before() -> None:
    state = observed()
    plan = plan_backup(BackupWish(), state)
    full = {REPOSITORY: DirectoryFact(REPOSITORY, free=1 << 20)}
    with pytest.raises(Unsupported, match="bytes free"):
        settle(plan, state, facts(needs(plan, state), directories=full))
    broken = {REPOSITORY: DirectoryFact(REPOSITORY, trouble="is on a read-only file system")}
    with pytest.raises(NotFound, match="read-only"):
        settle(plan, state, facts(needs(plan, state), directories=broken))


def test_without_an_agent_it_is_only_preferred() -> None:
    state = observed()
    plan = plan_backup(BackupWish(), state)
    silent = facts(needs(plan, state), agent="silent")
    assert of(BackUp, settle(plan, state, silent))[0].quiesce == "never"
    required = plan_backup(BackupWish(quiesce="required"), state)
    with pytest.raises(Unsupported, match="does not answer"):
        settle(required, state, silent)
