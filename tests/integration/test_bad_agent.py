# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents that are missing or fall silent, freezes that last too long, and errors too late."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from kill_stage import SIZE, Stage, needs_recovery, overlay
from kill_trials import THAWED_WITHIN, Killer, Task, portrait, thawed
from lab import VM, Disk
from lab.vm import wait_until

AT_MOST = 30.0
CREATE = "libvirt snapshotCreateXML db01"
FREEZE = "agent guest-fsfreeze-freeze db01"


@pytest.fixture
def db01(stage: Stage) -> VM:
    """A running machine without snapshots."""
    return stage.running("db01")


def take(vm: VM, quiesce: str, name: str = "new", **params: object) -> Task:
    return Task("vm_snapshot", (vm,), {"name": name, "quiesce": quiesce, **params})


def in_time(run: Callable[[], dict]) -> dict:
    """The result of a run that must not take longer than it may."""
    began = time.monotonic()
    result = run()
    assert time.monotonic() - began < AT_MOST
    return result


def worth(result: dict) -> str:
    assert not result["failed"], result["msg"]
    return result["vms"]["db01"]["snapshot"]["consistency"]


def clean(vm: VM, killer: Killer, *snapshots: str) -> None:
    """Nothing but these snapshots is left, the guest writes, and nothing is lost."""
    found = portrait(killer.modules, (vm,))[vm.name]
    assert [snapshot["name"] for snapshot in found["snapshots"]] == list(snapshots)
    images = [path for path in found["files"] if path.endswith(".qcow2")]
    assert len(images) == len(vm.disks) * (1 + len(snapshots))
    assert killer.journals() == []
    assert vm.stalled() == [] and vm.lost_records() == []


# --- no agent, or one that does not answer ---


def test_no_agent(make_vm: Callable[..., VM], killer: Killer) -> None:
    vm = make_vm("db01x", disks=[Disk(size=SIZE)], agent=False)
    refused = killer.plain(take(vm, "required"))
    assert refused["failed"] and "db01x" in refused["msg"]
    assert "org.qemu.guest_agent.0" in refused["msg"] and "quiesce" in refused["msg"]
    taken = killer.plain(take(vm, "preferred"))
    assert taken["vms"]["db01x"]["snapshot"]["consistency"] == "crash"
    assert any("not quiesced" in note for note in taken["notes"])


def test_an_agent_that_never_answers(make_vm: Callable[..., VM], killer: Killer) -> None:
    vm = make_vm("db01y", disks=[Disk(size=SIZE)], agent="silent")
    refused = in_time(lambda: killer.plain(take(vm, "required")))
    assert refused["failed"]
    assert "the guest agent of VM db01y does not answer" in refused["msg"]
    assert "qemu-guest-agent" in refused["msg"] and killer.journals() == []


def test_an_agent_that_is_stopped_before_the_run(db01: VM, killer: Killer) -> None:
    db01.silence_agent()
    try:
        result = in_time(lambda: killer.plain(take(db01, "preferred")))
        assert worth(result) == "crash"
        assert any("not quiesced" in note for note in result["notes"])
    finally:
        db01.wake_agent()
    clean(db01, killer, "new")


@pytest.mark.parametrize("quiesce", ["required", "preferred"])
def test_an_agent_that_falls_silent_before_the_freeze(
    db01: VM, killer: Killer, quiesce: str
) -> None:
    """The freeze is sent and not answered: it may happen when the agent wakes up, and is undone."""
    point = f"before {FREEZE}"
    task = take(db01, quiesce, freeze_timeout=3)
    with killer.start(task, hold={point: 1.0}) as run:
        killer.reaches(point)
        db01.silence_agent()
        result = in_time(run.result)
    assert db01.stalled() == []
    time.sleep(1)
    db01.wake_agent()
    woken = time.monotonic()
    if quiesce == "required":
        assert result["failed"] and "db01" in result["msg"]
    else:
        assert worth(result) == "crash"
        assert any("not quiesced" in note for note in result["notes"])
    wait_until(db01.agent_answers, 10, "the agent answers again")
    time.sleep(max(0.0, woken + THAWED_WITHIN - time.monotonic()))
    thawed(db01, time.monotonic() + THAWED_WITHIN)
    clean(db01, killer, *(["new"] if quiesce == "preferred" else []))


def test_an_agent_that_falls_silent_while_frozen(db01: VM, killer: Killer) -> None:
    """Nobody can thaw such a guest. As soon as the agent answers, it is."""
    point = f"before {CREATE}"
    with killer.start(take(db01, "preferred"), hold={point: 1.0}) as run:
        killer.reaches(point)
        db01.silence_agent()
        result = in_time(run.result)
    assert db01.stalled() == ["/mnt/vda", "/mnt/vdb"]
    db01.wake_agent()
    thawed(db01, time.monotonic() + THAWED_WITHIN)
    assert worth(result) == "crash", "nobody saw how long the freeze held"
    clean(db01, killer, "new")


# --- freezes that last too long ---


@pytest.mark.parametrize("quiesce", ["required", "preferred"])
def test_a_freeze_ends_with_its_allowance(db01: VM, killer: Killer, quiesce: str) -> None:
    point = f"before {CREATE}"
    allowed = 2
    task = take(db01, quiesce, freeze_timeout=allowed)
    with killer.start(task, hold={point: 6.0}) as run:
        killer.reaches(point)
        began = time.monotonic()
        assert db01.stalled(0.3), "not frozen"
        time.sleep(allowed - 0.5)
        thawed(db01, began + allowed + THAWED_WITHIN)
        result = run.result()
    if quiesce == "required":
        assert result["failed"] and "thawed" in result["msg"] and "freeze_timeout" in result["msg"]
        clean(db01, killer)
    else:
        assert worth(result) == "crash"
        assert any("not quiesced" in note for note in result["notes"])
        assert killer.modules.info(db01)["snapshots"][0]["consistency"] == "crash"
        clean(db01, killer, "new")


def test_a_freeze_within_its_allowance_counts(db01: VM, killer: Killer) -> None:
    point = f"before {CREATE}"
    result = killer.run(take(db01, "required", freeze_timeout=5), hold={point: 1.0})
    assert worth(result) == "filesystem"
    assert result["vms"]["db01"]["frozen_ms"] >= 1000
    assert not needs_recovery(db01.disks["vda"].path)
    clean(db01, killer, "new")


def test_the_daemon_crashes_while_a_guest_is_frozen(stage: Stage, db01: VM, killer: Killer) -> None:
    point = f"before {CREATE}"
    with killer.start(take(db01, "required"), hold={point: 1.0}) as run:
        killer.reaches(point)
        stage.lab.daemon.restart(crash=True)
        back = time.monotonic()
        thawed(db01, back + THAWED_WITHIN)
        result = run.result()
    assert worth(result) == "filesystem"
    assert not needs_recovery(db01.disks["vda"].path)
    clean(db01, killer, "new")


@pytest.mark.parametrize("point", [f"before {CREATE}", f"after {CREATE}"])
def test_the_run_and_its_guard_are_killed_while_frozen(
    db01: VM, killer: Killer, point: str
) -> None:
    task = take(db01, "required")
    killer.start(task, kill=point, guard_too=True).wait()
    assert db01.frozen() and db01.stalled() == ["/mnt/vda", "/mnt/vdb"]
    result = killer.plain(task)
    assert worth(result) == "filesystem"
    assert "db01: thawed the guest" in result["notes"]
    assert any("undid snapshot new" in note for note in result["notes"])
    assert not killer.plain(task)["changed"]
    clean(db01, killer, "new")


def test_a_task_that_does_not_freeze_thaws_as_well(db01: VM, killer: Killer) -> None:
    killer.start(take(db01, "required"), kill=f"before {CREATE}", guard_too=True).wait()
    result = killer.plain(Task("vm_blockcommit", (db01,), {}))
    assert not result["failed"], result["msg"]
    assert "db01: thawed the guest" in result["notes"]
    clean(db01, killer)


# --- errors that come when the work is done ---


@pytest.mark.parametrize("quiesce", ["required", "never"])
def test_an_error_after_the_snapshot_was_taken(db01: VM, killer: Killer, quiesce: str) -> None:
    """The overlays are active and the snapshot is recorded: what is there counts."""
    task = take(db01, quiesce)
    result = killer.run(task, raise_after=CREATE)
    assert worth(result) == ("filesystem" if quiesce == "required" else "crash")
    assert any("error" in note for note in result["notes"])
    assert not killer.plain(task)["changed"]
    clean(db01, killer, "new")


@pytest.mark.parametrize("quiesce", ["required", "never"])
def test_an_error_after_the_switch_and_no_record(db01: VM, killer: Killer, quiesce: str) -> None:
    """The overlays are active, and libvirt has forgotten the snapshot: they are merged back."""
    task = take(db01, quiesce)
    result = killer.run(task, raise_after=CREATE, lose_snapshot=True)
    assert result["failed"] and "taking snapshot new" in result["msg"]
    clean(db01, killer)
    assert killer.plain(task)["changed"]
    clean(db01, killer, "new")


def test_a_pivot_that_reports_an_error_has_happened(stage: Stage, killer: Killer) -> None:
    vm = stage.running("db01", "s1")
    task = Task("vm_blockcommit", (vm,), {})
    result = killer.run(task, raise_after="libvirt blockJobAbort db01 vda")
    assert not result["failed"], result["msg"]
    assert vm.source("vda") == vm.disks["vda"].path
    clean(vm, killer)


def test_a_forgotten_answer_is_no_foreign_overlay(db01: VM, killer: Killer) -> None:
    """Killed after the switch, and libvirt has no record: the next run merges back and retries."""
    task = take(db01, "never")
    killer.start(task, kill=f"after {CREATE}").wait()
    db01.domain.snapshotLookupByName("new").delete(2)
    assert db01.source("vda") == overlay(db01, "vda", "new")
    result = killer.plain(task)
    assert worth(result) == "crash"
    assert any("undid snapshot new" in note for note in result["notes"])
    clean(db01, killer, "new")


# --- agents that may not, or whose hook takes long ---

HOOK = """#!/bin/sh
[ "$1" != freeze ] || sleep {seconds}
"""


def refuses(vm: VM, killer: Killer, module: str = "vm_snapshot", **params: object) -> str:
    """The message of a task that fails and leaves nothing, for which it does not claim a change."""
    result = killer.plain(Task(module, (vm,), params))
    assert result["failed"] and not result["changed"] and result["plan"] == []
    assert "To do: " in result["msg"]
    clean(vm, killer)
    return str(result["msg"])


def test_a_hook_that_takes_longer_than_the_freeze(db01: VM, killer: Killer) -> None:
    """What takes so long is said to be looked at, and to allow more time helps."""
    db01.write("/run/hook", HOOK.format(seconds=7).encode())
    db01.run("chmod +x /run/hook")
    db01.restart_agent("-F/run/hook")
    try:
        wish = {"name": "new", "quiesce": "required", "freeze_timeout": 2}
        message = refuses(db01, killer, **wish)
        assert "not frozen within 2 s" in message and "hook" in message
        assert "freeze_timeout" in message
        wait_until(db01.agent_answers, 20, "the hook has ended")
        thawed(db01, time.monotonic() + THAWED_WITHIN)
        assert worth(killer.plain(take(db01, "required", freeze_timeout=20))) == "filesystem"
        clean(db01, killer, "new")
    finally:
        db01.restart_agent()


@pytest.mark.parametrize("command", ["freeze", "thaw", "status"])
def test_an_agent_that_may_not_freeze(db01: VM, killer: Killer, command: str) -> None:
    """It is refused before anything is touched: who may not thaw would stay frozen."""
    name = f"guest-fsfreeze-{command}"
    db01.restart_agent("-b", name)
    try:
        for check in (True, False):
            params = {"name": "new", "quiesce": "required"}
            result = killer.modules.attempt("vm_snapshot", db01, check=check, **params)
            assert result["failed"] and not result["changed"]
            assert f"agent of VM db01 does not allow {name}" in result["msg"]
            assert "block-rpcs" in result["msg"] and "'quiesce: preferred'" in result["msg"]
        message = refuses(db01, killer, "vm_freeze", state="frozen")
        assert name in message and "block-rpcs" in message
        result = killer.plain(take(db01, "preferred"))
        assert worth(result) == "crash"
        assert result["notes"] == [f"db01: not quiesced, the guest agent does not allow {name}"]
        clean(db01, killer, "new")
    finally:
        db01.restart_agent()


def test_an_agent_that_may_not_thaw_and_does_not_tell(db01: VM, killer: Killer) -> None:
    """Its guest would have stayed frozen for good."""
    db01.restart_agent("-b", "guest-info,guest-fsfreeze-thaw")
    try:
        message = refuses(db01, killer, name="new", quiesce="required")
        assert "agent of VM db01 does not allow guest-fsfreeze-thaw" in message
        assert "does not allow guest-fsfreeze-thaw" in refuses(
            db01, killer, "vm_freeze", state="frozen"
        )
        assert worth(killer.plain(take(db01, "preferred"))) == "crash"
        clean(db01, killer, "new")
    finally:
        db01.restart_agent()
