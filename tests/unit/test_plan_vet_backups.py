# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backup checkpoints in the way: taken out and put back, given up, or a reason to refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.checkpoint_steps import (
    is_ours,
    mark_of,
    taken_out,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Conflict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    GiveUpCheckpoints,
    Plan,
    PutBackCheckpoints,
    RevertInternal,
    RevertStorage,
    StopVm,
    TakeOutCheckpoints,
    from_dict,
    to_dict,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.revert import (
    RevertWish,
    plan_reverted,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.snapshot import (
    SnapshotWish,
    plan_present,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import needs, settle
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet_backups import (
    past_backups,
    put_back,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.way_back import with_way_back
from builders import at, disk, facts, snapshot, stacked, vm

OURS = "vmkeep-00c0ffee-20261102T030000Z"
RUNNING = vm(disk("vda"), disk("vdb"))
OFF = replace(RUNNING, status="shutoff")


def settled(plan, state, backups):
    return settle(plan, state, facts(needs(plan, state), backups=tuple(backups)))


def kinds(plan):
    return [type(step) for step in plan.steps]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (OURS, True),
        (f"{OURS}-12", True),
        (f"{OURS}-lost-vda", True),
        ("vmkeep-monday", False),
        (f"{OURS}x", False),
        (f"my-{OURS}", False),
        ("virtnbdbackup.0", False),
    ],
)
def test_whose_a_checkpoint_is(name, ours):
    assert is_ours(name) is ours


def test_while_it_is_off_they_are_taken_out_and_put_back_whoever_they_are_of():
    plan = plan_present(SnapshotWish("s1", mode="external"), OFF)
    names = (OURS, "monday")
    found = settled(plan, OFF, names).steps
    rest = [step for step in found if step not in plan.steps]
    assert rest == [TakeOutCheckpoints(names), PutBackCheckpoints(names)]
    assert found[-1] == rest[1] and settled(plan, OFF, ()) == plan
    while_on = plan_present(SnapshotWish("s1", mode="external"), RUNNING)
    assert needs(while_on, RUNNING).backups is False


@pytest.mark.parametrize("status", ["running", "shutoff"])
def test_going_back_gives_ours_up_once_it_is_off(status):
    state = replace(stacked("s1"), status=status)
    plan = plan_reverted(RevertWish("s1"), state)
    found = settled(plan, state, (OURS,))
    place = kinds(found).index(GiveUpCheckpoints)
    assert found.steps[place] == GiveUpCheckpoints((OURS,))
    assert (StopVm in kinds(found)[:place]) == (status == "running")
    assert "the next restore point is a full one" in found.notes[-1]
    assert settled(plan, state, ()) == plan
    with pytest.raises(Conflict, match=r"somebody else \(monday\)"):
        settled(plan, state, (OURS, "monday"))


def test_going_back_inside_minds_what_a_running_qemu_will_write_to_its_image():
    """It ends for that, writes its bitmaps, and would not start with any."""
    state = vm(
        disk("vda", "base", images={"base": {"internal": ("i1",)}}),
        snapshots=[snapshot("i1", mode="internal")],
    )
    plan = plan_reverted(RevertWish("i1"), state)
    wanted = needs(plan, state)
    assert wanted.bitmaps and not needs(plan, replace(state, status="shutoff")).bitmaps
    ours = settle(plan, state, facts(wanted, bitmaps=((at("vda", "base"), OURS),)))
    assert kinds(ours) == [StopVm, GiveUpCheckpoints, RevertInternal]
    theirs = facts(wanted, bitmaps=((at("vda", "base"), "it's"), ("/other.qcow2", "b")))
    with pytest.raises(Conflict, match=r"somebody else \(it's\)") as refused:
        settle(plan, state, theirs)
    advice = f"switch the VM off and run qemu-img bitmap --remove {at('vda', 'base')} 'it'"
    assert advice in refused.value.todo


def test_going_back_by_storage_leaves_those_of_others():
    plan = Plan("db", (RevertStorage("s1", ()),))
    names = replace(facts(needs(Plan("db"), OFF)), backups=(OURS, "monday"))
    found = past_backups(plan, OFF, names)
    assert found.steps == (GiveUpCheckpoints((OURS,)), *plan.steps)


def test_what_was_taken_out_is_in_the_journal():
    records = [("a", "<a/>"), ("b", '<b c="d"/>')]
    marks = ["else", mark_of(records), mark_of([("b", "<e/>")])]
    assert taken_out(marks) == {"a": "<a/>", "b": "<e/>"}
    assert put_back({"marks": marks}) == (PutBackCheckpoints(("a", "b")),)
    assert put_back({"marks": ["else"]}) == () and put_back(None) == ()
    for step in (TakeOutCheckpoints(("a",)), GiveUpCheckpoints((), ("/i",))):
        assert from_dict(to_dict(step)) == step


@pytest.mark.parametrize("mode", ["external", "internal"])
def test_the_way_back_is_planned_before_there_is_a_point(mode: str):
    plan = plan_present(SnapshotWish("s1", mode=mode), RUNNING)
    proved = with_way_back(plan, RUNNING, RevertWish("s1"))
    assert proved.steps == plan.steps and proved.back is not None and proved.back.steps
    transient = replace(RUNNING, persistent=False)
    with pytest.raises(Conflict.__mro__[1], match="could not go back afterwards"):
        with_way_back(plan_present(SnapshotWish("s1"), transient), transient, RevertWish("s1"))
    assert with_way_back(Plan("db"), RUNNING, RevertWish("s1")) == Plan("db")
