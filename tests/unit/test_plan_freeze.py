# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezing and thawing: what is done, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.freeze import (
    FreezeGuest,
    FreezeRecord,
    Guest,
    ThawGuest,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    NotFound,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import VmState
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import shown
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.freeze import (
    FreezeWish,
    plan_freeze,
    without_expired,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.picture import picture
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.snapshot import (
    SnapshotWish,
    plan_present,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import needs, settle
from builders import facts, vm

MOUNTS = (("/srv", "vdb"), ("/", "vda"))
FROZEN, THAWED = FreezeWish(frozen=True, deadline=30), FreezeWish(frozen=False)


def guest(status: str = "thawed", record: FreezeRecord | None = None, **values: Any) -> VmState:
    """A VM whose agent says this."""
    mounts = MOUNTS if status == "thawed" else ()
    return replace(vm(**values), guest=Guest(status, mounts=mounts), freeze=record)


def record(*asked: str, expired: bool = False) -> FreezeRecord:
    return FreezeRecord(
        "t", 30, "2026-11-24T12:00:00+00:00", asked, asked or ("/", "/srv"), expired
    )


def test_all_that_is_mounted_is_frozen() -> None:
    plan = plan_freeze(FROZEN, guest())
    assert plan.steps == (FreezeGuest(("/", "/srv"), 30),)
    assert shown("db", plan.steps[0]) == {
        "vm": "db",
        "step": "freeze_guest",
        "mountpoints": ("/", "/srv"),
        "deadline": 30,
    }


def test_only_what_was_asked_for() -> None:
    wish = FreezeWish(frozen=True, mountpoints=("/srv",))
    assert plan_freeze(wish, guest()).steps == (FreezeGuest(("/srv",), 60, chosen=True),)
    with pytest.raises(NotFound, match=r"mounted on /nope in VM db.*some of: /, /srv"):
        plan_freeze(FreezeWish(frozen=True, mountpoints=("/srv", "/nope")), guest())


def test_what_the_agent_does_not_tell_is_left_to_it() -> None:
    deaf = replace(guest(), guest=Guest("thawed"))
    wish = FreezeWish(frozen=True, mountpoints=("/srv",))
    assert plan_freeze(wish, deaf).steps == (FreezeGuest(("/srv",), 60, chosen=True),)
    assert plan_freeze(FROZEN, deaf).steps == (FreezeGuest((), 30),)


def test_a_guest_that_we_froze_stays_as_it_is() -> None:
    assert plan_freeze(FROZEN, guest("frozen", record())).steps == ()
    assert plan_freeze(FreezeWish(frozen=True, deadline=99), guest("frozen", record())).steps == ()


def test_a_record_of_a_guest_that_was_reset_means_nothing() -> None:
    assert plan_freeze(FROZEN, guest("thawed", record())).steps == (FreezeGuest(("/", "/srv"), 30),)
    assert plan_freeze(THAWED, guest("thawed", record())).steps == ()


@pytest.mark.parametrize(
    ("asked", "wanted", "message"),
    [
        ((), ("/srv",), "frozen already, all of it. Wanted: to freeze /srv"),
        (("/srv",), (), "frozen already, /srv. Wanted: to freeze all of it"),
        (("/",), ("/srv",), "frozen already, /. Wanted: to freeze /srv"),
    ],
)
def test_another_choice_of_what_is_frozen_is_refused(
    asked: tuple[str, ...], wanted: tuple[str, ...], message: str
) -> None:
    with pytest.raises(Conflict, match=message):
        plan_freeze(FreezeWish(True, mountpoints=wanted), guest("frozen", record(*asked)))


def test_a_freeze_of_somebody_else_is_not_claimed() -> None:
    with pytest.raises(Conflict, match="VM db are frozen by somebody else"):
        plan_freeze(FROZEN, guest("frozen"))


def test_whoever_has_frozen_it_it_is_thawed() -> None:
    ours = plan_freeze(THAWED, guest("frozen", record()))
    assert ours.steps == (ThawGuest(),) and ours.notes == ()
    theirs = plan_freeze(THAWED, guest("frozen"))
    assert theirs.steps == (ThawGuest(),)
    assert theirs.notes == ("db: it was frozen by somebody else",)
    assert plan_freeze(THAWED, guest()).steps == ()


@pytest.mark.parametrize("status", ["shutoff", "crashed"])
def test_a_vm_that_is_off_is_not_frozen(status: str) -> None:
    off = replace(vm(status=status), freeze=record())
    assert plan_freeze(THAWED, off).steps == ()
    with pytest.raises(Unsupported, match=f"VM db is {status}, so its guest agent"):
        plan_freeze(FROZEN, off)


@pytest.mark.parametrize("wish", [FROZEN, THAWED])
def test_nobody_knows_of_a_guest_that_cannot_be_asked(wish: FreezeWish) -> None:
    with pytest.raises(Unsupported, match="VM db is paused"):
        plan_freeze(wish, vm(status="paused"))
    silent = replace(vm(), guest=Guest("", "no channel"), freeze=record())
    with pytest.raises(
        Unsupported, match=r"does not answer \(no channel\); it was frozen until 20"
    ):
        plan_freeze(wish, silent)


@pytest.mark.parametrize(
    ("wish", "before"), [(FROZEN, guest()), (THAWED, guest("frozen", record()))]
)
def test_nothing_is_left_to_do(wish: FreezeWish, before: VmState) -> None:
    after = predict(before, plan_freeze(wish, before))
    assert plan_freeze(wish, after).steps == ()
    assert picture(after) != picture(before)


def test_the_picture_shows_what_is_frozen() -> None:
    after = predict(guest(), plan_freeze(FROZEN, guest()))
    assert picture(after).splitlines()[-3:] == [
        "  file systems: frozen for at most 30 s",
        "    /",
        "    /srv",
    ]
    assert "file systems" not in picture(vm())


def test_a_freeze_that_should_have_ended_counts_no_more() -> None:
    late = guest("frozen", record(expired=True))
    assert late.unsettled
    clean = without_expired(late)
    assert clean.freeze is None and not clean.unsettled
    assert plan_freeze(THAWED, clean).steps == ()
    assert plan_freeze(FROZEN, clean).steps == (FreezeGuest(("/", "/srv"), 30),)
    assert without_expired(guest("frozen", record())).freeze is not None
    silent = replace(late, guest=Guest("", "no answer"))
    assert without_expired(silent) == silent


def test_a_snapshot_says_who_has_frozen_the_guest() -> None:
    for record_of, by in (
        (record(), "by vm_freeze until 2026-11-24T12"),
        (None, "by somebody else"),
    ):
        machine = replace(vm(), freeze=record_of)
        plan = plan_present(SnapshotWish("s1"), machine)
        with pytest.raises(Conflict, match=f"VM db are frozen {by}"):
            settle(plan, machine, facts(needs(plan, machine), agent="frozen"))


def test_what_the_agent_may_not_do():
    wish = replace(FROZEN, flush_timeout=20)
    [step] = plan_freeze(wish, guest()).steps
    assert step.flush_timeout == 20
    state = guest()
    limited = replace(state, guest=replace(state.guest, blocked=("guest-exec",)))
    plan = plan_freeze(wish, limited)
    assert plan.steps == (replace(step, flush_timeout=0),)
    assert plan.notes == (
        "db: not all was written out before the freeze: its agent does not allow guest-exec",
    )
    assert plan_freeze(FROZEN, limited).notes == ()
    for status in ("thawed", ""):
        refused = Guest(status, blocked=("guest-fsfreeze-thaw",))
        with pytest.raises(Unsupported, match="does not allow guest-fsfreeze-thaw"):
            plan_freeze(wish, replace(state, guest=refused))
    may_thaw = replace(guest("frozen").guest, blocked=("guest-fsfreeze-freeze",))
    assert plan_freeze(THAWED, replace(state, guest=may_thaw)).steps == (ThawGuest(),)
