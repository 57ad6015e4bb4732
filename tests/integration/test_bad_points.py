# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with one restore point is told of this one, and costs no other anything."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import (
    digest,
    repository,
    repository_read,
    stocks,
    verify,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.repository import read_stock
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model import backup
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    Denied,
    NotFound,
    Problem,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stock import Verified
from image_story import needs_root
from repository_stage import Depot, read_only

NOW = "2026-11-30T00:00:00Z"
Break = Callable[[Path], object]


@pytest.fixture
def depot(fast: Path) -> Depot:
    found = Depot(fast / "repository")
    for _each in range(4):
        found.add(parent=None)
    return found


def with_text(text: bytes) -> Break:
    return lambda manifest: manifest.write_bytes(text)


def saying(**values: Any) -> Break:
    """A manifest that says something else, and is sealed."""

    def rewrite(manifest: Path) -> None:
        content = {**json.loads(manifest.read_text()), **values}
        del content["seal"]
        manifest.write_text(json.dumps({**content, "seal": backup.seal_of(content)}))

    return rewrite


def directory(manifest: Path) -> None:
    manifest.unlink()
    manifest.mkdir()


# What is no manifest of this version: the point is broken, whatever else there is.
BROKEN: dict[str, Break] = {
    "directory": directory,
    "link": lambda manifest: (manifest.rename(manifest.with_suffix(".x")),
                              manifest.symlink_to("manifest.x")),
    "empty": with_text(b""),
    "binary": with_text(bytes(range(256))),
    "null": with_text(b"null"),
    "list": with_text(b"[]"),
    "deep": with_text(b"[" * 200_000),
    "time": saying(time="0001-01-01T00:00:00+23:59"),
    "late": saying(time="9999-12-31T23:59:59-23:59"),
    "numbers": saying(files=1, disks=2),
    "lists": saying(disks=[[]], left_out=[["vda"]]),
    "unhashable": saying(formerly=[[]], uuid={}),
    "mapping": saying(parent={"id": {}, "digest": []}),
}  # fmt: skip


def test_a_broken_one(depot: Depot, fast: Path) -> None:
    ids = depot.ids()
    point, kept = depot.folder() / ids[1], fast / "kept"
    shutil.copytree(point, kept)
    for kind, harm in BROKEN.items():
        harm(point / "manifest.json")
        for params in ({}, {"verify_points": ids[1:2]}):
            result = depot.attempt("vm_backup_info", vm=["db01"], now=NOW, **params)
            entry = result["vms"]["db01"]
            assert list(entry["broken"]) == [ids[1]], kind
            good = [found["id"] for found in entry["restore_points"] if found["good"]]
            assert good == [ids[0], *ids[2:]] and result["failed"] == bool(params), kind
        assert result["msg"].count("would not restore") == 1 and ids[1] in result["msg"]
        if kind != list(BROKEN)[-1]:
            shutil.rmtree(point)
            shutil.copytree(kept, point)
    pruned = depot.run("vm_backup_prune", vm=["db01"], keep_last=1, now=NOW)
    assert [found["id"] for found in pruned["vms"]["db01"]["removed"]] == [ids[2], ids[0]]
    assert depot.file(ids[1]).exists()


def test_one_of_another_version(depot: Depot) -> None:
    """Nobody knows what it stands on, so nothing that is older goes."""
    depot.chain(2, "app01")
    ids = depot.ids()
    manifest = depot.file(ids[1], "manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    info = depot.attempt("vm_backup_info", now=NOW, verify=True)
    assert "of format 2, and version 0.1.0 of the collection knows format 1" in info["msg"]
    assert not info["vms"]["app01"].get("failed") and info["vms"]["db01"]["failed"]
    verified = [point["id"] for point in info["vms"]["db01"]["restore_points"] if point["verified"]]
    assert verified == [ids[0], *ids[2:]] and list(info["vms"]["db01"]["broken"]) == [ids[1]]
    for check in (True, False):
        pruned = depot.attempt("vm_backup_prune", check=check, keep_last=1, now=NOW)
        assert "of format 2" in pruned["msg"] and not pruned["vms"]["app01"].get("failed")
        entry = pruned["vms"]["db01"]
        assert [point["id"] for point in entry["removed"]] == [ids[2]]
        assert [point["id"] for point in entry["kept"]] == [ids[0], ids[3]]
        assert f"in use by {ids[1]}, as it may be" in entry["kept"][0]["reasons"][0]
    again = depot.attempt("vm_backup_prune", vm=["db01"], keep_last=1, now=NOW)
    assert not again["changed"]
    stock = depot.stock()
    with pytest.raises(Conflict, match="of format 2"):
        stock.check_clear()
    stock.check_clear(but_older_than=ids[2])


@pytest.mark.parametrize("what", ["small_text", "_missing"])
@pytest.mark.parametrize("error", [Denied("denied"), KeyError("x"), OSError(5, "no disk")])
def test_one_at_which_something_happens(
    what: str, error: Exception, depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = depot.ids()
    real = getattr(repository, what)

    def fail(*args: Any) -> Any:
        if any(ids[1] in str(getattr(arg, "id", arg)) for arg in args):
            raise error
        return real(*args)

    monkeypatch.setattr(repository, what, fail)
    stock = read_stock(str(depot.path), str(depot.folder()))
    assert list(stock.unclear) == [ids[1]] and not stock.debris
    assert [point.id for point in stock.good] == [ids[0], *ids[2:]]


class System:
    """The system as it is, but that it refuses something under a folder."""

    def __init__(self, number: int, refused: dict[str, str]) -> None:
        self.number = number
        self.refused = refused

    def __getattr__(self, name: str) -> Any:
        real, part = getattr(os, name), self.refused.get(name)
        return real if part is None else lambda path, *rest: self._asked(real, part, path, *rest)

    def _asked(self, real: Callable[..., Any], part: str, path: str, *rest: Any) -> Any:
        if part in path:
            raise OSError(self.number, os.strerror(self.number), path)
        return real(path, *rest)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("refused", [{"open": "/manifest"}, {"lstat": ""}, {"lstat": "/vda"}])
def test_one_that_the_system_does_not_show_is_not_bad(
    number: int, refused: dict[str, str], depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it gone, and what it may stand on stays: a file server may be back in a minute."""
    ids = depot.ids()
    system = System(number, {name: ids[1] + part for name, part in refused.items()})
    for module in (repository, repository_read):
        monkeypatch.setattr(module, "os", system)
    stock = read_stock(str(depot.path), str(depot.folder()))
    assert list(stock.unclear) == [ids[1]] and not stock.debris
    assert os.strerror(number) in stock.unclear[ids[1]].found


def test_a_folder_that_the_system_does_not_show_is_not_empty(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(errno.ESTALE, {"lstat": "/db01", "stat": "/repository", "listdir": "/db01"})
    for module in (repository, repository_read):
        monkeypatch.setattr(module, "os", system)
    found = stocks.find_stocks(str(depot.path), ["db01"])["db01"]
    assert isinstance(found, Problem) and os.strerror(errno.ESTALE) in found.found
    assert not isinstance(found, NotFound)
    with pytest.raises(Problem, match="Stale") as caught:
        repository.identity(str(depot.path))
    assert not isinstance(caught.value, NotFound)


def test_what_is_on_record_of_one_and_may_not_be_read(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may say that the point is bad."""
    ids = depot.ids()
    point = depot.stock().points[1]
    record = Verified(NOW, point.digest, "it is bad")
    path = depot.file(ids[1], "verified.json")
    path.write_text(json.dumps({**asdict(record), "by": "a later version"}))
    assert depot.stock().trouble_of(point)
    monkeypatch.setattr(repository_read, "os", System(errno.EACCES, {"open": str(path)}))
    assert list(depot.stock().unclear) == [ids[1]]


@pytest.mark.parametrize(("number", "bad"), [(errno.EIO, True), (errno.ESTALE, False)])
def test_a_file_that_ends_in_an_error(
    number: int, bad: bool, depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad block is bad. A file server that is away is not, and puts nothing on record."""
    ids = depot.ids()
    real = digest._digest

    def fail(descriptor: int) -> tuple[int, str]:
        if ids[1] in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        return real(descriptor)

    monkeypatch.setattr(digest, "_digest", fail)
    stock = depot.stock()
    found, untold = verify.verify(stock, stock.points, parallel=2, timeout=60)
    assert bool(found.get(ids[1])) is bad and (ids[1] in untold) is not bad


@needs_root
def test_pruning_where_nothing_can_be_written(depot: Depot) -> None:
    """Check mode says so as well."""
    with read_only(depot.path):
        for check in (True, False):
            result = depot.attempt("vm_backup_prune", check=check, keep_last=1, now=NOW)
            assert result["failed"] and "Read-only file system" in result["msg"]
            assert not result["changed"] and "mount" in result["msg"]


def test_one_that_cannot_be_read_in_full(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be told is not said to be bad."""
    ids = depot.ids()
    real = verify.trouble_with

    def fail(path: str, *rest: Any) -> str:
        if ids[1] in path and path.endswith(".qcow2"):
            raise MemoryError
        return str(real(path, *rest))

    monkeypatch.setattr(verify, "trouble_with", fail)
    stock = depot.stock()
    found, untold = verify.verify(stock, stock.points, parallel=2, timeout=60)
    assert found == dict.fromkeys([ids[0], *ids[2:]], "") and list(untold) == [ids[1]]
