# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_backup on real guests: what a restore point holds is compared with the paused disk itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest
from backup_story import Repository, checkpoints, disks_of, paused
from lab import VM, Disk
from lab.vm import wait_until
from story import Modules, folder, plain, qemu_img

BLANK = Disk(content="blank", size=16)
RAW = Disk(content="blank", size=16, format="raw")


@pytest.fixture
def repository(modules: Modules, tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backup", modules)


def scribble(vm: VM, device: str, at: int, text: str = "x") -> None:
    """Write 64 KiB to a disk that has no file system; on the disk when this returns."""
    command = f"yes {text} | head -c 65536 | dd of=/dev/{device} bs=64k seek={at} conv=fsync"
    vm.run(command)


def test_a_chain_of_increments_by_check_mode_and_really(make_vm, repository) -> None:
    vm = make_vm("db01", disks=[Disk(), BLANK, RAW, Disk(device="cdrom")])
    contents = {}
    for number, kind in enumerate(("full", "incremental", "incremental")):
        vm.write(f"/mnt/vda/file{number}", b"content " * 1000)
        scribble(vm, "vdb", number, str(number))
        scribble(vm, "vdc", number, str(number))
        repository.later()
        params = repository.params(quiesce="never")
        with paused(vm):
            foreseen = repository.modules.run("vm_backup", vm, check=True, **params)
            assert len(list(repository.path.glob("*/*/manifest.json"))) == number
            real = repository.modules.run("vm_backup", vm, **params)
            point = real["vms"]["db01"]["restore_point"]
            contents[point["id"]] = disks_of(vm)
        assert plain(real["plan"]) == plain(foreseen["plan"])
        assert real["diff"] == foreseen["diff"]
        assert point["type"] == kind and point["consistency"] == "crash"
        assert point["disks"]["vdc"]["type"] == "full"
        assert point["left_out"] == {"sda": "cdrom"}
        assert checkpoints(vm) == [real["plan"][-1 if number == 0 else -2]["checkpoint"]]
    assert repository.ids(vm) == list(contents)
    for id, content in contents.items():
        repository.check(vm, id)
        assert repository.content(vm, id) == content
    image = repository.image(vm, repository.ids(vm)[-1], "vdb")
    assert qemu_img("info", image)["actual-size"] < 512 << 10, "an increment is small"
    young = repository.modules.run("vm_backup", vm, **repository.params(max_age="24h"))
    assert not young["changed"] and young["vms"]["db01"]["restore_point"]["id"] == point["id"]
    repository.later()
    assert repository.modules.run("vm_backup", vm, check=True, **repository.params(max_age="1d"))[
        "changed"
    ]
    # One of some disks is young enough for these only.
    repository.back_up(vm, disks=["vda"])
    for disks, changed in ((["vda"], False), (["vdb"], True), (None, True)):
        params = repository.params(max_age="12h", disks=disks)
        result = repository.modules.run("vm_backup", vm, check=True, **params)
        assert result["changed"] == changed


def test_a_guest_that_writes_is_frozen_for_a_moment(vm, repository) -> None:
    vm.start_writer()
    point = repository.back_up(vm, quiesce="required")
    assert point["consistency"] == "filesystem" and 0 < point["frozen_ms"] < 5000
    assert not vm.frozen() and vm.writing()
    before = vm.acknowledged()
    increment = repository.back_up(vm, quiesce="required")
    assert increment["type"] == "incremental"
    vm.stop_writer()
    assert vm.lost_records(before) == []
    for id in repository.ids(vm):
        repository.check(vm, id)


def test_off_and_on_again(make_vm, repository) -> None:
    """Copied while it is off; compared for an increment; by bitmaps again once it runs."""
    vm = make_vm("db01", disks=[Disk(), RAW], running=False)
    full = repository.back_up(vm)
    assert full["consistency"] == "offline" and full["type"] == "full"
    contents = {full["id"]: disks_of(vm)}
    vm.start()
    vm.write("/mnt/vda/one", b"1" * 100_000)
    scribble(vm, "vdb", 3)
    first = repository.back_up(vm)
    assert first["type"] == "full" and "no checkpoint" in first["reason"]
    vm.write("/mnt/vda/two", b"2" * 100_000)
    vm.shutdown()
    second = repository.back_up(vm)
    contents[second["id"]] = disks_of(vm)
    assert second["type"] == "incremental" and "comparison" in second["reason"]
    assert second["disks"]["vdb"]["type"] == "incremental"
    vm.start()
    vm.write("/mnt/vda/three", b"3" * 100_000)
    vm.run("sync")
    with paused(vm):
        third = repository.back_up(vm, quiesce="never")
        contents[third["id"]] = disks_of(vm)
    assert third["type"] == "incremental" and third["parent"] == first["id"]
    for id, content in contents.items():
        repository.check(vm, id)
        assert repository.content(vm, id) == content


def test_bitmaps_survive_snapshots_and_merges(make_vm, repository) -> None:
    vm = make_vm("db01", disks=[Disk(), BLANK])
    modules = repository.modules
    repository.back_up(vm)
    contents = {}
    for number, change in enumerate(
        (
            lambda: modules.run("vm_snapshot", vm, name="s1"),
            lambda: modules.run("vm_snapshot", vm, name="s2"),
            lambda: modules.run("vm_snapshot", vm, name="s1", state="absent"),
            lambda: modules.run("vm_blockcommit", vm),
            lambda: modules.run("vm_blockpull", vm),
        )
    ):
        scribble(vm, "vdb", 2 * number)
        change()
        scribble(vm, "vdb", 2 * number + 1)
        vm.run("sync")
        with paused(vm):
            point = repository.back_up(vm, quiesce="never")
            contents[point["id"]] = disks_of(vm)
        assert point["type"] == "incremental", point["reason"]
    for id, content in contents.items():
        assert repository.content(vm, id) == content


def test_disks_that_come_change_and_go(make_vm, repository) -> None:
    vm = make_vm("db01", disks=[Disk(), BLANK])
    repository.back_up(vm, disks=["vda"])
    assert repository.manifest(vm, repository.ids(vm)[0])["left_out"] == [["vdb", "not asked for"]]
    scribble(vm, "vdb", 1)
    added = repository.back_up(vm)
    assert {t: d["type"] for t, d in added["disks"].items()} == {
        "vda": "incremental",
        "vdb": "full",
    }
    vm.domain.blockResize("vdb", 32 << 20, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    scribble(vm, "vdb", 300)
    with paused(vm):
        resized = repository.back_up(vm, quiesce="never")
        content = disks_of(vm)
    assert resized["disks"]["vdb"]["type"] == "full" and resized["type"] == "incremental"
    assert repository.content(vm, resized["id"]) == content
    gone = repository.back_up(vm, disks=["vda"])
    assert list(gone["disks"]) == ["vda"] and gone["type"] == "incremental"


def test_what_cannot_be_trusted_makes_a_full_one(make_vm, repository) -> None:
    """A bitmap that was deleted by hand, a QEMU that was killed, a file that is gone."""
    vm = make_vm("db01", disks=[Disk(), BLANK])
    repository.back_up(vm)
    [name] = checkpoints(vm)
    vm.domain.checkpointCreateXML("<domaincheckpoint><name>foreign</name></domaincheckpoint>")
    remove = '{"execute":"block-dirty-bitmap-remove","arguments":{"node":"%s","name":"%s"}}'
    node = vm.xml().find("devices/disk/target[@dev='vdb']/../source").get("index")
    libvirt_qemu.qemuMonitorCommand(vm.domain, remove % (f"libvirt-{node}-format", name), 0)
    by_hand = repository.back_up(vm)
    assert by_hand["type"] == "full" and "bitmaps" in by_hand["reason"]
    assert repository.back_up(vm)["type"] == "incremental"
    os.kill(vm.qemu_pid(), signal.SIGKILL)
    wait_until(lambda: not vm.active(), 20, "libvirt sees that QEMU is gone")
    vm.start()
    killed = repository.back_up(vm)
    assert killed["type"] == "full" and "bitmaps" in killed["reason"]
    last = repository.back_up(vm)
    assert last["type"] == "incremental"
    Path(repository.image(vm, killed["id"], "vdb")).unlink()
    lost = repository.back_up(vm)
    assert lost["type"] == "full" and last["id"] in lost["reason"]
    vm.run("sync")
    with paused(vm):
        good = repository.back_up(vm, quiesce="never")
        content = disks_of(vm)
    assert good["type"] == "incremental" and repository.content(vm, good["id"]) == content
    assert "foreign" in checkpoints(vm) and len(checkpoints(vm)) == 2


def test_bad_input_is_refused_before_anything_is_touched(make_vm, repository, tmp_path) -> None:
    vm = make_vm("db01", disks=[Disk(), BLANK])
    for params, words in (
        ({"repository": str(tmp_path / "nowhere")}, "is not there"),
        ({"repository": "relative"}, "absolute path"),
        ({"disks": ["vdz"]}, "has no disk vdz"),
        ({"max_age": "soon"}, "such as 24h"),
        ({"parallel": 0}, "1 to 64"),
        ({"max_increments": 101}, "0 to 100"),
        ({"now": "yesterday"}, "a time such as"),
        ({"type": "incremental"}, "the first restore point"),
    ):
        assert words in repository.refused(vm, **params), params
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "vmkeep-repository.json").write_text('{"format": 99}')
    assert "format" in repository.refused(vm, repository=str(tmp_path / "foreign"))
    vm.silence_agent()
    assert "does not answer" in repository.refused(vm, quiesce="required")
    vm.wake_agent()
    with foreign_backup(vm):
        assert "backup job of somebody else" in repository.refused(vm)
    assert not list(repository.path.iterdir()), "nothing was made"


def test_other_formats_are_refused_by_name(make_vm, repository) -> None:
    """Before anything is touched, running and off; what is advised leads on."""
    others = [Disk(content="blank", size=4, format=name) for name in ("vmdk", "vdi", "qed", "vpc")]
    vm = make_vm(
        "db01", disks=[Disk(), *others, Disk(content="blank", size=4, format="qcow")], running=False
    )
    for on in (False, True):
        if on:
            vm.start()
        for target, disk in list(vm.disks.items())[1:]:
            said = repository.refused(vm, disks=["vda", target])
            assert (
                f"disk {target} of VM db01 has the format {disk.spec.format} ({disk.path})" in said
            )
            assert f"qemu-img convert -f {disk.spec.format} -O qcow2" in said
    assert not list(repository.path.iterdir()), "nothing was made"
    said = repository.modules.refused("vm_memory", vm, state="saved")
    assert "disk vdb in the format vmdk" in said and "vdd" not in said, "QEMU can with qed"
    vm.destroy()
    vdb = vm.disks["vdb"].path
    line = ["qemu-img", "convert", "-f", "vmdk", "-O", "qcow2", vdb, f"{vdb}.qcow2"]
    subprocess.run(line, check=True)
    root = vm.xml(inactive=True)
    disk = root.find("devices/disk/target[@dev='vdb']/..")
    disk.find("driver").set("type", "qcow2")
    disk.find("source").set("file", f"{vdb}.qcow2")
    vm.lab.connection.defineXML(ET.tostring(root, encoding="unicode"))
    for on in (False, True):
        if on:
            vm.start()
        left_out = repository.back_up(vm, disks=["vda", "vdb"], quiesce="never")["left_out"]
        assert list(left_out) == ["vdc", "vdd", "vde", "vdf"]


@contextlib.contextmanager
def foreign_backup(vm: VM) -> Iterator[None]:
    """A backup job of another tool, in pull mode, which lasts until it is ended."""
    socket = folder(vm) / "nbd"
    vm.domain.backupBegin(
        f"<domainbackup mode='pull'><server transport='unix' socket='{socket}'/>"
        f"<disks><disk name='vda' type='file'><scratch file='{folder(vm)}/scratch'/></disk>"
        "<disk name='vdb' backup='no'/></disks></domainbackup>",
        None,
        0,
    )
    try:
        yield
    finally:
        vm.domain.abortJob()
        wait_until(lambda: not vm.domain.jobStats().get("type"), 20, "the job ends")


PFLASH = "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>"


def define_with(vm: VM, system: str) -> None:
    """Define a VM anew with this in its <os>, in place of any firmware that it had there."""
    root = vm.xml(inactive=True)
    node = root.find("os")
    for tag in ("loader", "nvram"):
        for found in node.findall(tag):
            node.remove(found)
    node.extend(ET.fromstring(f"<os>{system}</os>"))
    vm.lab.connection.defineXML(ET.tostring(root, encoding="unicode"))


def nvram_named_by(connection: libvirt.virConnect, name: str) -> Path:
    """The file that the definition of a VM names, in whatever form."""
    xml = connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    node = ET.fromstring(xml).find("os/nvram")
    source = node.find("source")
    return Path(node.text.strip() if source is None else source.get("file"))


@pytest.mark.parametrize(
    "form", ["<nvram>{}</nvram>", "<nvram type='file'><source file='{}'/></nvram>"]
)
def test_nvram_and_definition_are_kept(make_vm, repository, tmp_path, form: str) -> None:
    """In each form that names a file; and they come back, for another VM as a file of its own."""
    vm = make_vm("db01", disks=1, running=False)
    nvram, content = tmp_path / "vars.fd", b"NVRAM" * 1000
    nvram.write_bytes(content)
    define_with(vm, PFLASH + form.format(nvram))
    id = repository.back_up(vm)["id"]
    repository.check(vm, id)
    roles = {file["role"]: file["name"] for file in repository.manifest(vm, id)["files"]}
    stored = repository.folder(vm) / id
    assert (stored / roles["nvram"]).read_bytes() == content
    assert ET.parse(stored / roles["domain"]).findtext("uuid") == vm.uuid
    files = [path for path in repository.path.rglob("*") if path.is_file()]
    modes = {oct(path.stat().st_mode & 0o777) for path in files}
    assert modes == {"0o600"}

    modules, usual = repository.modules, {"repository": str(repository.path), "point": id}
    connection = vm.lab.connection
    modules.run("vm_restore", vm, **{"as": "copy"}, **usual)
    vm.domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
    nvram.unlink()
    modules.run("vm_restore", vm, **usual)
    places = {nvram_named_by(connection, name) for name in ("db01", "copy")}
    assert len(places) == 2 and nvram not in places
    assert {place.read_bytes() for place in places} == {content}
    connection.lookupByName("copy").undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


UNKEPT = {
    f"{PFLASH}<nvram type='block'><source dev='/dev/vg/vars'/></nvram>": (
        "NVRAM of type block (dev=/dev/vg/vars)"
    ),
    f"{PFLASH}<nvram type='network'><source protocol='nbd' name='vars'><host name='h' port='1'/>"
    "</source></nvram>": "NVRAM of type network (protocol=nbd name=vars)",
    "<loader type='pflash'>/srv/OVMF.fd</loader>": (
        "a firmware that is written to itself (/srv/OVMF.fd)"
    ),
}


def test_nvram_that_cannot_be_kept_is_not_left_out_silently(make_vm, repository, tmp_path) -> None:
    vm = make_vm("db01", disks=[BLANK], running=False)
    gone = f"{PFLASH}<nvram>{tmp_path}/gone.fd</nvram>"
    for system, words in {**UNKEPT, gone: ""}.items():
        define_with(vm, system)
        if words:
            assert words in repository.refused(vm)
        params = repository.params(without=["nvram"] if words else [])
        [note] = repository.modules.run("vm_backup", vm, **params)["notes"]
        assert ("as asked" if words else "gone.fd, so nothing of it is kept") in note
        repository.later()
