# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that meet each other, a daemon that goes away, and what belongs to somebody else."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kill_stage import Stage, needs_recovery, overlay
from kill_trials import Killer, Task, portrait
from lab import VM
from lab.vm import wait_until

DATA = 8
BANDWIDTH = 2


@pytest.fixture
def db01(stage: Stage) -> VM:
    """A running machine without snapshots."""
    return stage.running("db01")


def take(vm: VM, name: str = "new", **params: object) -> Task:
    return Task("vm_snapshot", (vm,), {"name": name, "quiesce": "never", **params})


def commit(vm: VM, **params: object) -> Task:
    return Task("vm_blockcommit", (vm,), dict(params))


def fill(vm: VM) -> None:
    """Write enough to the first disk for a commit of 2 MiB/s to take some seconds.

    The writer is slowed down, so that it does not write faster than such a commit follows.
    """
    vm.stop_writer()
    vm.start_writer(0.25)
    vm.run(f"dd if=/dev/zero of=/mnt/vda/data bs=64k count={DATA * 16} conv=fsync 2>/dev/null")


def virsh(vm: VM, *words: str) -> str:
    command = ["virsh", "-c", vm.lab.uri, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# --- two runs at once ---


def test_the_second_run_waits_and_then_has_nothing_to_do(db01: VM, killer: Killer) -> None:
    task = take(db01)
    point = "before libvirt snapshotCreateXML db01"
    with killer.start(task, hold={point: 2.0}) as first:
        killer.reaches(point)
        second = killer.plain(task)
        assert not second["failed"], second["msg"]
        assert not second["changed"] and second["notes"] == []
        assert first.result()["changed"]


def test_the_second_run_of_another_task_goes_on_from_there(db01: VM, killer: Killer) -> None:
    point = "before libvirt snapshotCreateXML db01"
    with killer.start(take(db01), hold={point: 2.0}) as first:
        killer.reaches(point)
        second = killer.plain(commit(db01))
        assert first.result()["changed"]
    assert not second["failed"], second["msg"]
    assert second["vms"]["db01"]["snapshots_removed"] == ["new"]


def test_during_a_freeze_the_second_run_waits(db01: VM, killer: Killer) -> None:
    point = "before libvirt snapshotCreateXML db01"
    with killer.start(take(db01, quiesce="required"), hold={point: 2.0}) as first:
        killer.reaches(point)
        second = killer.plain(take(db01, "next", quiesce="required"))
        result = first.result()
    assert not second["failed"], second["msg"]
    for name, answer in (("new", result), ("next", second)):
        snapshot = answer["vms"]["db01"]["snapshot"]
        assert snapshot["consistency"] == "filesystem", name
        assert not needs_recovery(snapshot["disks"]["vda"]["image"])


def test_during_a_commit_the_second_run_waits(stage: Stage, killer: Killer) -> None:
    vm = stage.running("db01", "s1")
    fill(vm)
    with killer.start(commit(vm, bandwidth=BANDWIDTH)) as first:
        killer.reaches("after libvirt blockCommit db01 vdb")
        second = killer.plain(take(vm))
        assert first.result()["changed"]
    assert not second["failed"], second["msg"]
    assert [s["name"] for s in killer.modules.info(vm)["snapshots"]] == ["new"]
    assert vm.lost_records() == []


def test_a_short_wait_ends_with_the_name_of_the_holder(db01: VM, killer: Killer) -> None:
    point = "before libvirt snapshotCreateXML db01"
    with killer.start(take(db01), hold={point: 4.0}) as first:
        killer.reaches(point)
        for task in (take(db01, "other", lock_timeout=1), commit(db01, lock_timeout=0)):
            refused = killer.plain(task)
            assert refused["failed"]
            assert "vm_snapshot" in refused["msg"] and f"process {first.pid}" in refused["msg"]
        assert first.result()["changed"]


def test_many_runs_at_once(db01: VM, killer: Killer) -> None:
    from lab.modules import start_module

    task = take(db01)
    params = killer.modules.params([db01], **task.params)
    runs = [start_module(task.module, params) for _number in range(6)]
    results = [run.result() for run in runs]
    assert not [result["msg"] for result in results if result["failed"]]
    assert sum(result["changed"] for result in results) == 1
    assert killer.journals() == []


def test_the_lock_dies_with_its_owner(db01: VM, killer: Killer) -> None:
    point = "before libvirt snapshotCreateXML db01"
    with killer.start(take(db01), hold={point: 60.0}) as holder:
        killer.reaches(point)
        holder.kill()
    began = time.monotonic()
    result = killer.plain(take(db01, lock_timeout=0))
    assert not result["failed"], result["msg"]
    assert "undid snapshot new" in result["notes"][0]
    assert time.monotonic() - began < 5


# --- a daemon that goes away ---


@pytest.mark.parametrize("crash", [False, True], ids=["restarted", "crashed"])
def test_a_commit_goes_on_when_the_daemon_comes_back(
    stage: Stage, killer: Killer, crash: bool
) -> None:
    vm = stage.running("db01", "s1")
    fill(vm)
    with killer.start(commit(vm, bandwidth=BANDWIDTH)) as run:
        killer.reaches("after libvirt blockCommit db01 vdb")
        time.sleep(0.5)
        stage.lab.daemon.restart(crash=crash)
        result = run.result()
    assert not result["failed"], result["msg"]
    assert any("libvirt was lost and found again" in note for note in result["notes"])
    _merged(vm, killer)


def test_the_job_of_a_dead_run_is_found_by_a_new_daemon(stage: Stage, killer: Killer) -> None:
    vm = stage.running("db01", "s1")
    fill(vm)
    with killer.start(commit(vm, bandwidth=BANDWIDTH)) as run:
        killer.reaches("after libvirt blockCommit db01 vdb")
        time.sleep(0.5)
        stage.lab.daemon.kill()
        run.kill()
    stage.lab.daemon.start()
    result = killer.run(commit(vm, bandwidth=BANDWIDTH))
    assert not result["failed"], result["msg"]
    assert "finished what an interrupted run had begun" in result["notes"][0]
    assert not _started(killer, "vda"), "the job was begun once more"
    _merged(vm, killer)


def _started(killer: Killer, target: str) -> bool:
    """Whether the last run began a commit of this disk."""
    return any(f"blockCommit db01 {target}" in point.name for point in killer.points())


def _merged(vm: VM, killer: Killer) -> None:
    """The chain is merged, nothing is lost, and there is nothing more to do."""
    assert {target: vm.source(target) for target in vm.disks} == {
        target: disk.path for target, disk in vm.disks.items()
    }
    assert killer.journals() == []
    assert not killer.plain(commit(vm))["changed"]
    portrait(killer.modules, (vm,))
    assert vm.lost_records() == []


# --- jobs of others, and of dead runs ---


def test_a_ready_job_of_a_dead_run_is_taken_up(stage: Stage, killer: Killer) -> None:
    vm = stage.running("db01", "s1")
    point = "before journal mark pivot vda db01.json"
    killer.start(commit(vm), kill=point).wait()
    assert vm.domain.blockJobInfo("vda", 0)
    result = killer.run(commit(vm))
    assert not result["failed"], result["msg"]
    assert "finished what an interrupted run had begun" in result["notes"][0]
    assert not _started(killer, "vda"), "the job was begun once more"
    _merged(vm, killer)


def test_a_job_of_a_dead_run_ends_while_the_next_run_plans(stage: Stage, killer: Killer) -> None:
    """A commit below the active image ends by itself, at any moment."""
    vm = stage.running("db01", "s1")
    fill(vm)
    assert not killer.plain(take(vm, "s2"))["failed"]
    task = commit(vm, max_depth=2, bandwidth=1)
    killer.start(task, kill="after libvirt blockCommit db01 vdb").wait()
    point = "before libvirt blockJobInfo db01 vda #2"  # the first looks for jobs of others
    with killer.start(task, hold={point: 3.0}) as run:
        killer.reaches(point)
        vm.domain.blockJobSetSpeed("vda", 0)
        wait_until(lambda: not vm.domain.blockJobInfo("vda", 0), 2, "the job is over")
        result = run.result()
    assert not result["failed"], result["msg"]
    assert result["notes"] == ["db01: finished what an interrupted run had begun"]
    assert not _started(killer, "vda"), "the job was begun once more"
    assert not killer.plain(commit(vm))["failed"]
    _merged(vm, killer)


def by_commit(vm: VM) -> None:
    """virsh blockcommit, still at work."""
    fill(vm)
    virsh(vm, "blockcommit", "db01", "vda", "--active", "--bandwidth", str(BANDWIDTH))


def by_ready_commit(vm: VM) -> None:
    """The very job that vm_blockcommit would start, but not started by it."""
    virsh(vm, "blockcommit", "db01", "vda", "--active", "--base", vm.disks["vda"].path)
    time.sleep(0.5)


def by_copy(vm: VM) -> None:
    """virsh blockcopy."""
    copy = vm.folder / "copy.qcow2"
    virsh(
        vm, "blockcopy", "db01", "vda", str(copy), "--transient-job", "--bandwidth", str(BANDWIDTH)
    )


@pytest.mark.parametrize("begin", [by_commit, by_ready_commit, by_copy])
def test_a_foreign_job_is_left_alone(
    stage: Stage, killer: Killer, begin: Callable[[VM], None]
) -> None:
    vm = stage.running("db01", "s1")
    begin(vm)
    job = vm.domain.blockJobInfo("vda", 0)
    for task in (commit(vm), take(vm), take(vm, "s1", state="absent")):
        task.params.pop("quiesce", None)
        result = killer.plain(task)
        assert result["failed"], task
        assert "block job" in result["msg"] and "vda" in result["msg"] and "db01" in result["msg"]
        assert vm.domain.blockJobInfo("vda", 0)["type"] == job["type"]
    assert not vm.domain.blockJobInfo("vdb", 0), "the other disk was begun with"
    vm.domain.blockJobAbort("vda", 0)
    assert killer.journals() == []
    assert not killer.plain(commit(vm))["failed"]
    _merged(vm, killer)


# --- snapshots, locks and freezes of others ---


def test_a_foreign_snapshot_is_left_alone(db01: VM, killer: Killer) -> None:
    virsh(db01, "snapshot-create-as", "db01", "theirs", "--disk-only", "--atomic")
    assert not killer.plain(take(db01, "ours"))["failed"]
    before = portrait(killer.modules, (db01,))
    for params in ({}, {"max_depth": 2}, {"disks": ["vdb"]}):
        result = killer.plain(commit(db01, **params))
        assert result["failed"] and "theirs" in result["msg"], params
    assert portrait(killer.modules, (db01,)) == before
    # What is above it can be merged, and it goes where its images are named.
    task = Task("vm_snapshot", (db01,), {"name": "ours", "state": "absent"})
    assert not killer.plain(task)["failed"]
    assert [s["name"] for s in killer.modules.info(db01)["snapshots"]] == ["theirs"]
    for target, disk in db01.disks.items():
        assert not killer.plain(commit(db01, disks=[target], base=disk.path))["failed"]
    _merged(db01, killer)


@contextmanager
def foreign_lock(killer: Killer, vm: VM) -> Iterator[subprocess.Popen]:
    """flock(1) on the lock of a VM."""
    path: Path = killer.modules.state_dir / "lock" / f"{vm.uuid}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = subprocess.Popen(
        ["flock", "--no-fork", str(path), "sh", "-c", "echo held; exec sleep 60"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    try:
        yield holder
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("stale", [False, True], ids=["alone", "over-the-note-of-a-dead-run"])
def test_a_foreign_lock_is_left_alone(db01: VM, killer: Killer, stale: bool) -> None:
    if stale:
        point = "before libvirt snapshotCreateXML db01"
        killer.start(take(db01), kill=point).wait()
    with foreign_lock(killer, db01) as holder:
        result = killer.plain(take(db01, lock_timeout=1))
        assert result["failed"]
        assert f"process {holder.pid} (sleep)" in result["msg"]
        assert "vm_snapshot" not in result["msg"]
        assert holder.poll() is None
    assert killer.plain(take(db01, lock_timeout=0))["changed"]


@pytest.mark.parametrize("quiesce", ["required", "preferred"])
def test_a_foreign_freeze_is_left_alone(db01: VM, killer: Killer, quiesce: str) -> None:
    db01.agent("guest-fsfreeze-freeze")
    try:
        result = killer.plain(take(db01, quiesce=quiesce))
        assert result["failed"]
        assert "db01" in result["msg"] and "frozen by somebody else" in result["msg"]
        assert db01.frozen() and db01.stalled() == ["/mnt/vda", "/mnt/vdb"]
    finally:
        db01.agent("guest-fsfreeze-thaw")
    assert not Path(overlay(db01, "vda", "new")).exists()


def test_a_freeze_that_a_dead_run_did_not_make_is_left_alone(stage: Stage, killer: Killer) -> None:
    vm = stage.running("db01", "s1")
    killer.start(commit(vm), kill="before journal mark pivot vda db01.json").wait()
    vm.agent("guest-fsfreeze-freeze")
    try:
        assert not killer.plain(commit(vm))["failed"]
        assert vm.frozen()
    finally:
        vm.agent("guest-fsfreeze-thaw")


def test_a_thaw_by_somebody_else_is_noticed(db01: VM, killer: Killer) -> None:
    """Nobody claims that a snapshot is quiesced if the guest was thawed before it was taken."""
    point = "before libvirt snapshotCreateXML db01"
    for quiesce, name in (("preferred", "one"), ("required", "two")):
        with killer.start(take(db01, name, quiesce=quiesce), hold={point: 1.5}) as run:
            killer.reaches(point)
            db01.agent("guest-fsfreeze-thaw")
            result = run.result()
        if quiesce == "required":
            assert result["failed"] and "thawed" in result["msg"]
            assert [s["name"] for s in killer.modules.info(db01)["snapshots"]] == ["one"]
        else:
            assert result["vms"]["db01"]["snapshot"]["consistency"] == "crash"
            assert "not quiesced" in result["notes"][0]
    assert killer.journals() == []
    portrait(killer.modules, (db01,))
    assert db01.lost_records() == []
