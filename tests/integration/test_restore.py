# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMs brought back from restore points: whole, in part, under another name, at once."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from lab import VM, Disk
from lab.modules import run_module
from lab.vm import Spec
from repository_stage import fingerprint
from stock_story import Repository, copy, same, write
from story import Modules, chain, folder, sources, world

SIZE = 16


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backup")


@pytest.fixture
def off(make_vm: Callable[..., VM]) -> VM:
    """A machine that never ran, with a qcow2 and a raw disk of some content."""
    disks = [Disk(size=SIZE, content="blank"), Disk(size=SIZE, content="blank", format="raw")]
    vm = make_vm("db01", disks=disks, running=False)
    write(vm.source("vda"), "-P 1 0 1M", "-P 2 4M 1M")
    write(vm.source("vdb"), "-P 3 0 1M", form="raw")
    return vm


def files(vm: VM) -> dict[str, tuple[int, int]]:
    """All that stands beside the images of a VM, with what a change of it shows in."""
    return {
        path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder(vm).iterdir()
    }


def restored(result: dict, vm: str = "db01") -> dict:
    return dict(result["vms"][vm]["restored"])


def steps(result: dict) -> list[str]:
    return [step["step"] for step in result["plan"]]


# --- under another name ---


def test_under_another_name(
    modules: Modules, repository: Repository, off: VM, tmp_path: Path
) -> None:
    repository.keep(off)
    write(off.source("vda"), "-P 7 512k 1M", "-z 4M 512k")
    was = {target: copy(off.source(target), tmp_path / target) for target in off.disks}
    point = repository.keep(off)
    write(off.source("vda"), "-P 9 0 2M")
    before = files(off)
    done = modules.change("vm_restore", off, repository=str(repository.path), **{"as": "copy"})
    made = restored(done)
    assert (made["vm"], made["point"], made["instant"]) == ("copy", point.id, False)
    assert done["vms"]["db01"]["state"] == "shutoff"
    for target, form in (("vda", "qcow2"), ("vdb", "raw")):
        file = made["disks"][target]["file"]
        assert chain(file) == [file] and os.stat(file).st_mode & 0o777 == 0o600
        assert same(file, form, was[target], form), target
    assert {name: files(off)[name] for name in before} == before
    assert sorted(set(files(off)) - set(before)) == [
        f"copy-vda.{point.id}.qcow2",
        f"copy-vdb.{point.id}.raw",
    ]


def test_the_other_vm_shares_nothing(modules: Modules, repository: Repository, off: VM) -> None:
    root = off.xml(inactive=True)
    ET.SubElement(ET.SubElement(root, "sysinfo", type="smbios"), "system").append(
        _entry("uuid", off.uuid)
    )
    devices = root.find("devices")
    for number in (1, 2):
        interface = ET.SubElement(devices, "interface", type="user")
        ET.SubElement(interface, "mac", address=f"52:54:00:00:00:0{number}")
    ET.SubElement(devices, "graphics", type="vnc", port="5999", autoport="no")
    off.lab.connection.defineXML(ET.tostring(root, encoding="unicode"))
    repository.keep(off)
    task = {"repository": str(repository.path), "as": "twin"}
    modules.change("vm_restore", off, **task)
    twin = off.lab.connection.lookupByName("twin")
    xml = ET.fromstring(twin.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    macs = {node.get("address") for node in xml.iterfind("devices/interface/mac")}
    assert len(macs) == 2 and not macs & {"52:54:00:00:00:01", "52:54:00:00:00:02"}
    assert twin.UUIDString() != off.uuid and not twin.autostart()
    graphics = xml.find("devices/graphics")
    assert graphics.get("autoport") == "yes" and graphics.get("port") == "-1"
    theirs = {source.get("file") or source.get("path") for source in xml.iter("source")}
    ours = {source.get("file") or source.get("path") for source in root.iter("source")}
    assert not theirs & (ours - {None})
    without = {**task, "as": "alone", "networks": False}
    modules.change("vm_restore", off, **without)
    xml = ET.fromstring(off.lab.connection.lookupByName("alone").XMLDesc())
    assert xml.findall("devices/interface") == []


def _entry(name: str, text: str) -> ET.Element:
    entry = ET.Element("entry", name=name)
    entry.text = text
    return entry


def test_a_name_that_is_taken(
    modules: Modules, repository: Repository, off: VM, make_vm: Callable[..., VM]
) -> None:
    first = repository.keep(off)
    write(off.source("vda"), "-P 7 512k 1M")
    repository.keep(off)
    make_vm("app01", disks=[Disk(size=1, content="blank")], running=False)
    task = {"repository": str(repository.path)}
    said = modules.refused("vm_restore", off, **task, **{"as": "app01"})
    assert "there is a VM app01 already" in said and "'as'" in said
    modules.change("vm_restore", off, **task, **{"as": "copy"})
    said = modules.refused("vm_restore", off, **task, point=first.id, **{"as": "copy"})
    assert "there is a VM copy already" in said


# --- onto itself ---


def test_onto_itself(modules: Modules, repository: Repository, off: VM, tmp_path: Path) -> None:
    was = {target: copy(off.source(target), tmp_path / target) for target in off.disks}
    first = repository.keep(off)
    write(off.source("vda"), "-P 7 512k 1M", "-z 4M 512k")
    repository.keep(off)
    old = sources(off)
    write(off.source("vda"), "-P 9 0 2M")
    checkpoint(off, "vmkeep-1")
    checkpoint(off, "other-1")
    uuid, before = off.uuid, files(off)
    done = modules.change("vm_restore", off, repository=str(repository.path), point=first.id)
    made = restored(done)
    assert made["uuid"] == uuid and sorted(made["replaced"]) == sorted(old.values())
    assert sources(off) == {t: d["file"] for t, d in made["disks"].items()}
    assert same(off.source("vda"), "qcow2", was["vda"], "qcow2")
    assert same(off.source("vdb"), "raw", was["vdb"], "raw")
    assert {name: files(off)[name] for name in before} == before
    assert [found.getName() for found in off.domain.listAllCheckpoints()] == ["other-1"]
    assert "other-1" in " ".join(done["notes"])
    # What was written since goes again; the name that is taken is left alone.
    write(off.source("vda"), "-P 5 0 1M")
    task = {"repository": str(repository.path), "point": first.id, "delete_replaced": True}
    again = restored(modules.change("vm_restore", off, **task))
    assert again["disks"]["vda"]["file"].endswith(f"{first.id}-1.qcow2")
    assert not os.path.exists(made["disks"]["vda"]["file"]) and again["replaced"] == []
    assert same(off.source("vda"), "qcow2", was["vda"], "qcow2")
    assert not any(os.path.exists(path) for path in old.values())


def checkpoint(vm: VM, name: str) -> None:
    """A record of libvirt's that there is a bitmap of this name in the images."""
    now = vm.domain.XMLDesc()
    xml = (
        f"<domaincheckpoint><name>{name}</name><creationTime>1</creationTime>"
        f"<disks><disk name='vda' checkpoint='bitmap' bitmap='{name}'/></disks>{now}"
        "</domaincheckpoint>"
    )
    vm.domain.checkpointCreateXML(xml, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)


def test_some_disks(modules: Modules, repository: Repository, off: VM, tmp_path: Path) -> None:
    was = copy(off.source("vdb"), tmp_path / "vdb")
    repository.keep(off)
    write(off.source("vdb"), "-P 8 0 2M", form="raw")
    vda = off.source("vda")
    place = tmp_path / "place"
    place.mkdir()
    task = {"repository": str(repository.path), "directory": str(place)}
    done = modules.change("vm_restore", off, disks=["vdb"], **task)
    assert off.source("vda") == vda and list(restored(done)["disks"]) == ["vdb"]
    assert Path(off.source("vdb")).parent == place
    assert same(off.source("vdb"), "raw", was, "raw")
    # The other one follows, and the first is as it was restored.
    whole = modules.change("vm_restore", off, disks=["vda"], **task)
    assert steps(whole) == ["restore_disk", "verify_point", "define_restored"]
    assert not modules.run("vm_restore", off, **task)["changed"]


def test_the_memory_of_the_firmware(
    modules: Modules, repository: Repository, off: VM, tmp_path: Path
) -> None:
    nvram = tmp_path / "nvram" / "db01_VARS.fd"
    nvram.parent.mkdir()
    nvram.write_bytes(b"then" * 1000)
    (tmp_path / "code.fd").write_bytes(b"code")
    root = off.xml(inactive=True)
    system = root.find("os")
    for tag in ("kernel", "initrd", "cmdline"):
        system.remove(system.find(tag))
    loader = ET.SubElement(system, "loader", readonly="yes", type="pflash")
    loader.text = str(tmp_path / "code.fd")
    ET.SubElement(system, "nvram").text = str(nvram)
    off.lab.connection.defineXML(ET.tostring(root, encoding="unicode"))
    point = repository.keep(off, nvram=nvram.read_bytes())
    nvram.write_bytes(b"now" * 1000)
    done = modules.change("vm_restore", off, repository=str(repository.path))
    new = Path(off.xml(inactive=True).findtext("os/nvram"))
    assert new == nvram.with_name(f"db01_VARS.{point.id}.fd")
    assert new.read_bytes() == b"then" * 1000 and nvram.read_bytes() == b"now" * 1000
    assert str(nvram) in restored(done)["replaced"]
    modules.change("vm_restore", off, repository=str(repository.path), **{"as": "twin"})
    twin = ET.fromstring(off.lab.connection.lookupByName("twin").XMLDesc())
    assert Path(twin.findtext("os/nvram")).name == f"twin_VARS.{point.id}.fd"


def test_a_vm_that_is_gone(
    modules: Modules, repository: Repository, off: VM, tmp_path: Path
) -> None:
    was = copy(off.source("vda"), tmp_path / "vda")
    repository.keep(off)
    xml = off.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    off.domain.undefine()
    for disk in off.disks.values():
        os.unlink(disk.path)
    task = modules.params(off, repository=str(repository.path))
    said = modules.attempt("vm_restore", off, disks=["vda"], repository=str(repository.path))
    assert "does not exist any more" in said["msg"]
    foreseen = modules.attempt("vm_restore", off, check=True, repository=str(repository.path))
    real = modules.run("vm_restore", off, repository=str(repository.path))
    assert foreseen["diff"] == real["diff"] and "not defined" in real["diff"]["before"]
    assert real["vms"]["db01"]["restored"]["uuid"] == off.uuid and task["vm"] == ["db01"]
    assert same(off.source("vda"), "qcow2", was, "qcow2")
    assert _devices(off.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) == _devices(xml)
    assert not modules.run("vm_restore", off, repository=str(repository.path))["changed"]


def _devices(xml: str) -> list[str]:
    return [node.tag for node in ET.fromstring(xml).find("devices")]


# --- which point ---


def test_which_point(modules: Modules, repository: Repository, off: VM) -> None:
    points = []
    for pattern in (4, 5, 6):
        write(off.source("vda"), f"-P {pattern} 0 1M")
        points.append(repository.keep(off))
    task = {"repository": str(repository.path)}

    def chosen(point: str) -> str:
        return str(
            restored(modules.run("vm_restore", off, check=True, point=point, **task))["point"]
        )

    assert chosen("latest") == points[2].id
    assert chosen(points[1].id) == points[1].id
    assert chosen("2026-11-25T12:00:00Z") == points[1].id
    assert chosen("2026-11-25T03:00:00+00:00") == points[1].id
    said = modules.refused("vm_restore", off, point="2026-11-23T00:00:00Z", **task)
    assert "has no restore point for" in said and points[0].id in said
    said = modules.refused("vm_restore", off, point="20261124T040000Z", **task)
    assert points[0].id in said


# --- running ---


def test_what_vm_backup_has_made(
    modules: Modules, make_vm: Callable[..., VM], tmp_path: Path
) -> None:
    """Of a VM that runs, full and incremental, and restored beside it."""
    vm = make_vm("db01", disks=[Disk(size=SIZE)])
    (tmp_path / "backup").mkdir()
    task = {"repository": str(tmp_path / "backup")}
    vm.write("/mnt/vda/one", b"full" * 9000)
    modules.run("vm_backup", vm, **task)
    vm.write("/mnt/vda/two", b"incremental" * 9000)
    modules.run("vm_backup", vm, **task)
    vm.write("/mnt/vda/three", b"later")
    done = modules.change("vm_restore", vm, **task, start=True, **{"as": "copy"})
    assert done["vms"]["db01"]["state"] == "running" and vm.active()
    copied = taken(vm, "copy")
    copied.wait_ready()
    assert copied.read("/mnt/vda/one") == b"full" * 9000
    assert copied.read("/mnt/vda/two") == b"incremental" * 9000
    assert copied.run("ls /mnt/vda/three || true").strip() == ""
    # The bitmaps went with the images, so the next one is a full one.
    copied.destroy()
    vm.disconnect()
    modules.run("vm_restore", vm, **task, force=True, start=True)
    assert vm.domain.listAllCheckpoints() == []
    again = modules.run("vm_backup", vm, **task, quiesce="never")
    assert again["vms"]["db01"]["restore_point"]["type"] == "full"


def taken(vm: VM, name: str) -> VM:
    """A VM that was restored under a name, in the lab's hands."""
    domain = vm.lab.connection.lookupByName(name)
    twin = VM(vm.lab, Spec.read(domain.XMLDesc()), domain.UUIDString())
    vm.lab.vms[name] = twin
    return twin


def test_a_running_vm(modules: Modules, repository: Repository, make_vm: Callable[..., VM]) -> None:
    vm = make_vm("db01", disks=[Disk(size=SIZE)], running=True)
    vm.write("/mnt/vda/file", b"first")
    vm.shutdown()
    repository.keep(vm)
    vm.start(wait=False)
    task = {"repository": str(repository.path)}
    said = modules.refused("vm_restore", vm, **task)
    assert "VM db01 is running" in said and "force" in said and vm.active()
    vm.disconnect()
    done = modules.change("vm_restore", vm, force=True, start=True, **task)
    assert steps(done) == [
        "restore_disk", "verify_point", "stop_vm", "define_restored", "start_vm",
    ]  # fmt: skip
    assert done["vms"]["db01"]["state"] == "running"
    vm.wait_ready()
    assert vm.read("/mnt/vda/file") == b"first"
    # It is left alone while it runs, and said so.
    again = modules.run("vm_restore", vm, **task)
    assert not again["changed"] and "has run" in again["notes"][0]
    assert "once more, switch it off first" in again["notes"][0]
    vm.destroy()
    assert modules.run("vm_restore", vm, **task)["changed"]


def test_a_repository_that_has_lost_its_name(
    modules: Modules, repository: Repository, off: VM
) -> None:
    """A restore is when one is glad of what is left; that something is missing is said."""
    repository.keep(off)
    (repository.path / "vmkeep-repository.json").unlink()
    done = modules.change("vm_restore", off, repository=str(repository.path))
    assert "vmkeep-repository.json is missing" in done["notes"][-1]


def test_instant(
    modules: Modules,
    repository: Repository,
    make_vm: Callable[..., VM],
) -> None:
    vm = make_vm("db01", disks=[Disk(size=SIZE)], running=True)
    vm.write("/mnt/vda/file", b"first")
    vm.shutdown()
    repository.keep(vm)
    point = repository.keep(vm)
    kept = {path: path.stat().st_mtime_ns for path in repository.path.rglob("*.qcow2")}
    task = {"repository": str(repository.path), "instant": True}
    waiting = modules.change("vm_restore", vm, **task)
    assert restored(waiting)["instant"] and "vm_blockpull" in " ".join(waiting["notes"])
    assert len(chain(vm.source("vda"))) == 3
    done = modules.change("vm_restore", vm, start=True, **task)
    assert steps(done) == ["start_vm", "pull"]
    assert not restored(done)["instant"]
    vm.wait_ready()
    assert chain(vm.source("vda")) == [vm.source("vda")]
    assert vm.read("/mnt/vda/file") == b"first"
    assert kept == {path: path.stat().st_mtime_ns for path in repository.path.rglob("*.qcow2")}
    assert restored(done)["point"] == point.id


def test_what_a_vm_stands_on_is_not_pruned(
    modules: Modules, repository: Repository, off: VM
) -> None:
    """Also while it is off, when no process has the images open."""
    point = repository.keep(off)
    task = {"repository": str(repository.path), "instant": True}
    modules.change("vm_restore", off, **task)
    for _day in range(2):
        repository.keep(off, full=True)
    rules = {"vm": [off.name], "repository": str(repository.path), "keep_last": 1}
    images = [off.source(target, inactive=True) for target in ("vda", "vdb")]
    for check in (True, False):
        pruned = run_module("vm_backup_prune", rules, check=check)["vms"][off.name]
        kept = {entry["id"]: entry["reasons"] for entry in pruned["kept"]}
        assert kept[point.id] == [f"in use by {', '.join(images)}"] and len(pruned["removed"]) == 1
    assert repository.image(off, point).exists()
    modules.change("vm_blockpull", off)
    pruned = run_module("vm_backup_prune", rules)["vms"][off.name]
    assert [entry["id"] for entry in pruned["removed"]] == [point.id]
    assert list(Path(repository.folder(off)).glob("uses/*")) == []
    assert not run_module("vm_backup_prune", rules)["changed"]


def test_nothing_is_merged_into_a_repository(
    modules: Modules, repository: Repository, off: VM
) -> None:
    """Not even by name: the restore point would be lost, and those that stand on it."""
    for _night in range(2):
        repository.keep(off)
    modules.change("vm_restore", off, repository=str(repository.path), instant=True)
    before = fingerprint(repository.path)
    overlay, *below = chain(off.source("vda"))
    assert len(below) == 2
    for base in below:
        said = modules.refused("vm_blockcommit", off, disks=["vda"], base=base)
        assert f"lies in the repository {repository.path}" in said and "vm_blockpull" in said
    undefined = Path(overlay).with_name("undefined.qcow2")
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below[0]]
    subprocess.run([*create, str(undefined)], check=True)
    options = {"state_dir": str(modules.state_dir), "allowed_roots": ["/"]}
    for path, state in ((str(undefined), "committed"), (below[0], "absent")):
        result = run_module("qcow2_overlay", {"path": path, "state": state, **options})
        assert result["failed"] and "to leave restore points as they are" in result["msg"]
    assert fingerprint(repository.path) == before


def test_no_vm_gets_its_images_in_a_repository(
    modules: Modules, repository: Repository, off: VM
) -> None:
    """There they would be taken for what a dead run has left."""
    point = repository.keep(off)
    for place in (repository.path, repository.image(off, point).parent):
        before = fingerprint(repository.path)
        for check in (True, False):
            result = modules.attempt(
                "vm_restore",
                off,
                check=check,
                repository=str(repository.path),
                directory=str(place),
                **{"as": "copy"},
            )
            assert result["failed"] and f"lies in the repository {repository.path}" in result["msg"]
        assert fingerprint(repository.path) == before


def test_the_latest_is_whole_and_good_and_what_is_newer_is_told(
    modules: Modules, repository: Repository, off: VM
) -> None:
    good = repository.keep(off)
    bad = repository.keep(off)
    image = repository.image(off, bad)
    image.write_bytes(image.read_bytes()[:-512])
    task = {"repository": str(repository.path)}
    done = modules.change("vm_restore", off, **task)
    assert restored(done)["point"] == good.id
    assert f"{bad.id} is newer, but would not restore" in done["notes"][0]


def test_what_a_restore_finds_bad_is_known_from_then_on(
    modules: Modules, repository: Repository, off: VM
) -> None:
    point = repository.keep(off)
    image = repository.image(off, point)
    content = bytearray(image.read_bytes())
    content[-10] ^= 1
    image.write_bytes(content)
    task = {"repository": str(repository.path), "point": point.id}
    result = modules.attempt("vm_restore", off, **task)
    assert result["failed"] and "another content" in result["msg"] and not result["changed"]
    found = run_module("vm_backup_info", {"vm": [off.name], "repository": str(repository.path)})
    (entry,) = found["vms"][off.name]["restore_points"]
    assert entry["verified"]["ok"] is False and found["vms"][off.name]["newest"] is None
    assert "another content" in modules.refused("vm_restore", off, instant=True, **task)


@pytest.mark.parametrize("name", ["a" * 201, "0aae3474-7d66-5834-b659-d0311e934f5f"])
def test_names_that_no_copy_gets(
    modules: Modules, repository: Repository, off: VM, name: str
) -> None:
    repository.keep(off)
    message = modules.refused("vm_restore", off, repository=str(repository.path), **{"as": name})
    assert message.startswith("'as' is")


# --- beside other work ---


def test_snapshots_stay_on_record(
    modules: Modules, repository: Repository, off: VM, tmp_path: Path
) -> None:
    """And go back to what they were taken of, though the images that were replaced could go."""
    first = copy(off.source("vda"), tmp_path / "vda")
    repository.keep(off)
    modules.run("vm_snapshot", off, name="before")
    write(off.source("vda"), "-P 9 0 2M")
    old, before = sources(off), files(off)
    task = {"repository": str(repository.path), "delete_replaced": True}
    done = modules.change("vm_restore", off, **task)
    assert "its snapshots stay on record" in " ".join(done["notes"])
    assert {name: files(off)[name] for name in before} == before
    assert restored(done)["replaced"] == list(old.values())
    modules.run("vm_snapshot", off, name="before", state="reverted")
    assert same(off.source("vda"), "qcow2", first, "qcow2")


def test_what_others_stand_on_is_kept(
    modules: Modules, repository: Repository, off: VM, make_vm: Callable[..., VM]
) -> None:
    repository.keep(off)
    old = dict(off.disks)
    make_vm("app01", disks=[Disk(backing=old["vda"].path)], running=False)
    task = {"repository": str(repository.path), "delete_replaced": True}
    done = modules.change("vm_restore", off, **task)
    assert restored(done)["replaced"] == [old["vda"].path]
    assert os.path.exists(old["vda"].path) and not os.path.exists(old["vdb"].path)
    assert "needs it" in " ".join(done["notes"])


def test_a_merge_that_was_not_finished(
    modules: Modules, repository: Repository, off: VM, tmp_path: Path
) -> None:
    """Pruning made a full point of an incremental one, and died before the last renaming."""
    first = repository.keep(off)
    write(off.source("vda"), "-P 7 512k 1M")
    was = copy(off.source("vda"), tmp_path / "vda")
    second = repository.keep(off)
    repository.merge(off, second)
    assert repository.stock(off).staged == (second.id,)
    done = modules.change("vm_restore", off, repository=str(repository.path))
    assert same(off.source("vda"), "qcow2", was, "qcow2") and restored(done)["point"] == second.id
    assert repository.stock(off).staged == () and first.id != second.id
    assert chain(str(repository.image(off, second))) == [str(repository.image(off, second))]


def test_a_full_disk_in_the_middle(
    modules: Modules, repository: Repository, off: VM, tmp_path: Path
) -> None:
    """qemu-img gets no further than so many bytes: as on a file system that fills up."""
    repository.keep(off)
    script = tmp_path / "bin" / "qemu-img"
    script.parent.mkdir()
    real = shutil.which("qemu-img")
    script.write_text(
        f'#!/bin/sh\n[ "$1" != convert ] || exec prlimit --fsize=1000000 {real} "$@"\n'
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    before, shown = files(off), world(off)
    params = modules.params(off, repository=str(repository.path))
    env = {"PATH": f"{script.parent}:{os.environ['PATH']}"}
    result = run_module("vm_restore", params, env=env)
    assert result["failed"] and "qemu-img convert" in result["msg"]
    assert files(off) == before and world(off) == shown
    modules.change("vm_restore", off, repository=str(repository.path))


def test_several_vms(
    modules: Modules, repository: Repository, off: VM, make_vm: Callable[..., VM]
) -> None:
    """One that cannot be restored does not keep the other from it."""
    other = make_vm("app01", disks=[Disk(size=1, content="blank")], running=False)
    bad = repository.keep(other)
    repository.keep(off)
    repository.image(other, bad).write_bytes(b"")
    result = modules.attempt("vm_restore", [off, other], repository=str(repository.path))
    assert result["failed"] and result["vms"]["app01"]["failed"]
    assert restored(result)["vm"] == "db01" and "1 of 2 VMs failed" in result["msg"]


# --- refused, with nothing left behind ---


def test_a_flipped_byte(modules: Modules, repository: Repository, off: VM) -> None:
    first = repository.keep(off)
    write(off.source("vda"), "-P 7 512k 1M")
    second = repository.keep(off)
    image = repository.image(off, second)
    content = bytearray(image.read_bytes())
    content[-1000] ^= 1
    image.write_bytes(content)
    before, shown = files(off), world(off)
    for more in ({}, {"as": "copy"}, {"instant": True}):
        task = {"repository": str(repository.path), "point": second.id, **more}
        result = modules.attempt("vm_restore", off, **task)
        assert result["failed"] and not _made(off, before), result
        assert f"{image} has another content than its manifest says" in result["msg"]
        assert f"restore from {first.id}" in result["msg"]
    assert world(off) == shown and files(off) == before
    with pytest.raises(libvirt.libvirtError):
        off.lab.connection.lookupByName("copy")
    done = modules.run("vm_restore", off, repository=str(repository.path), point=first.id)
    assert done["changed"]


def _made(vm: VM, before: dict) -> set[str]:
    return set(files(vm)) - set(before)


def test_a_missing_file_of_the_parent(modules: Modules, repository: Repository, off: VM) -> None:
    first = repository.keep(off)
    second = repository.keep(off)
    other = repository.keep(off, full=True)
    repository.image(off, first).unlink()
    said = modules.refused("vm_restore", off, repository=str(repository.path), point=second.id)
    assert f"stands on {first.id}" in said and f"restore from {other.id}" in said
    # The newest that nothing is known against.
    done = modules.run("vm_restore", off, repository=str(repository.path), check=True)
    assert restored(done)["point"] == other.id


def test_an_image_that_names_another_backing_file(
    modules: Modules, repository: Repository, off: VM, tmp_path: Path
) -> None:
    """Also one whose digest is right: whoever writes the images may be able to write manifests."""
    other = repository.image(off, repository.keep(off), "vdb")
    point = repository.keep(off)
    secret = tmp_path / "secret.qcow2"
    subprocess.run(["qemu-img", "create", "-qf", "qcow2", secret, f"{SIZE}M"], check=True)
    image = repository.image(off, point)
    cases = (
        (secret, "outside the allowed roots"),
        (image, "comes back to"),
        (other, "not what the manifests say"),
    )
    for name, said in cases:
        rebase = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", name, image]
        subprocess.run(rebase, check=True)
        _seal(repository, off, point)
        message = modules.refused("vm_restore", off, repository=str(repository.path))
        assert said in message, message


def _seal(repository: Repository, vm: VM, point: object) -> None:
    """Let the manifest agree with the files."""
    from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.digest import stored_file

    place = str(repository.image(vm, point).parent)
    files = tuple(stored_file(place, file.name, file.role) for file in point.files)
    repository.replace(vm, point, files=files)


def test_bad_input(
    modules: Modules, repository: Repository, off: VM, make_vm: Callable[..., VM], tmp_path: Path
) -> None:
    repository.keep(off)
    task = {"repository": str(repository.path)}
    cases = [
        ({"as": "../evil"}, "the VM name '../evil' is not allowed"),
        ({"as": "-x"}, "is not allowed"),
        ({"disks": ["vdz"]}, "has no disk vdz"),
        ({"disks": []}, "empty list"),
        ({"directory": "/nonexistent/place"}, "the directory /nonexistent/place does not exist"),
        ({"directory": "relative"}, "an absolute path"),
        ({"repository": "/nonexistent"}, "the repository /nonexistent is not there"),
        ({"repository": str(tmp_path)}, "no repository"),
    ]
    for more, said in cases:
        message = modules.refused("vm_restore", off, **{**task, **more})
        assert said in message, message
    other = make_vm("app01", disks=[Disk(size=1, content="blank")], running=False)
    message = modules.refused("vm_restore", other, **task)
    assert "has no restore point of VM app01" in message
    message = modules.refused("vm_restore", [off, other], **task, **{"as": "x"})
    assert "one VM where 'as' is set" in message


def test_a_disk_that_is_said_to_be_larger(
    modules: Modules, repository: Repository, off: VM
) -> None:
    point = repository.keep(off)
    wrong = [dataclasses.replace(disk, virtual_size=1 << 50) for disk in point.disks]
    repository.replace(off, point, disks=tuple(wrong))
    message = modules.refused("vm_restore", off, repository=str(repository.path))
    assert "its manifest says" in message
