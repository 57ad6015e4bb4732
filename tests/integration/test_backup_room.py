# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup never stops the guest, also where the repository fills up in the middle.

QEMU fails a write of the guest where what it writes over cannot be copied first, and pauses it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from backup_story import Repository, SlowBackup, log_text
from kill_trials import HARNESS
from lab import VM, Disk
from lab.modules import ModuleRun, start_module
from lab.vm import wait_until
from story import Modules

MIB = 1 << 20
RUNNING = libvirt.VIR_DOMAIN_RUNNING
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED LOUDLY: a small file system needs root"
)


@contextlib.contextmanager
def small(place: Path, kind: str, size: int = 160) -> Iterator[Path]:
    """A file system of so many MiB. ext2 cannot hold room (fallocate)."""
    place.mkdir(exist_ok=True)
    options, source = ["-t", kind, "-o", f"size={size}m"], "vmkeep-small"
    if kind != "tmpfs":
        source = f"{place}.img"
        Path(source).touch()
        os.truncate(source, size * MIB)
        subprocess.run([f"mkfs.{kind}", "-q", "-m", "0", source], check=True)
        options = ["-o", "loop"]
    subprocess.run(["mount", *options, source, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        Path(source).unlink(missing_ok=True)


def fill(folder: Path, leave: int = 0) -> None:
    """Take what is free, all but so many bytes."""
    space = os.statvfs(folder)
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        for _mib in range(max(0, space.f_bavail * space.f_frsize - leave) // MIB):
            file.write(bytes(MIB))
        while not leave:
            file.write(bytes(4096))


@pytest.fixture
def vm(make_vm: Callable[..., VM]) -> VM:
    """Its second disk is nearly full, and so is any copy of it."""
    vm = make_vm("db01", disks=[Disk(), Disk(size=64)])
    write_all_over(vm)
    return vm


# What no layer takes for nothing, as it may do with zeros.
DD = "dd of=/mnt/vdb/all bs=64k count=640 iflag=fullblock conv=notrunc,fsync 2>/dev/null"
WRITE = f"yes vmkeep | {DD}"


def write_all_over(vm: VM) -> None:
    vm.run(WRITE, timeout=120)


@contextlib.contextmanager
def writing(vm: VM) -> Iterator[None]:
    """The guest writes over all of it, as fast as it can."""
    loop = f"rm -f /run/stop; while [ ! -e /run/stop ]; do {WRITE} || touch /run/failed; done"
    vm.control().start(["sh", "-c", loop], capture=False)
    try:
        yield
    finally:
        vm.run("touch /run/stop; while pidof dd; do sleep 0.1; done", timeout=60)


@contextlib.contextmanager
def watched(vm: VM) -> Iterator[list[float]]:
    """Gets the time whenever an I/O error has paused the VM."""
    found: list[float] = []
    over = threading.Event()
    wanted = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]

    def watch() -> None:
        before = False
        while not over.wait(0.002):
            now = vm.domain.state() == wanted
            found.extend([time.time()] if now and not before else [])
            before = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def with_nothing_left(
    repository: Repository, vm: VM, log: Path, *, ended: bool = False, **params: Any
) -> ModuleRun:
    """A backup that has what it could hold, and is about to begin; all the rest is taken.

    ``ended``: the job begins later, and is over before anybody looks at it.
    """
    log.unlink(missing_ok=True)
    repository.later()
    begin = f"before libvirt backupBegin {vm.name}"
    params = repository.params(type="full", quiesce="never", **params)
    after = begin.replace("before", "after")
    settings = {"log": str(log), "hold": {begin: 5, after: 5} if ended else {begin: 1}}
    run = start_module(
        "vm_backup",
        repository.modules.params(vm, **params),
        env={"VMKEEP_HARNESS": json.dumps(settings)},
        runner=HARNESS,
    )
    wait_until(lambda: begin in log_text(log), 60, "it is about to begin")
    fill(repository.path)
    return run


def filled_up(repository: Repository, vm: VM, log: Path) -> dict:
    """Such a backup, while the guest writes over it all."""
    run = with_nothing_left(repository, vm, log)
    with writing(vm):
        result = run.result()
        (repository.path / "filler").unlink()
        assert vm.domain.state()[0] == RUNNING
    assert vm.run("ls /run/failed 2>/dev/null || true").strip() == ""
    return result


def rounds(vm: VM, modules: Modules, tmp_path: Path, kind: str, number: int) -> tuple[int, int]:
    """So many of these; how many backups were made, and how often the guest was paused."""
    made = 0
    with watched(vm) as pauses, small(tmp_path / "small", kind) as place:
        repository = Repository(place, modules)
        for _round in range(number):
            result = filled_up(repository, vm, tmp_path / "log")
            made += not result["failed"]
            print(result.get("msg") or "made", *result["notes"], flush=True)
            if not result["failed"]:
                repository.check(vm, repository.ids(vm)[-1])
            for path in sorted(repository.folder(vm).glob("2*")):
                subprocess.run(["rm", "-r", path], check=True)
    print(f"{number} backups while {kind} filled up: {made} made, {len(pauses)} pauses")
    return made, len(pauses)


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_the_room_is_held_from_the_beginning(vm, modules, tmp_path, kind: str) -> None:
    assert rounds(vm, modules, tmp_path, kind, 3) == (3, 0)


@pytest.mark.timeout(3600)
@pytest.mark.kills_all
def test_the_room_is_held_a_hundred_times(vm, modules, tmp_path) -> None:
    assert rounds(vm, modules, tmp_path, "ext4", 100) == (100, 0)


def test_a_guest_that_was_stopped_goes_on(vm, modules, tmp_path) -> None:
    """Where no room can be held the job is ended in time, or the guest goes on, and it is said."""
    assert rounds(vm, modules, tmp_path, "ext2", 2)[0] == 0


def test_a_guest_that_a_dead_run_stopped_goes_on(make_vm, modules, tmp_path) -> None:
    """Nobody watches any more where no room is held: the next run says and does it."""
    raw = tmp_path / "data.raw"
    raw.write_bytes(os.urandom(MIB) * 512)  # more than QEMU copies before it is slowed down
    vm = make_vm("db01", disks=[Disk(), Disk(backing=str(raw), backing_format="raw")])
    with small(tmp_path / "small", "ext2", 800) as place:
        repository = Repository(place, modules)
        slow = SlowBackup(repository, vm, tmp_path / "log", quiesce="never")
        slow.run.kill()
        fill(place)
        end = "dd if=/dev/zero of=/dev/vdb bs=64k seek=7552 count=640 conv=notrunc,fsync"
        vm.control().start(["sh", "-c", end], capture=False)
        stopped = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
        wait_until(lambda: vm.domain.state() == stopped, 60, "QEMU has paused the guest")
        (place / "filler").unlink()
        repository.later()
        params = repository.params(quiesce="never", disks=["vda"])
        foreseen = modules.run("vm_backup", vm, check=True, **params)
        assert vm.domain.state() == stopped, "looking changes nothing"
        result = modules.run("vm_backup", vm, **params)
        steps = [step["step"] for step in result["plan"]]
        assert [step["step"] for step in foreseen["plan"]] == steps and "resume_vm" in steps
        assert any("and goes on" in note for note in result["notes"])
        assert vm.domain.state()[0] == RUNNING
        repository.check(vm, repository.ids(vm)[-1])


def backup_while_writing(
    repository: Repository, vm: VM, log: Path, beginning: int, size: int
) -> dict[str, Any]:
    """A backup for which nothing is left, while the guest writes so many MiB that are new.

    QEMU pauses the guest, and the backup is over when we look.
    """
    stopped = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
    run = with_nothing_left(repository, vm, log, ended=True, disks=["vdb"])
    command = onto("vdb", beginning, size)
    vm.control().start(["sh", "-c", f"{command} || touch /run/failed"], capture=False)
    wait_until(lambda: vm.domain.state() == stopped, 30, "QEMU has paused the guest")
    result = run.result()
    print(result.get("msg") or "made", *result["notes"], flush=True)
    assert vm.domain.state()[0] == RUNNING
    vm.run("while pidof dd; do sleep 0.1; done; [ ! -e /run/failed ]", timeout=60)
    (repository.path / "filler").unlink()
    return result


def test_a_guest_that_a_stranger_stopped_goes_on(make_vm, modules, tmp_path) -> None:
    """Its images and the repository share a file system, which is full as the backup begins.

    The guest has what was held in vain, some 16 MiB, or else all of it.
    """
    with small(tmp_path / "small", "ext4", 440) as place:
        image = str(place / "vdb.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "128M"], check=True)
        vm = make_vm("db01", disks=[Disk(), Disk(path=image, content="blank")])
        vm.run(onto("vdb", 0, 32), timeout=120)
        repository, log = Repository(place / "repository", modules), tmp_path / "log"
        try:
            given_up = backup_while_writing(repository, vm, log, 32, 40)
            assert given_up["failed"] and "was given up, since an I/O error" in given_up["msg"]
            assert any("and goes on" in note for note in given_up["notes"])
            assert not any(repository.folder(vm).glob("2*"))
            vm.run(onto("vdb", 72, 40), timeout=60)  # it can need 16 MiB more
            made = backup_while_writing(repository, vm, log, 112, 8)
            assert not made["failed"] and any("and goes on" in note for note in made["notes"])
            [id] = repository.ids(vm)
            repository.check(vm, id)
            vm.domain.destroy()
            subprocess.run(["qemu-img", "snapshot", "-c", "of-old", image], check=True)
            vm.domain.create()
            text = repository.refused(vm, type="full", quiesce="never", disks=["vdb"])
            assert "bytes free" in text, "the guest may write over all that the snapshot holds"
        finally:
            vm.domain.destroy()


def onto(target: str, beginning: int, size: int) -> str:
    """A command by which the guest writes from and for so many MiB, past any file system."""
    where = f"of=/dev/{target} bs=64k seek={beginning * 16} count={size * 16}"
    return f"yes vmkeep | dd {where} iflag=fullblock conv=notrunc,fsync 2>/dev/null"
