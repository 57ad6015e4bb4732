# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that is saved and gone on from: as if nothing had happened, or not at all.

The guest has a process that counts in its memory and on its disk. Both lists of numbers have to be
without a gap, whatever became of the runs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import libvirt
import pytest
from kill_fixtures import Chooser
from kill_stage import SIZE, Stage
from kill_trials import Killer, Task, every_point, moments
from lab import VM, Disk, Lab
from lab.vm import wait_until
from story import Modules, folder

COUNT = """echo $$ >/run/count.pid; n=0
while :; do n=$((n+1)); echo $n >>/run/count; echo $n >>/mnt/vdb/count; sleep 0.05; done"""

BY_HAND = "<domainsnapshot><name>byhand</name></domainsnapshot>"
# When a run asks for the first time what only a VM that runs can be asked.
ASKING = "before libvirt blockJobInfo passing vda"


@pytest.fixture(scope="module", autouse=True)
def place(lab_session: Lab) -> Iterator[Path]:
    """Where libvirt keeps managed saves: a session's daemon and its user have one home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(lab_session.directory / "c"))
        yield lab_session.directory / "c/libvirt/qemu/save"


@pytest.fixture
def db01(stage: Stage) -> Iterator[VM]:
    """A running machine that counts; of its saves nothing stays."""
    vm = stage.running("db01")
    vm.run("p=$(cat /run/count.pid) && kill $p; rm -f /run/count* /mnt/vdb/count")
    vm.control().start(["sh", "-c", COUNT], capture=False)
    yield vm
    wait_until(partial(settles, vm), 60, "no job is left")
    if vm.domain.hasManagedSaveImage():
        vm.domain.managedSaveRemove()
    for path in folder(vm).glob("*.save"):
        path.unlink()


def settles(vm: VM) -> bool:
    return not vm.active() or vm.domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE


def goes_on(vm: VM) -> None:
    """The process in the guest counts, has never stopped to be, and no number is missing."""
    before = counted(vm, "/run/count")
    wait_until(lambda: len(counted(vm, "/run/count")) > len(before), 10, "the guest counts")
    for place in ("/run/count", "/mnt/vdb/count"):
        numbers = counted(vm, place)
        assert numbers == list(range(1, len(numbers) + 1)), place
        assert len(numbers) >= len(before) - 1, place
    assert vm.writing() and vm.lost_records() == []


def counted(vm: VM, path: str) -> list[int]:
    # The last line may be on its way.
    return [int(line) for line in vm.run(["cat", path]).rpartition("\n")[0].split()]


def saving(path: str | None) -> dict:
    return {"state": "saved", **({"path": path} if path else {})}


def running(path: str | None) -> dict:
    return {"state": "running", **({"path": path} if path else {})}


def at(vm: VM) -> str:
    """A save file beside the disks."""
    return str(folder(vm) / "memory.save")


def records(modules: Modules) -> list[Path]:
    return sorted(modules.state_dir.glob("save/*"))


def virsh(vm: VM, *words: str) -> None:
    subprocess.run(["virsh", "-q", "-c", vm.lab.uri, *words], check=True, capture_output=True)


def write(image: str) -> None:
    """Write to an image as whoever mounts it on the host would."""
    command = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 8M 64k", image]
    subprocess.run(command, check=True, capture_output=True)


# --- saved, and on again ---


@pytest.mark.parametrize("where", ["managed", "file", "directory"])
def test_saved_and_running(
    db01: VM, lab_session: Lab, place: Path, tmp_path: Path, where: str
) -> None:
    modules = Modules(lab_session, tmp_path / "state")
    asked = {"managed": None, "file": at(db01), "directory": str(folder(db01))}[where]
    file = {"file": at(db01), "directory": str(folder(db01) / "db01.save")}.get(where)
    for _turn in range(2):
        result = modules.change("vm_memory", db01, **saving(asked))
        assert result["vms"]["db01"] == {"state": "saved", "path": file}
        assert not db01.active() and bool(db01.domain.hasManagedSaveImage()) == (file is None)
        saved = Path(file) if file else place / "db01.save"
        assert saved.stat().st_mode & 0o7777 == 0o600 and len(records(modules)) == 1

        result = modules.change("vm_memory", db01, **running(asked))
        assert result["vms"]["db01"] == {"state": "running", "path": None}
        goes_on(db01)
        assert not saved.exists() and records(modules) == []


def test_a_paused_vm(db01: VM, modules: Modules) -> None:
    for path in (None, at(db01)):
        db01.domain.suspend()
        modules.change("vm_memory", db01, **saving(path))
        modules.change("vm_memory", db01, **running(path))
        goes_on(db01)
    db01.domain.suspend()
    result = modules.change("vm_memory", db01, state="running")
    assert [step["step"] for step in result["plan"]] == ["resume_vm"]
    goes_on(db01)


def test_several_side_by_side(stage: Stage, db01: VM, modules: Modules) -> None:
    off01 = stage.off("off01")
    message = modules.refused("vm_memory", [db01, off01], **saving(at(db01)))
    assert "memory of several VMs" in message and "no directory" in message
    both = str(folder(db01))
    result = modules.attempt("vm_memory", [db01, off01], **saving(both))
    assert result["failed"] and result["vms"]["db01"]["path"] == f"{both}/db01.save"
    assert "VM off01 is off and has no memory" in result["vms"]["off01"]["msg"]
    modules.run("vm_memory", db01, **running(both))
    goes_on(db01)


def test_a_vm_that_is_off_is_booted(stage: Stage, modules: Modules) -> None:
    vm = stage.off("off01")
    assert "VM off01 is off" in modules.refused("vm_memory", vm, state="saved")
    message = modules.refused("vm_memory", vm, **running("/nowhere/memory.save"))
    assert "/nowhere/memory.save does not exist" in message
    modules.change("vm_memory", vm, state="running")
    vm.wait_ready()
    assert vm.lost_records() == []
    vm.destroy()


def test_a_transient_vm(make_vm: Callable[..., VM], modules: Modules) -> None:
    """libvirt forgets it: the save is all that is left of it."""
    vm = make_vm("passing", disks=[Disk(size=SIZE)], transient=True)
    vm.run("echo remembered >/run/note")
    assert "VM passing is transient" in modules.refused("vm_memory", vm, state="saved")
    path = at(vm)
    result = modules.run("vm_memory", vm, check=True, **saving(path))
    saved = modules.run("vm_memory", vm, **saving(path))
    assert saved["changed"] and saved["plan"] == result["plan"] and saved["diff"] == result["diff"]
    with pytest.raises(libvirt.libvirtError, match="Domain not found"):
        vm.domain.isActive()
    assert not modules.run("vm_memory", vm, **saving(path))["changed"]
    missing = modules.attempt("vm_memory", vm, **running(f"{path}x"))
    assert "there is no VM passing" in missing["msg"]

    foreseen = modules.run("vm_memory", vm, check=True, **running(path))
    result = modules.run("vm_memory", vm, **running(path))
    assert result["changed"] and result["plan"] == foreseen["plan"]
    assert result["diff"] == foreseen["diff"] and not vm.domain.isPersistent()
    assert vm.run("cat /run/note") == "remembered\n" and not Path(path).exists()
    assert not modules.run("vm_memory", vm, **running(path))["changed"]


# --- disks that are not as they were ---


@pytest.mark.parametrize("who", ["us", "virsh"])
@pytest.mark.parametrize("where", ["managed", "file"])
def test_a_disk_that_was_written_since(db01: VM, modules: Modules, who: str, where: str) -> None:
    """Without a record of ours the time of the save has to tell."""
    path = at(db01) if where == "file" else None
    if who == "us":
        modules.run("vm_memory", db01, **saving(path))
    else:
        virsh(db01, *(["save", "db01", path] if path else ["managedsave", "db01"]))
    image = db01.source("vdb")
    before = Path(image).stat()
    shutil.copy2(image, f"{image}.kept")
    time.sleep(1)
    write(image)
    for state in ("running", "saved"):
        message = modules.refused("vm_memory", db01, **{**saving(path), "state": state})
        assert f"disk vdb: {image} was written" in message and "s after the save" in message
        assert "vda" not in message
    assert not db01.active()
    # The content of then in the same file, and its time: all is as it was.
    Path(image).write_bytes(Path(f"{image}.kept").read_bytes())
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    modules.change("vm_memory", db01, **running(path))
    goes_on(db01)
    Path(f"{image}.kept").unlink()


def test_an_image_that_was_put_in_its_place(db01: VM, modules: Modules) -> None:
    """With the same size and time: only the record of ours can tell."""
    modules.run("vm_memory", db01, **saving(at(db01)))
    image = Path(db01.source("vda"))
    shutil.copy2(image, f"{image}.copy")
    image.rename(f"{image}.kept")
    Path(f"{image}.copy").rename(image)
    message = modules.refused("vm_memory", db01, **running(at(db01)))
    assert f"disk vda: {image} was replaced by another file" in message
    Path(f"{image}.kept").replace(image)
    modules.run("vm_memory", db01, **running(at(db01)))
    goes_on(db01)


def test_a_snapshot_was_taken_since(db01: VM, modules: Modules) -> None:
    """The VM would write into the image that the snapshot has frozen."""
    modules.run("vm_memory", db01, **saving(at(db01)))
    message = modules.refused("vm_snapshot", db01, name="s1")
    assert f"was saved to {at(db01)}, and continues on the disks as they are" in message
    assert f"vm_memory with state running and path {at(db01)}" in message
    db01.domain.snapshotCreateXML(BY_HAND, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    message = modules.refused("vm_memory", db01, **running(at(db01)))
    assert f"disk vda: it stood on {db01.disks['vda'].path}, and is" in message
    modules.run("vm_snapshot", db01, name="byhand", state="absent")


@pytest.mark.parametrize("where", ["managed", "file"])
def test_an_internal_snapshot_lies_in_the_images(db01: VM, modules: Modules, where: str) -> None:
    """To delete it is to write to them, and the memory would not go on from there."""
    path = at(db01) if where == "file" else None
    modules.run("vm_snapshot", db01, name="inside", mode="internal")
    modules.run("vm_memory", db01, **saving(path))
    message = modules.refused("vm_snapshot", db01, name="inside", state="absent")
    assert "its memory continues" in message or f"was saved to {path}" in message
    modules.change("vm_memory", db01, **running(path))
    goes_on(db01)
    modules.run("vm_snapshot", db01, name="inside", state="absent")


def test_a_backup_of_a_saved_vm(db01: VM, modules: Modules, tmp_path: Path) -> None:
    """Its disks are not at rest, and the memory goes on though they were read."""
    params = {"repository": str(tmp_path / "backup")}
    (tmp_path / "backup").mkdir()
    modules.run("vm_memory", db01, **saving(at(db01)))
    done = modules.run("vm_backup", db01, **params)
    assert done["vms"]["db01"]["restore_point"]["consistency"] == "crash"
    modules.run("vm_memory", db01, **running(at(db01)))
    goes_on(db01)


def test_a_clock_that_was_set_back(db01: VM, modules: Modules) -> None:
    """An image may have a time that is still to come. The record tells that nobody has written."""
    modules.run("vm_snapshot", db01, name="s1")
    base = db01.disks["vdb"].path
    before = os.stat(base)
    os.utime(base, (before.st_atime, time.time() + 86400))
    for path in (None, at(db01)):
        modules.change("vm_memory", db01, **saving(path))
        assert len(records(modules)) == 1
        modules.change("vm_memory", db01, **running(path))
        goes_on(db01)
    os.utime(base, ns=(before.st_atime_ns, before.st_mtime_ns))
    modules.run("vm_snapshot", db01, name="s1", state="absent")


def test_a_save_that_is_forgotten_is_remembered(db01: VM, modules: Modules) -> None:
    """Booting would make it worthless."""
    modules.run("vm_memory", db01, **saving(at(db01)))
    assert f"saved in {at(db01)}" in modules.refused("vm_memory", db01, state="saved")
    message = modules.refused("vm_memory", db01, state="running")
    assert f"VM db01 is saved in {at(db01)}" in message and f"set 'path' to {at(db01)}" in message
    db01.start()
    db01.destroy()
    assert modules.run("vm_memory", db01, check=True, state="running")["changed"]


def test_a_managed_save_in_an_unknown_place(
    db01: VM, lab_session: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    modules = Modules(lab_session, tmp_path / "state")
    modules.change("vm_memory", db01, state="saved")
    result = modules.change("vm_memory", db01, state="running")
    assert result["notes"] == ["db01: nobody can see whether its disks changed since the save"]
    goes_on(db01)


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: a block device needs root")
def test_a_block_device_does_not_tell(
    make_vm: Callable[..., VM], modules: Modules, tmp_path: Path
) -> None:
    image = tmp_path / "device"
    with image.open("wb") as file:
        file.truncate(SIZE << 20)
    losetup = ["losetup", "--show", "-f", str(image)]
    device = subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip()
    try:
        block = Disk(path=device, format="raw", content="blank")
        vm = make_vm("block", disks=[Disk(size=SIZE), block], running=False)
        on_a_device(vm, device)
        vm.start()
        modules.change("vm_memory", vm, state="saved")
        result = modules.change("vm_memory", vm, state="running")
        assert result["notes"] == ["block: nobody can see whether disk vdb changed since the save"]
        vm.destroy()
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def on_a_device(vm: VM, device: str) -> None:
    """Define the VM with its disk vdb on a block device."""
    domain = vm.xml(inactive=True)
    disk = domain.findall("devices/disk")[1]
    disk.set("type", "block")
    disk.find("source").attrib = {"dev": device}
    vm.lab.connection.defineXML(ET.tostring(domain, encoding="unicode"))


# --- files that are something else ---


def test_no_file_is_written_over(db01: VM, modules: Modules) -> None:
    for content in (b"", b"precious", b"LibvirtQemudSave" + bytes(500)):
        Path(at(db01)).write_bytes(content)
        message = modules.refused("vm_memory", db01, **saving(at(db01)))
        assert f"{at(db01)} exists already and is no save" in message
        assert Path(at(db01)).read_bytes() == content
    missing = modules.refused("vm_memory", db01, **saving(str(folder(db01) / "no/dir/x.save")))
    assert f"the directory {folder(db01)}/no/dir does not exist" in missing
    assert "relative.save" in modules.refused("vm_memory", db01, **saving("relative.save"))
    goes_on(db01)


def test_a_file_that_appears_in_the_last_moment(db01: VM, killer: Killer) -> None:
    """It was not there when we looked, and it is none of ours."""
    point = "before create memory.save"
    with killer.start(Task("vm_memory", (db01,), saving(at(db01))), hold={point: 1.0}) as run:
        killer.reaches(point)
        Path(at(db01)).write_bytes(b"precious")
        result = run.result()
    assert result["failed"] and f"{at(db01)} has appeared in the meantime" in result["msg"]
    assert Path(at(db01)).read_bytes() == b"precious" and not killer.journals()
    goes_on(db01)


def test_an_old_save_is_not_written_over(db01: VM, modules: Modules) -> None:
    modules.run("vm_memory", db01, **saving(at(db01)))
    kept = Path(f"{at(db01)}.kept")
    kept.hardlink_to(at(db01))
    modules.run("vm_memory", db01, **running(at(db01)))
    kept.rename(at(db01))
    message = modules.refused("vm_memory", db01, **saving(at(db01)))
    assert "is the memory of VM db01, which has run since" in message
    assert not modules.run("vm_memory", db01, **running(at(db01)))["changed"]
    assert Path(at(db01)).exists()
    goes_on(db01)


def test_the_save_of_another_vm(stage: Stage, db01: VM, modules: Modules) -> None:
    app01 = stage.running("app01")
    virsh(app01, "save", "app01", at(db01))
    message = modules.refused("vm_memory", db01, **saving(at(db01)))
    assert "is the memory of VM app01" in message
    db01.destroy()
    message = modules.refused("vm_memory", db01, **running(at(db01)))
    assert f"{at(db01)} is the memory of VM app01" in message


@pytest.mark.parametrize("kept", [60, 3000, 1 << 20])
@pytest.mark.parametrize("where", ["managed", "file"])
def test_a_save_that_was_cut_off(
    db01: VM, modules: Modules, place: Path, where: str, kept: int
) -> None:
    """tp-libvirt 31."""
    path = at(db01) if where == "file" else None
    modules.run("vm_memory", db01, **saving(path))
    file = Path(path or place / "db01.save")
    content = file.read_bytes()
    os.truncate(file, kept)
    message = modules.refused("vm_memory", db01, **running(path))
    assert str(file) in message and "is no save" in message and not db01.active()
    assert file.stat().st_size == kept, "it may be all that is left"
    file.write_bytes(content)
    if kept == 1 << 20:
        records(modules)[0].unlink()
        os.truncate(file, kept)
        # Nobody knows how long it was: QEMU has to tell, and nothing is lost.
        result = modules.attempt("vm_memory", db01, **running(path))
        assert result["failed"] and "letting it go on" in result["msg"]
        assert file.stat().st_size == kept and not db01.active()
        assert not list(modules.state_dir.glob("journal/*"))
        file.write_bytes(content)
    images = [Path(disk.path) for disk in db01.disks.values()]
    assert all(image.stat().st_mtime < file.stat().st_mtime for image in images)
    modules.run("vm_memory", db01, **running(path))
    goes_on(db01)


def test_a_managed_save_that_libvirt_would_throw_away(
    db01: VM, modules: Modules, place: Path
) -> None:
    """libvirt removes one that did not end, and boots."""
    modules.run("vm_memory", db01, state="saved")
    with (place / "db01.save").open("r+b") as file:
        file.write(b"LibvirtQemudPart")
    message = modules.refused("vm_memory", db01, state="running")
    assert "db01.save is no save that VM db01 could go on from" in message
    assert not db01.active() and db01.domain.hasManagedSaveImage()


def test_a_managed_save_and_a_path(db01: VM, modules: Modules) -> None:
    modules.run("vm_memory", db01, state="saved")
    for state in ("saved", "running"):
        message = modules.refused("vm_memory", db01, state=state, path=at(db01))
        assert "VM db01 has a managed save" in message
    modules.run("vm_memory", db01, state="running")
    goes_on(db01)


# --- what is in the way ---


def test_a_frozen_guest_would_wake_up_frozen(db01: VM, modules: Modules) -> None:
    modules.run("vm_freeze", db01, state="frozen", deadline=60)
    message = modules.refused("vm_memory", db01, state="saved")
    assert "VM db01 are frozen by vm_freeze until" in message
    modules.run("vm_freeze", db01, state="thawed")


def test_a_block_job(db01: VM, modules: Modules) -> None:
    copy = (
        f"<disk type='file'><source file='{folder(db01)}/copy.qcow2'/><driver type='qcow2'/></disk>"
    )
    db01.domain.blockCopy("vda", copy, flags=libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    message = modules.refused("vm_memory", db01, **saving(at(db01)))
    assert "a block job (copy) is running on disk vda of VM db01" in message
    db01.domain.blockJobAbort("vda", 0)
    Path(folder(db01) / "copy.qcow2").unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: a small file system needs root")
def test_memory_that_does_not_fit(db01: VM, modules: Modules, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "vmkeep-small", str(small)]
    subprocess.run(mount, check=True)
    try:
        message = modules.refused("vm_memory", db01, **saving(f"{small}/"))
        assert f"{small} has" in message and "bytes free" in message
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
    goes_on(db01)


@pytest.mark.parametrize("where", ["managed", "file"])
def test_a_save_that_takes_too_long(db01: VM, modules: Modules, where: str) -> None:
    """It is given up: the VM goes on, and nothing stays of it."""
    path = at(db01) if where == "file" else None
    run = modules.start("vm_memory", db01, timeout=2, **saving(path))
    writers: list[int] = []
    wait_until(lambda: writers.extend(stopped_writers(db01)) or writers, 30, "it is written")
    time.sleep(3)
    for pid in writers:
        os.kill(pid, signal.SIGCONT)
    result = run.result()
    assert result["failed"] and "no answer within 2 s" in result["msg"]
    assert db01.active() and not Path(at(db01)).exists()
    assert not db01.domain.hasManagedSaveImage() and not list(modules.state_dir.glob("journal/*"))
    goes_on(db01)


def stopped_writers(vm: VM) -> list[int]:
    """The processes of libvirt that write a save of this lab, stopped."""
    daemon = int((vm.lab.directory / "libvirtd.pid").read_text())
    pids = Path(f"/proc/{daemon}/task").glob("*/children")
    found = [int(pid) for path in pids for pid in path.read_text().split()]
    helpers = [pid for pid in found if comm(pid).startswith("libvirt_iohelp")]
    for pid in helpers:
        os.kill(pid, signal.SIGSTOP)
    return helpers


def comm(pid: int) -> str:
    """The name of a program, of which the kernel keeps 15 characters."""
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


# --- killed ---


def killed(killer: Killer, task: Task, setting: dict, after: Callable[[], object]) -> None:
    """Kill the task; the next run of it converges, and one more has nothing to do."""
    killer.start(task, **setting).wait()
    for turn in range(2):
        result = killer.plain(task)
        assert not result["failed"], f"{setting}, run {turn + 2}: {result['msg']}"
    assert not result["changed"] and result["notes"] == [], setting
    assert not killer.journals()
    print(f"  {task.params['state']}, {setting['kill']}")
    after()


def off_and_saved(killer: Killer, vm: VM, path: str | None) -> None:
    assert not vm.active() and len(records(killer.modules)) == 1
    assert Path(path).exists() if path else vm.domain.hasManagedSaveImage()


def on_again(killer: Killer, vm: VM, path: str | None) -> None:
    goes_on(vm)
    assert records(killer.modules) == [] and not vm.domain.hasManagedSaveImage()
    assert not (path and Path(path).exists())


def kill_all_the_way(
    killer: Killer, vm: VM, path: str | None, choose: Callable, some: Chooser = list
) -> None:
    """Saved and on again, over and over, each time killed elsewhere; the guest never notices."""
    save = Task("vm_memory", (vm,), saving(path))
    go_on = Task("vm_memory", (vm,), running(path))
    assert killer.run(save)["changed"]
    points = choose(killer.points())
    assert killer.run(go_on)["changed"]
    points_back = choose(killer.points())
    for setting in some(points):
        killed(killer, save, setting, partial(off_and_saved, killer, vm, path))
        assert killer.plain(go_on)["changed"]
        on_again(killer, vm, path)
    for setting in some(points_back):
        assert killer.plain(save)["changed"]
        killed(killer, go_on, setting, partial(on_again, killer, vm, path))
    print(f"{len(points)} and {len(points_back)} kills")
    assert any("during libvirt" in setting["kill"] for setting in points)


@pytest.mark.kills
def test_killed_in_each_state_of_the_world(db01: VM, killer: Killer, some: Chooser) -> None:
    kill_all_the_way(killer, db01, at(db01), moments, some)


@pytest.mark.kills_all
@pytest.mark.parametrize("choose", [moments, every_point])
def test_killed_with_a_managed_save(db01: VM, killer: Killer, choose: Callable) -> None:
    kill_all_the_way(killer, db01, None, choose)


@pytest.mark.kills_all
def test_killed_at_every_point(db01: VM, killer: Killer) -> None:
    kill_all_the_way(killer, db01, at(db01), every_point)


DURING = {"kill": "during libvirt save db01", "delay": 0.15}


def test_the_next_run_of_another_module_waits_for_the_save(db01: VM, killer: Killer) -> None:
    save = Task("vm_memory", (db01,), saving(at(db01)))
    killer.start(save, **DURING).wait()
    result = killer.plain(Task("vm_blockcommit", (db01,), {}))
    assert "finished the save of its memory that an interrupted run" in result["notes"][0]
    assert not killer.plain(save)["changed"]
    assert killer.plain(Task("vm_memory", (db01,), running(at(db01))))["changed"]
    goes_on(db01)


def test_a_transient_vm_and_a_killed_save(make_vm: Callable[..., VM], killer: Killer) -> None:
    vm = make_vm("passing", disks=[Disk(size=SIZE)], transient=True)
    vm.run("echo remembered >/run/note")
    save = Task("vm_memory", (vm,), saving(at(vm)))
    for point in ("during libvirt save passing", "after libvirt save passing"):
        killer.start(save, kill=point, delay=0.15).wait()
        result = killer.plain(save)
        assert not result["failed"], result["msg"]
        assert not killer.plain(save)["changed"] and not killer.journals()
        assert killer.plain(Task("vm_memory", (vm,), running(at(vm))))["changed"]
        assert vm.run("cat /run/note") == "remembered\n" and not Path(at(vm)).exists()


def test_a_transient_vm_goes_while_another_run_looks_at_it(
    make_vm: Callable[..., VM], killer: Killer, tmp_path: Path
) -> None:
    vm = make_vm("passing", disks=[Disk(size=SIZE)], transient=True)
    save = Task("vm_memory", (vm,), saving(at(vm)))
    point = "before libvirt save passing"
    with killer.start(save, hold={point: 6}) as first:
        killer.reaches(point)
        looking = Killer(killer.modules, tmp_path)
        second = looking.run(save, hold={ASKING: 9})
        assert first.result()["changed"]
    assert ASKING in {point.name for point in looking.points()}
    assert not second["failed"], second["msg"]
    assert not second["changed"] and not killer.journals()


@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_a_transient_vm_goes_to_a_run_that_began_after_the_look(
    make_vm: Callable[..., VM], killer: Killer, tmp_path: Path, check: bool
) -> None:
    """The one that looks has seen no journal, so nothing tells it that there is another."""
    vm = make_vm("passing", disks=[Disk(size=SIZE)], transient=True)
    save = Task("vm_memory", (vm,), saving(at(vm)))
    with killer.start(save, check=check, hold={ASKING: 6}) as looking:
        killer.reaches(ASKING)
        assert Killer(killer.modules, tmp_path).run(save)["changed"]
        found = looking.result()
    assert not found["failed"], found["msg"]
    assert not found["changed"] and found["vms"]["passing"]["state"] == "saved"


def test_qemu_dies_while_it_writes(db01: VM, killer: Killer) -> None:
    """That memory is lost; what there is of it is removed, and the VM can be booted."""
    save = Task("vm_memory", (db01,), saving(at(db01)))
    run = killer.start(save, hold={"before libvirt save db01": 0})
    wait_until(
        lambda: Path(at(db01)).exists() and Path(at(db01)).stat().st_size > 0, 30, "it writes"
    )
    os.kill(db01.qemu_pid(), signal.SIGKILL)
    result = run.result()
    assert result["failed"] and "saving its memory" in result["msg"]
    result = killer.plain(save)
    assert result["failed"] and "VM db01 is off and has no memory to save" in result["msg"]
    assert not Path(at(db01)).exists() and not killer.journals()
    assert killer.plain(Task("vm_memory", (db01,), {"state": "running"}))["changed"]
    db01.wait_ready()
    assert db01.lost_records() == []


@pytest.mark.parametrize("where", ["managed", "file"])
def test_the_daemon_crashes_while_it_saves(
    stage: Stage, db01: VM, killer: Killer, where: str
) -> None:
    """It lets the VM go on when it is back, and the run saves it."""
    path = at(db01) if where == "file" else None
    call = "save" if path else "managedSave"
    point = f"before libvirt {call} db01"
    with killer.start(Task("vm_memory", (db01,), saving(path)), hold={point: 0.5}) as run:
        killer.reaches(point)
        time.sleep(0.7)
        stage.lab.daemon.restart(crash=True)
        result = run.result()
    assert not result["failed"], result["msg"]
    assert not db01.active() and not killer.journals()
    assert killer.plain(Task("vm_memory", (db01,), running(path)))["changed"]
    goes_on(db01)
