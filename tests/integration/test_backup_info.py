# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points are shown as they are, and a verification finds whatever is wrong with one."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.backup import (
    digest_of,
    seal_of,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.manifest import parse_manifest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    Damaged,
)
from image_story import needs_root, qemu_img
from lab.modules import COLLECTIONS, RUNNER, link_collection, start_module, task
from repository_stage import SIZE, Depot, fingerprint, light, read_only, uuid_of

NOW = "2026-11-04T03:00:00Z"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Depot:
    """Three points of db01 in one chain, and two of app01 with two disks."""
    depot = Depot(tmp_path_factory.mktemp("store") / "backup")
    depot.chain(3)
    depot.add("app01", disks=("vda", "vdb"), left_out=(("vdc", "it is a CD"),), protected=True)
    depot.add("app01", parent="last", disks=("vda", "vdb"), full=("vdb",))
    return depot


@pytest.fixture
def depot(store: Depot, fast: Path) -> Depot:
    """The same for a test of its own."""
    return store.copy(fast / "backup")


def ids_of(entry: dict[str, Any]) -> list[str]:
    return [point["id"] for point in entry["restore_points"]]


def bad(entry: dict[str, Any]) -> set[str]:
    """The points that are said not to restore."""
    found = {point["id"] for point in entry["restore_points"] if not point["good"]}
    return found | set(entry["broken"])


# --- what is returned ---


def test_every_field(depot: Depot) -> None:
    first, second, third = depot.ids()
    before = fingerprint(depot.path)
    result = depot.run("vm_backup_info", now=NOW)
    assert fingerprint(depot.path) == before
    assert not result["changed"] and result["plan"] == result["notes"] == []
    entry = result["vms"]["db01"]
    assert list(result["vms"]) == ["app01", "db01"]
    assert {key: value for key, value in entry.items() if key != "restore_points"} == {
        "broken": {}, "debris": [], "under_way": None, "newest": third, "age": 24 * 3600,
        "depth": 3, "newest_verified": None, "last_verified": None,
        "bytes": sum(path.stat().st_size for path in depot.folder().glob("*/[!m]*")),
        "uuid": uuid_of("db01"),
    }  # fmt: skip
    point = entry["restore_points"][1]
    folder = depot.folder() / second
    assert point == {
        "id": second, "type": "incremental", "parent": first, "time": "2026-11-02T03:00:00Z",
        "consistency": "offline", "seconds": 1.5, "depth": 2, "path": str(folder),
        "bytes": sum(path.stat().st_size for path in folder.glob("[!m]*")),
        "disks": [{
            "target": "vda", "type": "incremental", "file": "vda.qcow2", "format": "qcow2",
            "bytes": (folder / "vda.qcow2").stat().st_size, "virtual_size": SIZE,
            "source": "/vm/db01.vda",
        }],
        "left_out": [], "protected": False, "reason": "as asked", "verified": None,
        "verified_now": False, "good": True, "trouble": "", "dependents": [third],
    }  # fmt: skip
    other = result["vms"]["app01"]["restore_points"]
    assert other[0]["protected"] and other[0]["left_out"] == [
        {"target": "vdc", "reason": "it is a CD"}
    ]
    assert [disk["type"] for disk in other[1]["disks"]] == ["incremental", "full"]


def test_verifying_is_recorded(depot: Depot) -> None:
    foreseen = depot.attempt("vm_backup_info", verify=True, now=NOW, check=True)
    assert foreseen["vms"]["db01"]["newest_verified"] == depot.ids()[-1]
    assert depot.info()["last_verified"] is None, "check mode has recorded something"
    entry = depot.run("vm_backup_info", verify=True, now=NOW)["vms"]["db01"]
    assert all(point["verified_now"] for point in entry["restore_points"])
    again = depot.info(now=NOW)
    assert again["last_verified"] == NOW and again["newest_verified"] == again["newest"]
    assert not any(point["verified_now"] for point in again["restore_points"])
    assert again["restore_points"][0]["verified"] == {"at": NOW, "ok": True, "trouble": ""}
    assert again["debris"] == []
    for path in depot.path.rglob("verified.json"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_only_some_are_verified_with_what_they_stand_on(depot: Depot) -> None:
    first, second, third = depot.ids()
    entry = depot.info(verify_points=[second])
    assert [point["verified_now"] for point in entry["restore_points"]] == [True, True, False]
    depot.file(third).write_bytes(b"x")
    assert not depot.attempt("vm_backup_info", vm=["db01"], verify_points=[first])["failed"]
    assert depot.attempt("vm_backup_info", vm=["db01"], verify_points=[third])["failed"]
    result = depot.attempt("vm_backup_info", vm=["db01"], verify_points=["20200101T000000Z"])
    assert result["failed"] and "none of the restore points" in result["msg"]
    assert (
        "the id of a restore point"
        in depot.attempt("vm_backup_info", verify_points=["../db01"])["msg"]
    )


def test_vms_are_found_by_name_and_uuid(depot: Depot) -> None:
    assert list(depot.run("vm_backup_info", vm=["db01"])["vms"]) == ["db01"]
    both = [uuid_of("db01"), "db01", uuid_of("db01")]
    assert list(depot.run("vm_backup_info", vm=both)["vms"]) == ["db01"]
    result = depot.attempt("vm_backup_info", vm=["db01", "web01"])
    assert result["failed"] and "no restore point of VM web01" in result["vms"]["web01"]["msg"]
    assert ids_of(result["vms"]["db01"]) == depot.ids()


def test_two_vms_of_one_name_and_one_that_was_renamed(tmp_path: Path) -> None:
    depot = Depot(tmp_path / "backup")
    depot.add("db01")
    depot.add("db02", vm="db01")
    one, two = uuid_of("db01"), uuid_of("db02")
    assert sorted(depot.run("vm_backup_info")["vms"]) == sorted([one, two])
    assert sorted(depot.run("vm_backup_info", vm=[one, two])["vms"]) == sorted([one, two])
    result = depot.attempt("vm_backup_info", vm=["db01"])
    assert result["failed"] and "2 VMs that are called db01" in result["msg"]
    depot.add("db02", parent="last", vm="web01")
    entries = depot.run("vm_backup_info", vm=["web01", "db01"])["vms"]
    assert {name: len(ids_of(entry)) for name, entry in entries.items()} == {"web01": 2, "db01": 1}


def test_no_repository(tmp_path: Path) -> None:
    empty = object.__new__(Depot)
    empty.path = tmp_path
    result = empty.run("vm_backup_info")
    assert result["vms"] == {} and "is no repository yet" in result["notes"][0]
    empty.path = tmp_path / "nothing"
    assert "is not there" in empty.attempt("vm_backup_info")["msg"]


def test_libvirt_is_not_needed(depot: Depot, tmp_path: Path) -> None:
    """Neither its binding nor a daemon: importing it would end the run."""
    for name in ("libvirt", "libvirt_qemu"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('libvirt was imported')\n")
    link_collection()
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{COLLECTIONS}"}
    for module, params in (
        ("vm_backup_info", {"verify": True, "uri": "qemu+ssh://nowhere/system"}),
        ("vm_backup_prune", {"keep_last": 1}),
    ):
        told = json.dumps(task(module, depot.params(**params))).encode()
        line = [sys.executable, str(RUNNER), module]
        done = subprocess.run(line, input=told, env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


# --- what dead runs and those under way leave ---


@contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, kind)
        file.write(json.dumps({"pid": os.getpid(), "run": "a test", "since": "now"}))
        file.flush()
        yield


def test_what_a_dead_run_left_is_debris(depot: Depot) -> None:
    dead = depot.folder() / "20261109T030000Z"
    dead.mkdir()
    (dead / "progress.json").write_text('{"processed": 1, "total": 2, "since": "x"}')
    stray = depot.file(depot.ids()[0], "vda.qcow2.merged")
    stray.write_bytes(b"x")
    entry = depot.info()
    assert sorted(entry["debris"]) == sorted([str(stray), str(dead)])
    assert entry["under_way"] is None and len(entry["restore_points"]) == 3


def test_a_backup_under_way_is_shown(depot: Depot) -> None:
    folder = depot.folder() / "20261109T030000Z"
    folder.mkdir()
    told = {"id": folder.name, "processed": 5, "total": 9, "since": NOW}
    (folder / "progress.json").write_text(json.dumps(told))
    with locked(depot.folder() / "writer.lock"):
        entry = depot.info()
    run = f"a test, process {os.getpid()}, since now"
    assert entry["under_way"] == {**told, "run": run} and entry["debris"] == []


def test_what_is_just_replaced_is_not_called_bad(depot: Depot) -> None:
    """A look without a lock falls into the moment between a manifest and its image."""
    path = depot.file(depot.ids()[2])
    told = depot.params(vm=["db01"])
    with locked(depot.folder() / "writer.lock"):
        with locked(depot.folder() / "readers.lock"):
            path.rename(f"{path}.elsewhere")
            run = start_module("vm_backup_info", told)
            time.sleep(1.5)
            assert run.poll() is None, "it has not waited"
            Path(f"{path}.elsewhere").rename(path)
        assert bad(run.result()["vms"]["db01"]) == set()


def test_who_replaces_images_is_waited_for(depot: Depot) -> None:
    with locked(depot.folder() / "readers.lock"):
        assert "restore_points" in depot.info()
        result = depot.attempt("vm_backup_info", vm=["db01"], verify=True, lock_timeout=0)
        assert result["failed"] and "held by another run: a test" in result["msg"]
    with locked(depot.folder() / "readers.lock", fcntl.LOCK_SH):
        depot.run("vm_backup_info", vm=["db01"], verify=True, lock_timeout=0)


@needs_root
def test_a_repository_that_cannot_be_written_to(depot: Depot) -> None:
    with read_only(depot.path):
        result = depot.run("vm_backup_info", vm=["db01"], verify=True)
    assert "what was verified could not be recorded" in result["notes"][0]
    assert "Read-only file system" in result["notes"][0]
    assert result["vms"]["db01"]["newest_verified"] == depot.ids()[-1]


# --- what a verification finds ---


def verified(depot: Depot) -> tuple[dict[str, Any], dict[str, Any]]:
    """A verification that has to fail: the task, and the entry of db01."""
    result = depot.attempt("vm_backup_info", vm=["db01"], verify=True)
    assert result is not None and result["failed"], "it has found nothing"
    entry = result["vms"]["db01"]
    assert entry["failed"] and entry["msg"] in result["msg"]
    for id in bad(entry):
        assert f"{id} would not restore" in result["msg"]
    return result, entry


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def test_every_flipped_bit_is_found(depot: Depot) -> None:
    """Of every file, in random places; and what stands on a bad point is bad."""
    ids, dice = depot.ids(), random.Random(7)
    for number, id in enumerate(ids):
        for path in [path for path in (depot.folder() / id).iterdir() if path.stem != "verified"]:
            for _time in range(2):
                before = path.read_bytes()
                flip(path, dice.randrange(len(before)), dice.randrange(8))
                entry = verified(depot)[1]
                assert bad(entry) == set(ids[number:]), path
                path.write_bytes(before)
    depot.run("vm_backup_info", verify=True)


def test_any_byte_of_a_manifest(depot: Depot) -> None:
    """By the reader itself, since this is quick: each byte of one manifest."""
    text = depot.file(depot.ids()[1], "manifest.json").read_text()
    wanted = parse_manifest(text, "here")
    dice = random.Random(3)
    for place in range(len(text)):
        other = chr(ord(text[place]) ^ (1 << dice.randrange(7)))
        torn = text[:place] + other + text[place + 1 :]
        try:
            found = parse_manifest(torn, "here")
        except (Conflict, Damaged):
            continue
        # Only what means the same in JSON, such as another kind of blank.
        assert found == dataclasses.replace(wanted, digest=found.digest), (place, other)


def drop_middle(depot: Depot, ids: list[str]) -> None:
    shutil.rmtree(depot.folder() / ids[1])


def truncate(depot: Depot, ids: list[str]) -> None:
    os.truncate(depot.file(ids[1]), depot.file(ids[1]).stat().st_size - 1)


def truncate_and_extend(depot: Depot, ids: list[str]) -> None:
    size = depot.file(ids[1]).stat().st_size
    os.truncate(depot.file(ids[1]), size - 65536)
    os.truncate(depot.file(ids[1]), size)


def swap_images(depot: Depot, ids: list[str]) -> None:
    one, two = depot.file(ids[1]), depot.file(ids[2])
    os.rename(one, f"{one}.x")
    os.rename(two, one)
    os.rename(f"{one}.x", two)


def swap_folders(depot: Depot, ids: list[str]) -> None:
    one, two = depot.folder() / ids[1], depot.folder() / ids[2]
    one.rename(f"{one}-x")
    two.rename(one)
    Path(f"{one}-x").rename(two)


def link_image(depot: Depot, ids: list[str]) -> None:
    path = depot.file(ids[1])
    path.rename(depot.path / "elsewhere")
    path.symlink_to(depot.path / "elsewhere")


def link_manifest(depot: Depot, ids: list[str]) -> None:
    path = depot.file(ids[1], "manifest.json")
    path.rename(depot.path / "elsewhere")
    path.symlink_to(depot.path / "elsewhere")


def fifo_for_image(depot: Depot, ids: list[str]) -> None:
    depot.file(ids[1]).unlink()
    os.mkfifo(depot.file(ids[1]))


def of_another_vm(depot: Depot, ids: list[str]) -> None:
    """The folder of a point of the same time, from another VM."""
    shutil.rmtree(depot.folder() / ids[1])
    shutil.copytree(depot.folder("app01") / ids[1], depot.folder() / ids[1])


DISASTERS = [
    drop_middle,
    truncate,
    truncate_and_extend,
    swap_images,
    swap_folders,
    link_image,
    link_manifest,
    fifo_for_image,
    of_another_vm,
]


@pytest.mark.parametrize("disaster", DISASTERS, ids=lambda disaster: disaster.__name__)
def test_what_was_done_to_files_is_found(
    depot: Depot, disaster: Callable[[Depot, list[str]], None]
) -> None:
    ids = depot.ids()
    disaster(depot, ids)
    entry = verified(depot)[1]
    gone = set(ids) - set(ids_of(entry)) - set(entry["broken"])
    assert bad(entry) | gone == set(ids[1:])
    assert entry["newest"] == ids[0]
    assert not depot.attempt("vm_backup_info", vm=["app01"], verify=True)["failed"]


def test_a_full_point_of_another_vm(depot: Depot) -> None:
    """Nothing in it is wrong but where it stands."""
    ids = depot.ids()
    for id in ids:
        shutil.rmtree(depot.folder() / id)
    shutil.copytree(depot.folder("app01") / ids[0], depot.folder() / ids[0])
    entry = verified(depot)[1]
    assert entry["newest"] is None and "of another VM, app01" in entry["broken"][ids[0]]


def rebased(depot: Depot, id: str, *words: str) -> None:
    """Change an image by qemu-img, and let the manifest agree with what it is now."""
    qemu_img(*words, depot.file(id))
    rewrite(depot, id)


def rewrite(depot: Depot, id: str, change: Callable[[dict], None] = lambda _content: None) -> None:
    """Write a manifest that agrees with the image, with a change, sealed as ours are."""
    import hashlib

    path = depot.file(id, "manifest.json")
    content = json.loads(path.read_text())
    data = depot.file(id).read_bytes()
    image = next(file for file in content["files"] if file["role"] == "image")
    image.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    change(content)
    del content["seal"]
    path.write_text(json.dumps({**content, "seal": seal_of(content)}))


def test_headers_that_contradict_the_manifest(depot: Depot, store: Depot) -> None:
    """Someone who can write everything into a repository, and makes each digest right."""
    first, _second, last = depot.ids()
    secret = depot.path / "secret"
    qemu_img("create", "-q", "-f", "qcow2", secret, SIZE)
    unsafe = ("rebase", "-u", "-f", "qcow2")
    for words, complaint in (
        ((*unsafe, "-F", "qcow2", "-b", f"../{first}/vda.qcow2"), "stands on"),
        ((*unsafe, "-F", "qcow2", "-b", str(secret)), "stands on"),
        ((*unsafe, "-F", "raw", "-b", f"../{depot.ids()[1]}/vda.qcow2"), "says that what it"),
        ((*unsafe, "-b", ""), "stands on"),
        (("resize", "-q", "-f", "qcow2"), "is a disk of"),
    ):
        shutil.copytree(store.folder() / last, depot.folder() / last, dirs_exist_ok=True)
        if words[0] == "resize":
            qemu_img(*words, depot.file(last), "+1M")
            rewrite(depot, last)
        else:
            rebased(depot, last, *words)
        assert depot.info()["newest"] == last
        entry = verified(depot)[1]
        assert bad(entry) == {last} and complaint in entry["msg"], entry["msg"]


def test_an_image_that_is_torn_inside(depot: Depot) -> None:
    """Its digest is that of the manifest, and its tables lead nowhere: qemu-img sees that."""
    last = depot.ids()[-1]
    path = depot.file(last)
    table = int.from_bytes(path.read_bytes()[40:48], "big")
    with path.open("r+b") as file:
        file.seek(table)
        file.write((1 << 63 | 7 << 30).to_bytes(8, "big"))
    rewrite(depot, last)
    assert depot.info()["newest"] == last
    entry = verified(depot)[1]
    assert bad(entry) == {last} and "qemu-img check finds" in entry["msg"], entry["msg"]


def test_a_chain_that_is_too_deep_for_its_names(fast: Path) -> None:
    """QEMU puts relative names one behind the other; in a long path a few are too many."""
    place = fast
    while len(str(place)) < 3900:
        place = place / ("d" * min(200, 3910 - len(str(place))))
    place.mkdir(parents=True)
    depot = Depot(place / "backup")
    ids = [depot.add().id]
    while depot.info()["newest"] == ids[-1]:
        assert depot.info(verify_points=ids[-1:]).get("failed") is None
        qemu_img("map", "-f", "qcow2", depot.file(ids[-1]))
        ids.append(depot.add(parent="last", written=False).id)
    assert len(ids) > 3 and "cannot open them by their names" in str(depot.info())
    with pytest.raises(subprocess.CalledProcessError):
        qemu_img("map", "-f", "qcow2", depot.file(ids[-1]))


def test_what_was_good_and_is_torn_now(depot: Depot) -> None:
    depot.run("vm_backup_info", verify=True)
    truncate(depot, ["", depot.ids()[-1]])
    entry = depot.info()
    assert entry["newest_verified"] == entry["newest"] == depot.ids()[-2]


def test_a_data_file_is_found_and_not_opened(depot: Depot) -> None:
    first = depot.ids()[0]
    depot.file(first).unlink()
    fifo = depot.path / "data"
    option = f"data_file={fifo}"
    qemu_img("create", "-q", "-f", "qcow2", "-o", option, depot.file(first), SIZE)
    fifo.unlink()
    os.mkfifo(fifo)
    rewrite(depot, first)
    entry = verified(depot)[1]
    assert first in bad(entry) and str(fifo) in entry["msg"]


HOSTILE: list[tuple[str, Any]] = [
    ("id", "../20261101T030000Z"),
    ("vm", {"name": "db01"}),
    ("vm", None),
    ("uuid", ["x"]),
    ("time", 7),
    ("time", "yesterday"),
    ("seconds", float("inf")),
    ("seconds", "1"),
    ("sequence", -1),
    ("sequence", True),
    ("protected", "yes"),
    ("disks", {}),
    ("disks", [[]]),
    ("left_out", ["vdb"]),
    ("formerly", ["x"]),
    ("parent", {"id": "../x", "digest": "0" * 64}),
    ("parent", None),
    ("type", "full"),
    ("unknown", 1),
    ("digest", "0" * 64),
    ("format", 2),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE, ids=str)
def test_hostile_manifests(depot: Depot, key: str, value: Any) -> None:
    ids = depot.ids()
    rewrite(depot, ids[1], lambda content: content.update({key: value}))
    entry = depot.info()
    assert list(entry["broken"]) == [ids[1]] and bad(entry) == set(ids[1:])


NAMES = ["../../x", "a/b", "/etc/passwd", ".", "manifest.json", "verified.json", "x.new"]


# "staged" may be empty: that is how none is written.
@pytest.mark.parametrize(
    ("key", "name"), [("name", ""), *((key, name) for key in ("name", "staged") for name in NAMES)]
)
def test_hostile_names_of_files(depot: Depot, key: str, name: str) -> None:
    ids = depot.ids()
    rewrite(depot, ids[2], lambda content: content["files"][0].update({key: name}))
    assert list(depot.info()["broken"]) == [ids[2]]


def test_deep_and_endless_texts(depot: Depot) -> None:
    ids = depot.ids()
    path = depot.file(ids[2], "manifest.json")
    for text in ("[" * 100_000, '{"format": 1' + "1" * 5000 + "}", "\xff\xfe", "", "null"):
        path.write_text(text, encoding="latin-1")
        assert list(depot.info()["broken"]) == [ids[2]]
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert list(depot.info()["broken"]) == [ids[2]]


def test_a_record_that_was_tampered_with(depot: Depot) -> None:
    """It counts for nothing, or for a bad point; a good one is never made of it."""
    depot.run("vm_backup_info", verify=True)
    last = depot.ids()[-1]
    digest = digest_of(depot.file(last, "manifest.json").read_text())
    numbers = json.dumps({"at": 1, "digest": digest, "trouble": ""})
    for text in ("", "[]", "{}", '{"at": 1, "digest": [], "trouble": {}}', numbers):
        depot.file(last, "verified.json").write_text(text)
        assert depot.info()["restore_points"][-1]["verified"] is None
    told = {"at": NOW, "digest": digest, "trouble": "it was read badly"}
    depot.file(last, "verified.json").write_text(json.dumps(told))
    assert depot.info()["newest"] == depot.ids()[-2]
    depot.run("vm_backup_info", verify=True)
    assert depot.info()["newest"] == last


def test_a_missing_qemu_img_is_no_verdict(depot: Depot) -> None:
    result = depot.attempt("vm_backup_info", verify=True, env={"PATH": "/nonexistent"})
    assert result["failed"] and "install" in result["msg"]
    assert depot.info()["newest"] == depot.ids()[-1]


def test_many_points_are_quick(tmp_path: Path) -> None:
    """Five hundred of one VM, without a program for each of them."""
    depot = Depot(tmp_path / "backup")
    light(depot, "db01", 500, depth=150)
    begin = time.monotonic()
    entry = depot.info(env={"PATH": "/nonexistent"})
    assert entry["depth"] == 50 and len(entry["restore_points"]) == 500
    result = depot.attempt("vm_backup_prune", keep_last=3, check=True)
    assert not result["failed"] and len(result["vms"]["db01"]["removed"]) == 497
    assert time.monotonic() - begin < 10
