# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories of restore points with real images and known contents, made without a VM."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import uuid as uuid_module
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.digest import stored_file
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.repository import read_stock
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.repository_write import (
    commit,
    create,
    new_folder,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.backup import (
    DOMAIN,
    FULL,
    IMAGE,
    INCREMENTAL,
    Parent,
    RestorePoint,
    StoredDisk,
    StoredFile,
    id_at,
    in_utc,
    manifest_text,
    sealed,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stock import Stock
from image_story import MIB, content, qemu_img
from lab.forked import run_forked
from lab.modules import ModuleCrashed

SIZE = 4 * MIB
BLOCK = 64 << 10
FIRST = datetime(2026, 11, 1, 3, tzinfo=timezone.utc)


@pytest.fixture
def fast() -> Iterator[Path]:
    """A folder in memory, where a sync costs nothing: no test here lets a machine fail."""
    path = Path(tempfile.mkdtemp(prefix="vmkeep-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Nobody can write to a folder meanwhile, not even root."""
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def uuid_of(name: str) -> str:
    return str(uuid_module.uuid5(uuid_module.NAMESPACE_DNS, name))


class Depot:
    """A repository, and what each disk of each restore point in it holds.

    ``contents`` maps VM, id and target to the digest of the disk as a guest would see it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        create(str(path), "00c0ffee")
        self.contents: dict[tuple[str, str, str], str] = {}
        self._disks: dict[tuple[str, str, str], bytes] = {}
        self._points: dict[str, list[RestorePoint]] = {}

    def folder(self, name: str = "db01") -> Path:
        return self.path / f"{name}.{uuid_of(name)}"

    def stock(self, name: str = "db01") -> Stock:
        return read_stock(str(self.path), str(self.folder(name)))

    def ids(self, name: str = "db01") -> list[str]:
        return [point.id for point in self.stock(name).points]

    def file(self, id: str, file: str = "vda.qcow2", name: str = "db01") -> Path:
        return self.folder(name) / id / file

    # -- making points ---------------------------------------------------------------------

    def chain(self, count: int, name: str = "db01", **options: Any) -> list[str]:
        """A full point and incremental ones on it, a day from each to the next; their ids."""
        return [
            self.add(name, parent=None if number == 0 else "last", **options).id
            for number in range(count)
        ]

    def add(
        self,
        name: str = "db01",
        *,
        parent: str | None = None,
        time: datetime | None = None,
        disks: Iterable[str] = ("vda",),
        full: Iterable[str] = (),
        written: bool = True,
        **values: Any,
    ) -> RestorePoint:
        """One more restore point of a VM.

        It stands on ``parent`` (an id, or "last"). Disks in ``full`` are full in any case. Without
        ``written`` the guest has written nothing since, which needs no QEMU that opens the chain.
        """
        known = self._points.setdefault(name, [])
        below = known[-1] if parent == "last" else next((p for p in known if p.id == parent), None)
        time = time or FIRST + timedelta(days=len(known))
        id = id_at(time, [point.id for point in known])
        new_folder(str(self.folder(name)), id)
        whole = set(disks) if below is None else set(full)
        stored = [self._disk(name, id, target, below, target in whole, written) for target in disks]
        files = [self._file(name, id, disk.file, IMAGE) for disk in stored]
        self.file(id, "domain.xml", name).write_text(f"<domain><name>{name}</name></domain>\n")
        files.append(self._file(name, id, "domain.xml", DOMAIN))
        incremental = any(disk.type == INCREMENTAL for disk in stored)
        point = RestorePoint(
            id=id, vm=name, uuid=uuid_of(name), sequence=len(known) + 1, time=in_utc(time),
            type=INCREMENTAL if incremental else FULL, reason="as asked", consistency="offline",
            files=tuple(files), disks=tuple(stored), started=in_utc(time), finished=in_utc(time),
            seconds=1.5, checkpoint=f"vmkeep-{id}",
            parent=Parent(below.id, below.digest) if below and incremental else None,
        )  # fmt: skip
        known.append(commit(str(self.folder(name)), replace(point, **values)))
        return known[-1]

    def _disk(
        self,
        name: str,
        id: str,
        target: str,
        below: RestorePoint | None,
        full: bool,
        written: bool,
    ) -> StoredDisk:
        path = self.file(id, f"{target}.qcow2", name)
        before = self._disks[name, below.id, target] if below else bytes(SIZE)
        number = len(self._points[name]) + 1
        blocks = _changes(number, target, whole=below is None) if written else []
        base = [] if full else ["-u", "-b", f"../{below.id}/{target}.qcow2", "-F", "qcow2"]
        qemu_img("create", "-q", "-f", "qcow2", *base, path, SIZE)
        now = bytearray(before)
        for block, pattern in blocks:
            now[block * BLOCK : (block + 1) * BLOCK] = bytes([pattern]) * BLOCK
        # A full image holds what was there before, too.
        held = [n for n in range(SIZE // BLOCK) if any(_block(now, n))] if full else []
        data = [(n, now[n * BLOCK]) for n in held] or blocks
        words = [f"write -P {pattern} {n * BLOCK} {BLOCK}" for n, pattern in data]
        line = ["qemu-io", "-f", "qcow2", *(w for word in words for w in ("-c", word)), str(path)]
        if data:
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        path.chmod(0o600)
        self._disks[name, id, target] = bytes(now)
        self.contents[name, id, target] = hashlib.sha256(now).hexdigest()
        return StoredDisk(
            target, path.name, FULL if full else INCREMENTAL, "qcow2", SIZE, f"/vm/{name}.{target}"
        )

    def _file(self, name: str, id: str, file: str, role: str) -> StoredFile:
        return stored_file(str(self.folder(name) / id), file, role)

    # -- what it holds ---------------------------------------------------------------------

    def intact(self, name: str = "db01", *, but: Iterable[str] = ()) -> None:
        """Every restore point with a manifest has its content, by qemu-img alone.

        No file is for others, and no image stands on one that is not there.
        """
        stock = self.stock(name)
        assert not stock.broken
        for point in stock.points:
            if point.id in but:
                continue
            assert not stock.trouble_of(point), point.id
            for disk in point.disks:
                path = self.file(point.id, disk.file, name)
                assert content(path) == self.contents[name, point.id, disk.target], path
                assert path.stat().st_mode & 0o777 == 0o600

    def copy(self, path: Path) -> Depot:
        """The same in another place; what is added there is not known here."""
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.path, path)
        other = object.__new__(Depot)
        other.path = path
        other.contents = dict(self.contents)
        other._disks = dict(self._disks)
        other._points = {name: list(points) for name, points in self._points.items()}
        return other

    # -- tasks -----------------------------------------------------------------------------

    def attempt(self, module: str, *, check: bool = False, **params: Any) -> dict[str, Any] | None:
        """One run, whatever comes of it; None if it was killed."""
        env = params.pop("env", {})
        try:
            return run_forked(module, self.params(**params), check=check, env=env)
        except ModuleCrashed:
            return None

    def params(self, **params: Any) -> dict[str, Any]:
        return {"repository": str(self.path), **params}

    def run(self, module: str, **params: Any) -> dict[str, Any]:
        """One run that has to succeed."""
        result = self.attempt(module, **params)
        assert result is not None and not result["failed"], result
        return result

    def info(self, name: str = "db01", **params: Any) -> dict[str, Any]:
        """What vm_backup_info returns of one VM, whether it fails or not."""
        result = self.attempt("vm_backup_info", vm=[name], **params)
        assert result is not None
        return result["vms"][name]


def _changes(number: int, target: str, *, whole: bool) -> list[tuple[int, int]]:
    """(block, pattern): what the guest wrote before the point of this number."""
    if whole:
        return [(block, 200 + block % 50) for block in range(0, SIZE // BLOCK, 3)]
    shift = number * 7 + len(target) + ord(target[-1])
    blocks = [(shift + step) % (SIZE // BLOCK) for step in (0, 1, 5, 11)]
    return [(block, 1 + (number * 4 + n) % 199) for n, block in enumerate(dict.fromkeys(blocks))]


def _block(disk: bytes | bytearray, number: int) -> bytes:
    return bytes(disk[number * BLOCK : (number + 1) * BLOCK])


def light(depot: Depot, name: str, count: int, depth: int) -> None:
    """Many restore points whose images are no images, for what opens none of them."""
    last: RestorePoint | None = None
    for number in range(count):
        time = FIRST + timedelta(hours=number)
        id = id_at(time, ())
        full = last is None or number % depth == 0
        kind = FULL if full else INCREMENTAL
        point = RestorePoint(
            id=id, vm=name, uuid=uuid_of(name), sequence=number + 1, time=in_utc(time),
            type=kind, reason="as asked", consistency="offline",
            files=(StoredFile("vda.qcow2", IMAGE, 1, hashlib.sha256(b"x").hexdigest()),),
            disks=(StoredDisk("vda", "vda.qcow2", kind, "raw", 1 << 30, "/dev/vg/db01"),),
            started=in_utc(time), finished=in_utc(time), seconds=1,
            parent=Parent(last.id, last.digest) if last and not full else None,
        )  # fmt: skip
        last = sealed(point)
        depot.file(id, name=name).parent.mkdir(parents=True)
        depot.file(id, name=name).write_bytes(b"x")
        depot.file(id, "manifest.json", name).write_text(manifest_text(point))


def fingerprint(path: Path) -> dict[str, object]:
    """All that stands below a directory, but for locks."""
    found: dict[str, object] = {}
    for folder, _folders, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            facts = os.lstat(file)
            if not name.endswith(".lock"):
                data = b"" if os.path.islink(file) else Path(file).read_bytes()
                found[os.path.relpath(file, path)] = (
                    facts.st_ino,
                    facts.st_mode,
                    hashlib.sha256(data).hexdigest(),
                )
    return found
