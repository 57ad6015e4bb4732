# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Saving memory and going on from it: what is done, what is refused, and after a run that died."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.journal import new_content
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    BadInput,
    Conflict,
    NotFound,
    Problem,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.save import (
    COMPLETE,
    FOREIGN,
    PARTIAL,
    Save,
    SavedImage,
    Saves,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import (
    DirectoryFact,
    Job,
    VmState,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    Plan,
    RecordSave,
    RemoveSave,
    RestoreSave,
    ResumeVm,
    SaveMemory,
    StartVm,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.left import files_of, left_by
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.memory import (
    MemoryWish,
    plan_memory,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.picture import picture
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.recover import plan_recovery
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import needs, settle
from builders import MIB, at, disk, facts, vm

FILE, PLACE = "/saves/db.save", "/libvirt/db.save"
SAVED, RUNNING = MemoryWish(saved=True), MemoryWish(saved=False)
GONE_ON = "the VM has gone on from it"


def save(file: str = FILE, kind: str = COMPLETE, **values: Any) -> Save:
    """A save of the VM, which nothing has happened to since."""
    return Save(file, kind, **{"definition": vm().live, "written": 100, **values})


def machine(status: str, saves: Saves, **values: Any) -> VmState:
    return replace(vm(disk("vda"), disk("vdb"), status=status, **values), saves=saves)


def by_libvirt(status: str = "running", managed: Save | None = None, **values: Any) -> VmState:
    """A VM whose managed save is meant."""
    return machine(status, Saves(place=PLACE, managed=managed), **values)


def to_file(status: str = "running", found: Save | None = None, **values: Any) -> VmState:
    """A VM whose save in a file is meant."""
    return machine(status, Saves(FILE, PLACE, at=found), **values)


def other() -> Save:
    return save(definition=replace(vm().live, name="web", uuid="another"))


# --- saving ---


@pytest.mark.parametrize(("status", "paused"), [("running", False), ("paused", True)])
def test_saving(status: str, paused: bool) -> None:
    disks = ("vda", "vdb")
    plan = plan_memory(SAVED, by_libvirt(status))
    assert plan.steps == (SaveMemory(PLACE, True, disks, paused),)
    plan = plan_memory(SAVED, to_file(status))
    assert plan.steps == (SaveMemory(FILE, False, disks, paused),)


def test_a_transient_vm_has_no_managed_save() -> None:
    with pytest.raises(BadInput, match="VM db is transient"):
        plan_memory(SAVED, by_libvirt(persistent=False))
    assert plan_memory(SAVED, to_file(persistent=False)).steps


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (save(), "is the memory of VM db, which has run since"),
        (other(), "is the memory of VM web"),
        (save(kind=PARTIAL), "is a part of the memory of VM db"),
        (save(kind=FOREIGN, definition=None), "is no save"),
    ],
)
def test_no_file_is_written_over(found: Save, what: str) -> None:
    with pytest.raises(Conflict, match=f"{FILE} exists already and {what}.*another 'path'"):
        plan_memory(SAVED, to_file(found=found))


@pytest.mark.parametrize("state", [by_libvirt("shutoff", save(PLACE)), to_file("shutoff", save())])
def test_a_saved_vm_is_as_wanted(state: VmState) -> None:
    assert plan_memory(SAVED, state).steps == ()


@pytest.mark.parametrize("wish", [SAVED, RUNNING])
def test_two_saves_are_one_too_many(wish: MemoryWish) -> None:
    both = machine("shutoff", Saves(FILE, PLACE, managed=save(PLACE), at=save()))
    with pytest.raises(Conflict, match=f"VM db has a managed save.*work with {FILE}"):
        plan_memory(wish, both)


def test_a_vm_that_is_off_has_nothing_to_save() -> None:
    for state in (by_libvirt("shutoff"), to_file("shutoff")):
        with pytest.raises(Unsupported, match=r"VM db is off and has no memory to save.*start it"):
            plan_memory(SAVED, state)
    saved = machine("shutoff", Saves(elsewhere=FILE))
    with pytest.raises(Unsupported, match=f"it is saved in {FILE}"):
        plan_memory(SAVED, saved)


@pytest.mark.parametrize("wish", [SAVED, RUNNING])
@pytest.mark.parametrize("status", ["crashed", "suspended", "shutting down"])
def test_other_states(wish: MemoryWish, status: str) -> None:
    with pytest.raises(Unsupported, match=f"VM db is {status}"):
        plan_memory(wish, by_libvirt(status))


# --- going on ---


def test_going_on() -> None:
    plan = plan_memory(RUNNING, by_libvirt("shutoff", save(PLACE)))
    assert plan.steps == (RestoreSave(PLACE, True),)
    plan = plan_memory(RUNNING, to_file("shutoff", save()))
    assert plan.steps == (RestoreSave(FILE, False), RemoveSave(FILE, False, GONE_ON))


def test_a_vm_that_runs_is_as_wanted() -> None:
    assert plan_memory(RUNNING, to_file(found=save())).steps == ()
    assert plan_memory(RUNNING, by_libvirt("paused")).steps == (ResumeVm(),)


def test_a_vm_without_a_save_is_booted() -> None:
    assert plan_memory(RUNNING, by_libvirt("shutoff")).steps == (StartVm(),)


def test_but_not_if_a_save_was_meant() -> None:
    """Booting would make a save worthless: a path that is wrong, or was left out."""
    with pytest.raises(NotFound, match=f"{FILE} does not exist, and VM db is off"):
        plan_memory(RUNNING, to_file("shutoff"))
    with pytest.raises(Conflict, match=f"VM db is saved in {FILE}.*set 'path' to {FILE}"):
        plan_memory(RUNNING, machine("shutoff", Saves(elsewhere=FILE)))


@pytest.mark.parametrize("wish", [SAVED, RUNNING])
@pytest.mark.parametrize(
    ("found", "what"),
    [
        (other(), "is the memory of VM web"),
        (save(kind=PARTIAL), "is a part of the memory of VM db, from a save that did not end"),
        (save(kind=FOREIGN, trouble="it is too short"), "is no save .*: it is too short"),
    ],
)
def test_what_it_cannot_go_on_from(wish: MemoryWish, found: Save, what: str) -> None:
    with pytest.raises(Problem, match=f"{FILE} {what}"):
        plan_memory(wish, to_file("shutoff", found))


def test_a_managed_save_that_libvirt_would_throw_away() -> None:
    damaged = by_libvirt("shutoff", Save("", FOREIGN, "it is incomplete"))
    with pytest.raises(Problem, match=r"its managed save is no save.*virsh managedsave-remove db"):
        plan_memory(RUNNING, damaged)


@pytest.mark.parametrize("wish", [SAVED, RUNNING])
@pytest.mark.parametrize("place", [by_libvirt, to_file])
def test_a_disk_was_written_since(wish: MemoryWish, place: Any) -> None:
    later = SavedImage("vdb", "/vms/b", 5, 1, 100 + 2 * 10**9)
    with pytest.raises(Conflict, match=r"disk vdb: /vms/b was written 2.0 s after the save"):
        plan_memory(wish, place("shutoff", save(images=(later,))))


def test_a_disk_is_another_one_now() -> None:
    """As after a snapshot of the VM while it was off: what it stood on is frozen now."""
    then = vm(disk("vda"), disk("vdb")).live
    state = replace(
        to_file("shutoff", save(definition=then)),
        disks=(disk("vda", "s1 base"), disk("vdb")),
    )
    message = f"disk vda: it stood on {at('vda', 'base')}, and is {at('vda', 's1')} now"
    with pytest.raises(Conflict, match=message):
        plan_memory(RUNNING, state)


def test_what_cannot_be_seen_is_told() -> None:
    plan = plan_memory(RUNNING, by_libvirt("shutoff", save("", written=0)))
    assert plan.steps and plan.notes == (
        "db: nobody can see whether its disks changed since the save",
    )
    plan = plan_memory(RUNNING, to_file("shutoff", save(unseen=("vdb",))))
    assert plan.notes == ("db: nobody can see whether disk vdb changed since the save",)


# --- facts ---


def settled(**found: Any) -> Plan:
    plan = plan_memory(SAVED, to_file())
    return settle(plan, to_file(), facts(needs(plan, to_file()), **found))


def test_nothing_is_in_the_way() -> None:
    plan = plan_memory(SAVED, to_file())
    needed = needs(plan, to_file())
    assert needed.files == (FILE,) and needed.directories == ("/saves",)
    assert needed.targets == ("vda", "vdb") and needed.memory and needed.agent
    assert settled(agent="silent") == settled(agent="thawed") == plan


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"jobs": (Job("vdb", "copy"),)}, "block job .copy. is running on disk vdb"),
        ({"agent": "frozen"}, "file systems of VM db are frozen"),
        (
            {"directories": {"/saves": DirectoryFact("/saves", MIB)}, "memory": 2 * MIB},
            "/saves has 1048576 bytes free.*at least 2097152",
        ),
        (
            {"directories": {"/saves": DirectoryFact("/saves", 0, "does not exist")}},
            "the directory /saves does not exist",
        ),
    ],
)
def test_what_keeps_a_save_from_being_made(found: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message):
        settled(**found)


# --- what it will be ---


@pytest.mark.parametrize(
    ("wish", "before"),
    [
        (SAVED, by_libvirt()),
        (SAVED, to_file("paused")),
        (RUNNING, by_libvirt("shutoff", save(PLACE))),
        (RUNNING, to_file("shutoff", save())),
        (RUNNING, by_libvirt("shutoff")),
        (RUNNING, by_libvirt("paused")),
    ],
)
def test_nothing_is_left_to_do(wish: MemoryWish, before: VmState) -> None:
    after = predict(before, plan_memory(wish, before))
    assert plan_memory(wish, after).steps == ()
    assert picture(after) != picture(before)


def test_the_picture_shows_where_the_memory_is() -> None:
    shown = [
        picture(predict(state, plan_memory(SAVED, state))) for state in (by_libvirt(), to_file())
    ]
    assert shown[0].endswith("  state: saved\n  memory: managed save\n")
    assert shown[1].endswith(f"  state: saved\n  memory: {FILE}\n")
    assert "state:" not in picture(vm())


# --- after a run that died ---

WRITE = plan_memory(SAVED, to_file())
WRITE_MANAGED = plan_memory(SAVED, by_libvirt())
GO_ON = plan_memory(RUNNING, to_file("shutoff", save()))
GO_ON_MANAGED = plan_memory(RUNNING, by_libvirt("shutoff", save(PLACE)))
WHY = "what an interrupted run has saved of its memory"


def recovered(plan: Plan, state: VmState, *, existing: bool = True, saved: bool = False) -> Plan:
    journal = json.loads(json.dumps(new_content("a run", "running", plan.steps, ())))
    files = frozenset(files_of(journal)) if existing else frozenset()
    return plan_recovery(left_by(journal, files, group_complete=True, saved=saved), state)


@pytest.mark.parametrize(
    ("plan", "step"),
    [(WRITE, RecordSave(FILE, False)), (WRITE_MANAGED, RecordSave(PLACE, True))],
)
def test_a_save_that_the_daemon_has_finished(plan: Plan, step: RecordSave) -> None:
    found = recovered(plan, vm(status="shutoff"), saved=True)
    assert found.steps == (step,)
    assert found.notes == ("db: finished the save of its memory that an interrupted run had begun",)


def test_a_save_that_was_not_finished() -> None:
    found = recovered(WRITE, vm())
    assert found.steps == (RemoveSave(FILE, False, WHY),)
    assert "an interrupted run" in found.notes[0] and "still runs" in found.notes[0]
    assert recovered(WRITE, vm(), existing=False).steps == ()
    stopped = recovered(WRITE, vm(status="paused"))
    assert stopped.steps == (ResumeVm(), RemoveSave(FILE, False, WHY))
    by_user = plan_memory(SAVED, to_file("paused"))
    assert recovered(by_user, vm(status="paused")).steps == (RemoveSave(FILE, False, WHY),)
    off = recovered(WRITE, vm(status="shutoff"))
    assert off.steps == (RemoveSave(FILE, False, WHY),) and "went off before" in off.notes[0]
    assert recovered(WRITE_MANAGED, vm()).steps == (RemoveSave(PLACE, True, WHY),)


def test_a_vm_that_has_gone_on() -> None:
    assert recovered(GO_ON, vm()).steps == (RemoveSave(FILE, False, GONE_ON),)
    assert recovered(GO_ON, vm(), existing=False).steps == ()
    stopped = recovered(GO_ON, vm(status="paused"))
    assert stopped.steps == (ResumeVm(), RemoveSave(FILE, False, GONE_ON))
    # libvirt has removed the save; what we have recorded of it goes as well.
    assert recovered(GO_ON_MANAGED, vm()).steps == (RemoveSave(PLACE, True, GONE_ON),)


@pytest.mark.parametrize("plan", [GO_ON, GO_ON_MANAGED])
def test_a_vm_that_has_not_gone_on(plan: Plan) -> None:
    found = recovered(plan, vm(status="shutoff"))
    assert found.steps == () and "an interrupted run had not yet" in found.notes[0]
