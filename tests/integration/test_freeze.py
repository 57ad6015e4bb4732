# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that stay frozen when the task is over, until their deadline or until they are thawed.

Whether a guest is frozen is seen from inside: a write to each mount ends, or it does not.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import libvirt
import pytest
from kill_stage import SIZE, Stage
from kill_trials import THAWED_WITHIN, Killer, Task, every_point, moments, thawed
from lab import VM, Disk, Lab
from lab.vm import wait_until
from story import Modules

MOUNTS = ["/mnt/vda", "/mnt/vdb"]
LONG = 120


@pytest.fixture
def modules(stage: Stage, tmp_path: Path) -> Modules:
    """The modules, against the daemon of the shared machines."""
    return Modules(stage.lab, tmp_path / "state")


@pytest.fixture
def db01(stage: Stage, modules: Modules) -> Iterator[VM]:
    """A running machine that writes; it is thawed again, and its guards end."""
    vm = stage.running("db01")
    yield vm
    if vm.active():
        vm.agent("guest-fsfreeze-thaw")
    for path in records(modules):
        path.unlink()
    wait_until(lambda: not guards(modules), 10, "the guards end")


def freeze(modules: Modules, vms: VM | list[VM], **params: object) -> dict:
    """Freeze, for long if it is not said how long."""
    return modules.run("vm_freeze", vms, **{"state": "frozen", "deadline": LONG, **params})


def thaw(modules: Modules, vms: VM | list[VM]) -> dict:
    return modules.run("vm_freeze", vms, state="thawed")


def records(modules: Modules) -> list[Path]:
    return sorted(modules.state_dir.glob("freeze/*"))


def guards(modules: Modules) -> list[int]:
    """The guards of freezes that are recorded in this state directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(modules.state_dir).encode() in words and b"-c" in words:
            found.append(int(path.parent.name))
    return found


def kill_guards(modules: Modules) -> None:
    for pid in guards(modules):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def stopped_guards(modules: Modules) -> Iterator[None]:
    """They see nothing meanwhile, and go on whatever happens: one that is stopped never ends."""
    stopped = guards(modules)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


# --- frozen, thawed, and the deadline ---


def test_frozen_and_thawed(db01: VM, lab_session: Lab, tmp_path: Path) -> None:
    """As Ansible runs it, which waits for all who hold the output of the module."""
    modules = Modules(lab_session, tmp_path / "state")
    result = modules.change("vm_freeze", db01, state="frozen", deadline=LONG)
    answer = result["vms"]["db01"]
    assert answer["frozen"] and answer["mountpoints"] == MOUNTS
    assert answer["flush_ms"] > 0
    left = datetime.fromisoformat(answer["thaws_at"]).timestamp() - time.time()
    assert LONG - 30 < left <= LONG
    assert db01.stalled() == MOUNTS and db01.frozen()
    assert len(records(modules)) == len(guards(modules)) == 1

    result = modules.change("vm_freeze", db01, state="thawed")
    assert result["vms"]["db01"] == {"frozen": False, "mountpoints": [], "thaws_at": None}
    assert db01.stalled() == [] and records(modules) == []
    wait_until(lambda: not guards(modules), 1, "the guard ends when it is not needed any more")
    assert db01.lost_records() == []


def test_a_snapshot_right_after_the_thaw_has_not_to_wait(db01: VM, modules: Modules) -> None:
    began = time.monotonic()
    modules.run("vm_snapshot", db01, name="usual", quiesce="required")
    usual = time.monotonic() - began
    freeze(modules, db01)
    thaw(modules, db01)
    began = time.monotonic()
    result = modules.run("vm_snapshot", db01, name="s1", quiesce="required")
    assert time.monotonic() - began < usual + 2
    assert result["vms"]["db01"]["snapshot"]["consistency"] == "filesystem"


def test_the_deadline_ends_it_though_the_task_is_over(db01: VM, modules: Modules) -> None:
    began = time.monotonic()
    freeze(modules, db01, deadline=6)
    while time.monotonic() < began + 5:
        assert db01.stalled(0.3) == MOUNTS
    thawed(db01, began + 8 + THAWED_WITHIN)
    wait_until(lambda: not records(modules) and not guards(modules), 2, "nothing stays behind")
    assert not thaw(modules, db01)["changed"] and db01.lost_records() == []


def test_another_deadline_changes_nothing(db01: VM, modules: Modules) -> None:
    first = freeze(modules, db01, deadline=LONG)
    again = freeze(modules, db01, deadline=LONG * 2)
    assert not again["changed"] and again["vms"] == first["vms"]
    assert len(guards(modules)) == 1


def test_only_some_mount_points(db01: VM, modules: Modules) -> None:
    """tp-libvirt 32: a mount point that does not exist freezes nothing, so it is refused."""
    message = modules.refused(
        "vm_freeze", db01, state="frozen", mountpoints=["/mnt/vdb", "/nonexistent"]
    )
    assert "/nonexistent" in message and "/mnt/vda, /mnt/vdb" in message
    assert db01.stalled() == [] and records(modules) == []
    wish = {"state": "frozen", "deadline": LONG, "mountpoints": ["/mnt/vdb"]}
    result = modules.change("vm_freeze", db01, **wish)
    assert result["vms"]["db01"]["mountpoints"] == ["/mnt/vdb"] == db01.stalled()
    message = modules.refused("vm_freeze", db01, state="frozen", deadline=LONG)
    assert "frozen already, /mnt/vdb" in message and "all of it" in message
    assert thaw(modules, db01)["changed"] and db01.stalled() == []


def test_several_side_by_side(stage: Stage, db01: VM, modules: Modules) -> None:
    """One that cannot be frozen is told by itself; one guard cares for all."""
    app01, off01 = stage.running("app01"), stage.off("off01")
    result = modules.attempt("vm_freeze", [db01, off01, app01], state="frozen", deadline=LONG)
    assert result["failed"] and "VM off01 is shutoff" in result["vms"]["off01"]["msg"]
    assert result["vms"]["db01"]["frozen"] and result["vms"]["app01"]["frozen"]
    assert db01.stalled() == app01.stalled() == MOUNTS
    assert len(guards(modules)) == 1 and len(records(modules)) == 2
    result = thaw(modules, [db01, off01, app01])
    assert [step["vm"] for step in result["plan"]] == ["db01", "app01"]
    assert db01.stalled() == app01.stalled() == [] and records(modules) == []


# --- others, and what else happens to a frozen guest ---


def test_a_freeze_of_somebody_else(db01: VM, modules: Modules) -> None:
    """tp-libvirt 32: a second thaw is no error."""
    db01.agent("guest-fsfreeze-freeze")
    message = modules.refused("vm_freeze", db01, state="frozen")
    assert "VM db01 are frozen by somebody else" in message
    result = modules.change("vm_freeze", db01, state="thawed")
    assert result["notes"] == ["db01: it was frozen by somebody else"]
    assert db01.stalled() == []


def test_snapshots_of_a_frozen_guest(db01: VM, modules: Modules) -> None:
    until = freeze(modules, db01)["vms"]["db01"]["thaws_at"]
    for quiesce in ("required", "preferred"):
        message = modules.refused("vm_snapshot", db01, name="s1", quiesce=quiesce)
        assert f"frozen by vm_freeze until {until}" in message
    # Whoever went back to its memory would find a guest that nobody thaws.
    for module, params in (
        ("vm_checkpoint", {}),
        ("vm_snapshot", {"memory": True}),
        ("vm_snapshot", {"mode": "internal"}),
    ):
        for paused in (False, True):
            if paused:
                db01.domain.suspend()
            message = modules.refused(module, db01, name="s1", **params)
            assert f"frozen by vm_freeze until {until}" in message
        db01.domain.resume()
    result = modules.run("vm_snapshot", db01, name="s1", quiesce="never")
    assert result["vms"]["db01"]["snapshot"]["consistency"] == "crash"
    assert db01.stalled() == MOUNTS


@pytest.mark.parametrize("module", ["vm_blockcommit", "vm_snapshot", "vm_freeze"])
def test_the_guard_is_killed_too(db01: VM, modules: Modules, module: str) -> None:
    """Whatever runs next after the deadline thaws the guest, also if it has nothing else to do."""
    freeze(modules, db01, deadline=5)
    until = time.monotonic() + 5
    kill_guards(modules)
    params = {"vm_snapshot": {"name": "none", "state": "absent"}, "vm_freeze": {"state": "thawed"}}
    task = params.get(module, {})
    if module != "vm_freeze":
        result = modules.run(module, db01, **task)
        assert result["notes"] == [] and db01.stalled() == MOUNTS
    time.sleep(max(0.0, until + 0.5 - time.monotonic()))
    assert db01.stalled() == MOUNTS, "somebody else has thawed it"
    modules.run("vm_snapshot_info", db01)
    modules.run(module, db01, check=True, **task)
    assert db01.stalled() == MOUNTS, "check mode changed something"
    result = modules.run(module, db01, **task)
    assert len(result["notes"]) == 1 and "thawed the guest" in result["notes"][0]
    assert db01.stalled() == [] and records(modules) == []
    assert modules.run(module, db01, **task)["notes"] == []


def test_a_freeze_after_one_whose_guard_was_killed(db01: VM, modules: Modules) -> None:
    freeze(modules, db01, deadline=3)
    kill_guards(modules)
    time.sleep(3.5)
    result = freeze(modules, db01)
    assert result["changed"] and "thawed the guest" in result["notes"][0]
    assert db01.stalled() == MOUNTS
    thaw(modules, db01)


def test_the_daemon_crashes_while_a_guest_is_frozen(
    lab_session: Lab, db01: VM, modules: Modules
) -> None:
    freeze(modules, db01, deadline=6)
    until = time.monotonic() + 6
    lab_session.daemon.restart(crash=True)
    assert not freeze(modules, db01, deadline=6)["changed"]
    thawed(db01, until + THAWED_WITHIN)
    wait_until(lambda: not guards(modules), 2, "the guard ends")


def test_the_daemon_is_away_at_the_deadline(lab_session: Lab, db01: VM, modules: Modules) -> None:
    freeze(modules, db01, deadline=3)
    lab_session.daemon.kill()
    time.sleep(4)
    assert db01.stalled() == MOUNTS
    lab_session.daemon.start()
    thawed(db01, time.monotonic() + THAWED_WITHIN)
    wait_until(lambda: not records(modules) and not guards(modules), 2, "nothing stays behind")


@pytest.mark.parametrize("how", ["destroy", "reset", "thaw"])
def test_a_freeze_that_ends_by_other_hands(db01: VM, modules: Modules, how: str) -> None:
    """The guard sees it, and does not thaw what somebody else may freeze later."""
    freeze(modules, db01)
    if how == "destroy":
        db01.destroy()
    elif how == "reset":
        db01.disconnect()
        db01.domain.reset()
        db01.wait_ready()
    else:
        db01.agent("guest-fsfreeze-thaw")
    wait_until(lambda: not records(modules) and not guards(modules), 6, "the guard has seen it")
    assert not thaw(modules, db01)["changed"]
    if how == "destroy":
        assert "VM db01 is shutoff" in modules.refused("vm_freeze", db01, state="frozen")
        db01.start()
    db01.agent("guest-fsfreeze-freeze")
    time.sleep(1)
    assert db01.frozen()


def test_a_start_before_the_guard_has_seen_it(db01: VM, modules: Modules) -> None:
    """A guest that stands still cannot say that it is another one by now."""
    freeze(modules, db01)
    with stopped_guards(modules):
        db01.destroy()
        db01.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        modules.change("vm_snapshot", db01, name="s1", memory=True)
    db01.domain.resume()
    db01.wait_ready()
    modules.change("vm_snapshot", db01, name="s1", state="absent")
    wait_until(lambda: not records(modules) and not guards(modules), 10, "the guard has seen it")


def test_a_reset_before_the_guard_has_seen_it(db01: VM, modules: Modules) -> None:
    """What the guest says counts: it is frozen anew, and the first guard has no part in that."""
    freeze(modules, db01, deadline=8)
    first = time.monotonic() + 8
    db01.agent("guest-fsfreeze-thaw")
    assert freeze(modules, db01, deadline=LONG)["changed"]
    assert time.monotonic() < first, "too slow to tell"
    time.sleep(first + 1 - time.monotonic())
    assert db01.stalled() == MOUNTS and len(guards(modules)) == 1
    thaw(modules, db01)


def test_an_agent_that_is_silent_at_the_deadline(db01: VM, modules: Modules) -> None:
    freeze(modules, db01, deadline=3)
    db01.silence_agent()
    time.sleep(4)
    message = modules.refused("vm_freeze", db01, state="thawed")
    assert "agent of VM db01 does not answer" in message and "frozen until" in message
    db01.wake_agent()
    thawed(db01, time.monotonic() + THAWED_WITHIN)
    wait_until(lambda: not records(modules) and not guards(modules), 5, "nothing stays behind")


def test_an_agent_that_falls_silent_before_the_freeze(db01: VM, killer: Killer) -> None:
    """The freeze is sent and not answered: it may happen when the agent wakes up, and is undone."""
    point = "before agent guest-fsfreeze-freeze db01"
    task = Task("vm_freeze", (db01,), {"state": "frozen", "deadline": 3})
    with killer.start(task, hold={point: 1.0}) as run:
        killer.reaches(point)
        db01.silence_agent()
        result = run.result()
    assert result["failed"] and "VM db01" in result["msg"]
    db01.wake_agent()
    wait_until(db01.agent_answers, 10, "the agent answers again")
    time.sleep(1)
    thawed(db01, time.monotonic() + THAWED_WITHIN)
    wait_until(lambda: not guards(killer.modules), 10, "the guard ends")
    assert records(killer.modules) == []


def test_vms_that_cannot_be_asked(make_vm: Callable[..., VM], modules: Modules) -> None:
    small = [Disk(size=SIZE)]
    deaf = make_vm("deaf", disks=small, agent=False)
    for state in ("frozen", "thawed"):
        message = modules.refused("vm_freeze", deaf, state=state)
        assert "agent of VM deaf does not answer" in message and "org.qemu.guest_agent" in message
    deaf.domain.suspend()
    assert "VM deaf is paused" in modules.refused("vm_freeze", deaf, state="frozen")
    silent = make_vm("silent", disks=small, agent="silent")
    began = time.monotonic()
    assert "silent does not answer" in modules.refused("vm_freeze", silent, state="frozen")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"state": "frozen", "deadline": 0}, "deadline is 0"),
        ({"state": "frozen", "mountpoints": []}, "empty list"),
        ({"state": "thawed", "mountpoints": ["/"]}, "mountpoints means nothing"),
    ],
)
def test_bad_input(db01: VM, modules: Modules, params: dict, message: str) -> None:
    assert message in modules.refused("vm_freeze", db01, **params)


# --- killed ---


def freezing(vm: VM) -> Task:
    return Task("vm_freeze", (vm,), {"state": "frozen", "deadline": LONG})


def settled(killer: Killer, vm: VM, gone: float) -> bool:
    """Whether the guest is left frozen after a kill: with a record and a guard, or not at all."""
    while time.monotonic() < gone + THAWED_WITHIN and vm.stalled(0.2):
        time.sleep(0.1)
    if not vm.stalled(0.3):
        return False
    assert vm.frozen() and len(records(killer.modules)) == len(guards(killer.modules)) == 1
    return True


def killed_while_freezing(killer: Killer, vm: VM, choose: Callable) -> None:
    task = freezing(vm)
    assert killer.run(task)["changed"]
    points = choose(killer.points())
    left = 0
    for setting in points:
        thaw(killer.modules, vm)
        killer.start(task, **setting).wait()
        frozen = settled(killer, vm, time.monotonic())
        left += frozen
        print(f"  {setting['kill']}: {'frozen' if frozen else 'thawed'}")
        result = killer.plain(task)
        assert not result["failed"], f"{setting['kill']}: {result['msg']}"
        assert result["changed"] != frozen, setting
        assert vm.stalled() == MOUNTS and not killer.plain(task)["changed"]
        assert not killer.journals()
    assert 0 < left < len(points)
    thaw(killer.modules, vm)
    assert vm.stalled() == [] and vm.lost_records() == []


def test_killed_while_freezing(db01: VM, killer: Killer) -> None:
    """Until the guard was told to stay, it thaws at once; then the deadline holds."""
    killed_while_freezing(killer, db01, moments)


@pytest.mark.kills_all
def test_killed_while_freezing_at_every_point(db01: VM, killer: Killer) -> None:
    killed_while_freezing(killer, db01, every_point)


def test_killed_while_thawing(db01: VM, killer: Killer) -> None:
    task = Task("vm_freeze", (db01,), {"state": "thawed"})
    freeze(killer.modules, db01)
    assert killer.run(task)["changed"]
    for setting in moments(killer.points()):
        freeze(killer.modules, db01)
        killer.start(task, **setting).wait()
        assert not killer.plain(task)["failed"]
        assert db01.stalled() == [] and not killer.journals()
        wait_until(lambda: not guards(killer.modules), 5, f"the guard ends, {setting}")
        assert records(killer.modules) == []


def test_killed_with_the_guard_before_it_was_frozen(db01: VM, killer: Killer) -> None:
    """A record without a freeze means nothing, and is written over."""
    task = freezing(db01)
    point = "before agent guest-fsfreeze-freeze db01"
    killer.start(task, kill=point, guard_too=True).wait()
    assert len(records(killer.modules)) == 1 and db01.stalled() == []
    assert killer.plain(task)["changed"] and db01.stalled() == MOUNTS
    thaw(killer.modules, db01)
