# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points go as the rules say, and those that stay keep every byte."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.uses import record_use
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.backup import RestorePoint
from image_story import MIB, content, needs_root, qemu_img
from lab.modules import ModuleRun, start_module
from lab.vm import wait_until
from repository_stage import FIRST, Depot, fingerprint, read_only, uuid_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Depot:
    """Five points of db01 in one chain, and three of app01 with two disks."""
    depot = Depot(tmp_path_factory.mktemp("store") / "backup")
    depot.chain(5)
    for day in range(3):
        options = {"parent": "last", "full": ("vdb",)} if day else {}
        time = FIRST + timedelta(days=day, hours=1)
        depot.add("app01", disks=("vda", "vdb"), time=time, **options)
    return depot


@pytest.fixture
def depot(store: Depot, fast: Path) -> Depot:
    """The same for a test of its own."""
    return store.copy(fast / "backup")


def pruned(depot: Depot, **params: Any) -> dict[str, Any]:
    """A change, with the promises of every mutation.

    Check mode touches nothing and foresees the very plan and picture of the real run; what stays
    has its content and passes a verification; a second run changes nothing, by no program.
    """
    params = {"vm": ["db01"], **params}
    before = fingerprint(depot.path)
    foreseen = depot.run("vm_backup_prune", check=True, **params)
    assert fingerprint(depot.path) == before, "check mode has changed something"
    real = depot.run("vm_backup_prune", **params)
    assert real["changed"] == bool(real["plan"]) and real == foreseen
    for name in params["vm"]:
        depot.intact(name)
        kept = [point["id"] for point in real["vms"][name]["kept"]]
        assert kept == depot.ids(name)
        assert depot.stock(name).debris == depot.stock(name).staged == ()
    again = depot.run("vm_backup_prune", env={"PATH": "/nonexistent"}, **params)
    assert not again["changed"] and again["plan"] == []
    for name in params["vm"]:
        assert not again["vms"][name]["removed"] and not again["vms"][name]["merged"]
    result = depot.attempt("vm_backup_info", verify=True, vm=params["vm"])
    assert result is not None and not result["failed"], result["msg"]
    return real


def of(result: dict[str, Any], key: str, name: str = "db01") -> list[str]:
    """The ids in a part of the result."""
    return [each["id"] for each in result["vms"][name][key]]


# --- what is done ---


def test_a_kept_point_is_made_full(depot: Depot) -> None:
    ids = depot.ids()
    old = depot.stock().point(ids[3])
    result = pruned(depot, keep_last=2)
    assert result["vms"]["db01"] == {
        "kept": [
            {"id": ids[3], "reasons": ["last 2"]},
            {"id": ids[4], "reasons": ["last 1", "newest"]},
        ],
        "removed": [{"id": id, "why": "no rule keeps it"} for id in ids[2::-1]],
        "merged": [ids[3]],
        "broken": {},
        "uuid": uuid_of("db01"),
    }
    assert [step["step"] for step in result["plan"]] == ["merge_point", *["remove_point"] * 3]
    new, young = depot.stock().points
    assert new.type == "full" and new.parent is None and new.formerly == (old.digest,)
    assert new.checkpoint == old.checkpoint and new.time == old.time
    assert young.stands_on(new) and young.parent.digest == old.digest
    info = json.loads(qemu_img("info", "--output=json", depot.file(ids[3])))
    assert "backing-filename" not in info and info["cluster-size"] == 64 << 10
    assert depot.file(ids[3]).stat().st_mode & 0o777 == 0o600
    assert not (depot.folder() / ids[0]).exists()
    assert f"  {ids[3]} full; stays: last 2" in result["diff"]["after"]


def test_what_was_verified_is_so_after_a_merge_and_what_was_not_is_not(depot: Depot) -> None:
    """Else a second run would find another newest verified one, and remove the first."""
    depot.info(verify=True, verify_points=[depot.ids()[3]], now="2026-11-19T03:00:00Z")
    depot.run("vm_backup_prune", vm=["db01"], keep_last=2, now="2026-11-20T03:00:00Z")
    entry = depot.info()
    assert entry["newest_verified"] == depot.ids()[0]
    assert entry["last_verified"] == "2026-11-20T03:00:00Z"
    depot.add()
    depot.run("vm_backup_prune", vm=["db01"], keep_last=1, now="2026-11-21T03:00:00Z")
    assert depot.info()["newest_verified"] == depot.ids()[0]
    assert not depot.run("vm_backup_prune", vm=["db01"], keep_last=1)["changed"]


def test_disks_that_are_full_already_stay_as_they_are(depot: Depot) -> None:
    last = depot.ids("app01")[-1]
    before = depot.file(last, "vdb.qcow2", "app01").stat()
    result = pruned(depot, vm=["app01"], keep_yearly=1)
    assert of(result, "kept", "app01") == [last]
    now = depot.file(last, "vdb.qcow2", "app01").stat()
    assert (now.st_ino, now.st_mtime) == (before.st_ino, before.st_mtime)


def test_all_vms_and_protected_points(depot: Depot) -> None:
    ids, others = depot.ids(), depot.ids("app01")
    result = pruned(depot, vm=["db01", "app01"], keep_last=1, protect=[ids[1], others[0]])
    assert of(result, "kept") == [ids[1], ids[4]]
    assert result["vms"]["db01"]["merged"] == [ids[1], ids[4]]
    assert of(result, "kept", "app01") == [others[0], others[2]]
    untouched = depot.run("vm_backup_prune", keep_last=1, protect=[ids[1], others[0]])
    assert sorted(untouched["vms"]) == ["app01", "db01"] and not untouched["changed"]


def test_a_point_of_some_disks_takes_no_whole_ones_place(depot: Depot) -> None:
    ids = depot.ids("app01")
    some = {"disks": ("vda",), "left_out": (("vdb", "not asked for"),)}
    part = depot.add("app01", parent="last", **some)
    result = pruned(depot, vm=["app01"], keep_last=1, keep_daily=1)
    assert of(result, "kept", "app01") == [ids[-1], part.id]
    reasons = result["vms"]["app01"]["kept"][1]["reasons"]
    assert reasons[0] == "last 1 with only vda" and "newest with only vda" in reasons


def test_what_is_in_use_is_not_merged_either(depot: Depot, fast: Path) -> None:
    """Else check mode would foresee a merge that cannot be while a VM runs on it."""
    ids = depot.ids()
    overlay = fast / "overlay.qcow2"
    backing = depot.file(ids[2])
    qemu_img("create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", overlay)
    assert record_use(str(backing), (str(overlay),)) == []
    try:
        result = pruned(depot, keep_last=1)
    finally:
        overlay.unlink()
    kept = {entry["id"]: entry["reasons"] for entry in result["vms"]["db01"]["kept"]}
    assert kept[ids[2]] == [f"in use by {overlay}"]
    assert kept[ids[0]] == [f"needed by {ids[2]}"] and result["vms"]["db01"]["merged"] == [ids[4]]


def test_files_of_others_and_a_parent_without_a_manifest_are_left_alone(depot: Depot) -> None:
    ids = depot.ids()
    mine, left = depot.file(ids[4], "NOTES.txt"), depot.file(ids[4], "vda.qcow2.merged")
    for path in (mine, left):
        path.write_text("x")
    depot.file(ids[0], "manifest.json").unlink()
    result = depot.run("vm_backup_prune", vm=["db01"], keep_last=5)
    assert [step["step"] for step in result["plan"]] == ["remove_debris"]
    assert mine.exists() and not left.exists() and depot.file(ids[0]).exists()
    assert "manifest.json is missing" in result["vms"]["db01"]["broken"][ids[0]]


def test_without_merging(depot: Depot) -> None:
    ids = depot.ids()
    result = pruned(depot, keep_last=1, merge=False)
    assert result["plan"] == [] and result["vms"]["db01"]["kept"][0] == {
        "id": ids[0],
        "reasons": [f"needed by {ids[4]}"],
    }


def test_again_and_again(depot: Depot) -> None:
    """A day after the other, as it is used: one new increment, one point made full, one gone."""
    for _day in range(3):
        depot.add(parent="last")
        result = pruned(depot, keep_daily=3)
        assert len(of(result, "kept")) == 3
    assert len(result["vms"]["db01"]["merged"]) == 1 and len(of(result, "removed")) == 1


def as_told(point: RestorePoint, **more: Any) -> dict[str, Any]:
    """A restore point as vm_backup tells of it."""
    parent = point.parent.id if point.parent else None
    return {"restore_point": {"id": point.id, "time": point.time, "parent": parent, **more}}


def test_check_mode_counts_with_what_is_foreseen(depot: Depot, fast: Path) -> None:
    """What goes once a restore point is made is told before it is made, and goes then."""
    ids = depot.ids()
    made_elsewhere = Depot(fast / "elsewhere")
    made_elsewhere.chain(5)
    told = {uuid_of("db01"): as_told(made_elsewhere.add(parent="last")), "web01": {"failed": True}}
    usual = {"vm": ["db01"], "keep_last": 3}
    now = depot.run("vm_backup_prune", check=True, **usual)
    foreseen = depot.run("vm_backup_prune", check=True, foreseen=told, **usual)
    assert of(now, "removed") == ids[1::-1] and of(foreseen, "removed") == ids[2::-1]
    point = depot.add(parent="last")
    told["db01"] = as_told(point)
    real = depot.run("vm_backup_prune", foreseen=told, **usual)
    assert real["vms"] == foreseen["vms"] and of(real, "kept") == [*ids[3:], point.id]
    assert [step["step"] for step in real["plan"]] == [step["step"] for step in foreseen["plan"]]
    assert not depot.run("vm_backup_prune", foreseen=told, **usual)["changed"]


def test_what_is_foreseen_removes_nothing_without_check_mode(depot: Depot) -> None:
    ids = depot.ids()
    point = {"id": "20270101T030000Z", "time": "2027-01-01T03:00:00Z", "parent": None}
    told = {"db01": {"restore_point": point}, "new01": {"restore_point": point}}
    usual = {"keep_last": 1, "foreseen": told}
    foreseen = depot.run("vm_backup_prune", check=True, vm=["db01", "new01"], **usual)
    assert of(foreseen, "removed") == ids[::-1] and of(foreseen, "kept", "new01") == [point["id"]]
    assert of(depot.run("vm_backup_prune", vm=["db01"], **usual), "kept") == ids[-1:]
    result = depot.attempt("vm_backup_prune", vm=["new01"], **usual)
    assert result["failed"] and "has no restore point of VM new01" in result["msg"]


def test_refused_options(depot: Depot) -> None:
    before = fingerprint(depot.path)
    for params, said in (
        ({}, "no option says which restore points are kept"),
        ({"keep_last": 0}, "no option says which restore points are kept"),
        ({"keep_last": 1, "keep_daily": -1}, "keep_daily is -1"),
        ({"keep_last": 1, "protect": ["../x"]}, "protect names '../x'"),
        ({"keep_last": 1, "foreseen": {"db01": "x"}}, "says of VM 'db01': 'x'"),
        ({"keep_last": 1, "foreseen": {"db01": {"restore_point": {"id": "../x"}}}}, "'id': '../x'"),
        ({"keep_last": 1, "vm": []}, "empty list"),
        ({"keep_last": 1, "lock_timeout": -1}, "lock_timeout is -1"),
    ):
        result = depot.attempt("vm_backup_prune", **params)
        assert result["failed"] and said in result["msg"]
    assert fingerprint(depot.path) == before


@needs_root
def test_a_repository_that_cannot_be_written_to(depot: Depot) -> None:
    before = fingerprint(depot.path)
    with read_only(depot.path):
        result = depot.attempt("vm_backup_prune", vm=["db01"], keep_last=1)
        assert result["failed"] and not result["changed"]
        assert "Read-only file system" in result["msg"]
        assert "look at its owner" in result["msg"]
    assert fingerprint(depot.path) == before


def test_one_vm_that_fails_does_not_stop_another(depot: Depot) -> None:
    result = depot.attempt("vm_backup_prune", vm=["web01", "db01"], keep_last=1)
    assert result["failed"] and result["vms"]["web01"]["failed"] and result["changed"]
    assert len(of(result, "kept")) == 1
    depot.intact()


# --- points that are not good ---


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_nothing_is_removed_for_what_turns_out_to_be_bad(depot: Depot) -> None:
    """A byte has flipped that nobody has seen yet. The next run knows of it."""
    ids = depot.ids()
    flip(depot.file(ids[2]))
    before = fingerprint(depot.path)
    result = depot.attempt("vm_backup_prune", vm=["db01"], keep_last=2)
    assert result["failed"] and not result["changed"]
    assert f"{ids[3]} cannot be made full, since {ids[2]} is bad" in result["msg"]
    assert f"{ids[2]}/vda.qcow2 has another content" in result["msg"]
    assert of(result, "kept") == ids and not of(result, "removed")
    after = fingerprint(depot.path)
    assert {path for path in after if before.get(path) != after[path]} == {
        f"{depot.folder().name}/{ids[2]}/verified.json"
    }
    again = depot.run("vm_backup_prune", vm=["db01"], keep_last=2)
    reasons = {each["id"]: each["reasons"] for each in again["vms"]["db01"]["kept"]}
    assert reasons[ids[1]] == ["last 1", "newest"] and reasons[ids[0]] == ["last 2"]
    assert reasons[ids[4]] == ["last 1, although it is bad"]
    assert reasons[ids[2]] == [f"needed by {ids[3]}"]


def test_bad_points_go_when_their_time_has_come(depot: Depot) -> None:
    ids = depot.ids()
    depot.file(ids[4]).unlink()
    depot.add(parent=ids[3])
    depot.add(parent="last")
    result = pruned(depot, keep_last=2)
    assert ids[4] in of(result, "removed") and len(of(result, "kept")) == 2
    assert "and it is bad" in result["vms"]["db01"]["removed"][0]["why"]


def test_broken_points_are_left_alone(depot: Depot) -> None:
    ids = depot.ids()
    manifest = depot.file(ids[1], "manifest.json")
    manifest.write_text("torn")
    for id in ids[2:]:
        shutil.rmtree(depot.folder() / id)
    depot.add(parent=None)
    depot.add(parent="last")
    result = depot.run("vm_backup_prune", vm=["db01"], keep_last=1)
    assert list(result["vms"]["db01"]["broken"]) == [ids[1]]
    assert f"db01: {ids[1]} is left alone" in result["notes"][0]
    assert manifest.read_text() == "torn" and depot.file(ids[1]).exists()


# --- what dead runs left, and other runs ---


def test_debris_is_removed(depot: Depot) -> None:
    dead = depot.folder() / "20261201T030000Z"
    dead.mkdir()
    (dead / "vda.qcow2").write_bytes(b"x")
    depot.file(depot.ids()[2], "vda.qcow2.merged").write_bytes(b"x")
    foreign = depot.folder() / "notes"
    foreign.mkdir()
    (foreign / "why").write_text("mine")
    result = pruned(depot, keep_last=9)
    assert [step["step"] for step in result["plan"]] == ["remove_debris"] * 2
    assert not dead.exists() and (foreign / "why").read_text() == "mine"


@contextmanager
def used_by_qemu(path: Path, scratch: Path) -> Iterator[None]:
    """A QEMU that has an image open for reading, as the base of its disk."""
    fifo = scratch / "commands"
    os.mkfifo(fifo)
    line = ["qemu-io", "-r", "-f", "qcow2", str(path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        inode = str(path.stat().st_ino)
        wait_until(lambda: f":{inode} " in Path("/proc/locks").read_text(), 30, "QEMU has it open")
        yield
        process.communicate(b"q\n")


def test_what_qemu_has_open_is_left_alone(depot: Depot, tmp_path: Path) -> None:
    ids = depot.ids()
    with used_by_qemu(depot.file(ids[0]), tmp_path):
        foreseen = depot.run("vm_backup_prune", vm=["db01"], keep_last=4, check=True)
        result = depot.run("vm_backup_prune", vm=["db01"], keep_last=4)
        assert result["plan"] == foreseen["plan"] and result["diff"] == foreseen["diff"]
        kept = {point["id"]: point["reasons"] for point in result["vms"]["db01"]["kept"]}
        assert kept[ids[0]][-1].startswith("in use by process")
        depot.intact()
    pruned(depot, keep_last=4)


def test_debris_that_qemu_still_writes_is_left_alone(depot: Depot, tmp_path: Path) -> None:
    dead = depot.folder() / "20261201T030000Z"
    dead.mkdir()
    shutil.copyfile(depot.file(depot.ids()[0]), dead / "vda.qcow2")
    with used_by_qemu(dead / "vda.qcow2", tmp_path):
        result = depot.run("vm_backup_prune", vm=["db01"], keep_last=9)
        assert not result["changed"] and "is left alone: it is in use by" in result["notes"][0]
    assert len(pruned(depot, keep_last=9)["plan"]) == 1


@contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield


def test_readers_are_waited_for(depot: Depot) -> None:
    """By name if that can be told; a merge needs them only for the moment of replacing."""
    with locked(depot.folder() / "readers.lock", fcntl.LOCK_SH):
        result = depot.attempt("vm_backup_prune", vm=["db01"], keep_last=1, lock_timeout=0)
        assert result["failed"] and f"process {os.getpid()} " in result["msg"]
        depot.intact()
        assert len(depot.ids()) == 5
        run = start(depot, keep_last=1, lock_timeout=60)
        time.sleep(1)
        assert run.poll() is None
    assert run.result()["changed"] and len(depot.ids()) == 1
    depot.intact()


def test_readers_are_waited_for_where_nothing_is_merged(depot: Depot) -> None:
    depot.add(parent=None)
    for _time in range(2):
        with locked(depot.folder() / "readers.lock", fcntl.LOCK_SH):
            result = depot.attempt("vm_backup_prune", vm=["db01"], keep_last=1, lock_timeout=0)
            assert result["failed"] and "held by another run" in result["msg"]
        assert len(depot.ids()) == 6
    assert len(pruned(depot, keep_last=1)["plan"]) == 5


def test_a_backup_under_way_is_not_taken_for_debris(depot: Depot) -> None:
    folder = depot.folder() / "20261201T030000Z"
    folder.mkdir()
    (folder / "vda.qcow2").write_bytes(b"x")
    with locked(depot.folder() / "writer.lock"):
        result = depot.run("vm_backup_prune", vm=["db01"], keep_last=9, lock_timeout=0)
        assert not result["changed"] and "another run works on" in result["notes"][0]
        result = depot.attempt("vm_backup_prune", vm=["db01"], keep_last=1, lock_timeout=0)
        assert result["failed"] and "is held by another run" in result["msg"]
    assert folder.exists()


def start(depot: Depot, **params: Any) -> ModuleRun:
    return start_module("vm_backup_prune", depot.params(vm=["db01"], **params))


def test_two_at_once(depot: Depot) -> None:
    """One does it, the other finds it done; a verification beside them sees good points only."""
    runs = [start(depot, keep_last=2) for _run in range(2)]
    looks = [depot.attempt("vm_backup_info", vm=["db01"], verify=True) for _time in range(4)]
    results = [run.result() for run in runs]
    assert not any(result["failed"] for result in [*results, *looks]), (results, looks)
    assert sorted(result["changed"] for result in results) == [False, True]
    assert len(depot.ids()) == 2
    depot.intact()


# --- no room ---


def wrapped(tmp_path: Path, *lines: str) -> dict[str, str]:
    """An environment in which these lines of shell are run before qemu-img convert."""
    script = tmp_path / "bin" / "qemu-img"
    script.parent.mkdir()
    first = "\n".join(('if [ "$1" = convert ]; then', *lines, "fi"))
    script.write_text(f'#!/bin/sh\n{first}\nexec {shutil.which("qemu-img")} "$@"\n')
    script.chmod(0o755)
    return {"PATH": f"{script.parent}:{os.environ['PATH']}"}


def test_a_merge_that_cannot_be_written(depot: Depot, tmp_path: Path) -> None:
    before = fingerprint(depot.path)
    env = wrapped(tmp_path, "ulimit -f 2000")
    result = depot.attempt("vm_backup_prune", vm=["db01"], keep_last=1, env=env)
    assert result["failed"] and "qemu-img convert" in result["msg"]
    assert fingerprint(depot.path) == before
    pruned(depot, keep_last=1)


@needs_root
def test_a_full_file_system(store: Depot, tmp_path: Path) -> None:
    """Without room for a merge nothing is merged; where it runs out meanwhile, all stays good."""
    small = tmp_path / "small"
    small.mkdir()
    taken = sum(path.stat().st_size for path in store.path.rglob("*")) // MIB
    size = f"size={taken + 12}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", small], check=True)
    try:
        depot = store.copy(small / "backup")
        before = fingerprint(depot.path)
        fill = f"head -c {10 * MIB} /dev/zero > {small}/fill"
        env = wrapped(tmp_path, fill)
        result = depot.attempt("vm_backup_prune", vm=["db01"], keep_last=1, env=env)
        assert result["failed"] and "No space left on device" in result["msg"], result
        assert fingerprint(depot.path) == before
        result = depot.run("vm_backup_prune", vm=["db01"], keep_last=1)
        assert not result["changed"] and "cannot be made full" in result["notes"][0]
        assert fingerprint(depot.path) == before
        (small / "fill").unlink()
        pruned(depot, keep_last=1)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_wrong_copy_is_noticed(depot: Depot, tmp_path: Path) -> None:
    """A qemu-img that writes something else and says that all is well."""
    script = f'for last; do :; done; exec {shutil.which("qemu-img")} create -q -f qcow2 "$last" 4M'
    env = wrapped(tmp_path, script)
    before = fingerprint(depot.path)
    result = depot.attempt("vm_backup_prune", vm=["db01"], keep_last=1, env=env)
    assert result["failed"] and "has another content than" in result["msg"]
    assert fingerprint(depot.path) == before


# --- half way ---


def test_between_the_steps_of_a_merge(depot: Depot) -> None:
    """The new manifest is there and the new image has not its name yet."""
    ids = depot.ids()
    killed_before_the_renaming(depot)
    assert depot.stock().staged == (ids[3],)
    depot.intact(but=[ids[3]])
    merged = depot.file(ids[3], "vda.qcow2.merged")
    assert content(merged) == content(depot.file(ids[3])) == depot.contents["db01", ids[3], "vda"]
    result = depot.attempt("vm_backup_info", vm=["db01"], verify=True)
    assert not result["failed"], result["msg"]
    point = result["vms"]["db01"]["restore_points"][3]
    assert point["type"] == "full" and point["depth"] == 1 and point["good"]
    result = pruned(depot, keep_last=2)
    assert [step["step"] for step in result["plan"]] == ["finish_merge", *["remove_point"] * 3]


def killed_before_the_renaming(depot: Depot) -> None:
    from kill_trials import HARNESS

    told = {"log": os.devnull, "kill": "before rename vda.qcow2"}
    env = {"VMKEEP_HARNESS": json.dumps(told)}
    params = depot.params(vm=["db01"], keep_last=2)
    assert start_module("vm_backup_prune", params, env=env, runner=HARNESS).wait() < 0
