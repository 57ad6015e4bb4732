# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input: a clear error that names the thing and what to do, before anything is touched."""

from __future__ import annotations

import os
import subprocess
import syslog

import pytest
from lab import Disk
from lab.modules import COLLECTIONS, run_module
from story import Modules, chain, folder, sources, world
from test_snapshot_absent import take

NAMES = [
    "a/b",
    "../up",
    "-dash",
    ".dot",
    "line\nbreak",
    "x" * 300,
    "<a>&amp;</a>",
    "it's",
    "",
    "sp ace",
]


@pytest.fixture(scope="module")
def bad(lab_session, tmp_path_factory):
    """A running VM that all refused tasks are aimed at; every test proves it untouched."""
    vm = lab_session.vm("victim", disks=2)
    yield Modules(lab_session, tmp_path_factory.mktemp("state")), vm
    lab_session.remove(vm)


@pytest.mark.parametrize("name", NAMES)
def test_snapshot_names(bad, name):
    modules, vm = bad
    message = modules.refused("vm_snapshot", vm, name=name)
    assert "snapshot name" in message and "choose another name" in message
    assert name[:20] in message or repr(name)[:20] in message


def test_a_snapshot_name_with_a_null(bad):
    """Ansible logs plain options first; where Python's syslog takes no NUL, that is the refusal."""
    modules, vm = bad
    message = modules.refused("vm_snapshot", vm, name="nul\x00")
    assert ("choose another name" if syslog_takes_null() else "embedded null") in message


def syslog_takes_null():
    try:
        syslog.syslog(syslog.LOG_DEBUG, "nul\x00")
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", [*NAMES[:6], "nul\x00"])
def test_vm_names(bad, name):
    modules, vm = bad
    for module, options in (("vm_snapshot", {"name": "s1"}), ("vm_blockcommit", {})):
        params = {**modules.params(vm, **options), "vm": [name]}
        result = run_module(module, params)
        assert result["failed"] and "VM name" in result["msg"] and "virsh list" in result["msg"]


def test_unknown_vm_disk_and_snapshot_options(bad):
    modules, vm = bad
    result = run_module("vm_snapshot", {**modules.params(vm, name="s1"), "vm": ["db0"]})
    assert "there is no VM db0" in result["msg"] and "victim" in result["msg"]
    message = modules.refused("vm_snapshot", vm, name="s1", disks=["vdz"])
    assert "victim has no disk vdz" in message and "vda, vdb" in message
    assert "no disk vdz" in modules.refused("vm_blockcommit", vm, disks=["vdz"])
    for disks in ([{"target": "vda", "fiel": "/x"}], [{"file": "/x"}], [3], [""]):
        assert "option 'disks'" in modules.refused("vm_snapshot", vm, name="s1", disks=disks)
    assert "mean nothing" in modules.refused("vm_snapshot", vm, name="s1", subtree=True)
    options = {"name": "s1", "state": "absent", "memory": True}
    assert "mean nothing" in modules.refused("vm_snapshot", vm, **options)


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED LOUDLY: mounting a small file system needs root"
)


@pytest.fixture
def read_only(tmp_path):
    """A directory that even root cannot write to."""
    place = tmp_path / "read-only"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "vmkeep-ro", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@needs_root
def test_places_for_overlays(bad, tmp_path, read_only):
    """tp-libvirt 16, places that cannot be used."""
    modules, vm = bad
    frozen = read_only
    file = tmp_path / "file"
    file.write_text("x")
    for directory, why in (
        (str(tmp_path / "nowhere"), "does not exist"),
        (str(file), "is not a directory"),
        (str(frozen), "read-only file system"),
    ):
        message = modules.refused("vm_snapshot", vm, name="s1", directory=directory)
        assert why in message and os.path.basename(directory) in message and "victim" in message
    message = modules.refused("vm_snapshot", vm, name="s1", directory="relative/dir")
    assert "'relative/dir'. Wanted: an absolute path" in message
    message = modules.refused(
        "vm_snapshot", vm, name="s1", disks=[{"target": "vda", "file": str(file)}]
    )
    assert f"{file} exists already" in message
    same = [{"target": t, "file": str(tmp_path / "one.qcow2")} for t in ("vda", "vdb")]
    assert "same overlay file" in modules.refused("vm_snapshot", vm, name="s1", disks=same)
    standing = folder(vm) / "victim.vda.s9.qcow2"
    standing.write_bytes(b"somebody's data")
    assert str(standing) in modules.refused("vm_snapshot", vm, name="s9")
    assert standing.read_bytes() == b"somebody's data"
    standing.unlink()


@needs_root
def test_a_full_directory(bad, tmp_path):
    modules, vm = bad
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "vmkeep-full", str(full)], check=True)
    try:
        message = modules.refused("vm_snapshot", vm, name="s1", directory=str(full))
        assert str(full) in message and "bytes free" in message
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_bases_and_tops(bad):
    """tp-libvirt 22."""
    modules, vm = bad
    base = sources(vm)["vda"]
    other = sources(vm)["vdb"]
    for options, words in (
        ({"base": other, "disks": ["vda"]}, ("not in the chain of disk vda", other)),
        ({"base": base, "top": base}, ("the same image", base)),
        ({"base": "x.qcow2"}, ("absolute path", "x.qcow2")),
        ({"base": base, "max_depth": 2}, ("both given",)),
        ({"max_depth": 0}, ("max_depth is 0", "at least 1")),
        ({"bandwidth": -1}, ("bandwidth is -1",)),
    ):
        message = modules.refused("vm_blockcommit", vm, **options)
        assert all(word in message for word in words), message


def test_a_top_below_its_base(make_vm, modules):
    vm = make_vm("turned", disks=[Disk(layers=3)], running=False)
    top, middle, base = chain(vm.source("vda"))
    message = modules.refused("vm_blockcommit", vm, top=base, base=middle)
    assert "is not above base" in message and top in message


def test_times(bad):
    modules, vm = bad
    for option, value in (("timeout", 0), ("lock_timeout", -1), ("freeze_timeout", 0)):
        message = modules.refused("vm_snapshot", vm, name="s1", **{option: value})
        assert option in message and str(value) in message


def test_memory_and_modes_that_do_not_go_together(bad, make_vm, modules):
    """tp-libvirt 16, options that exclude each other."""
    mine, vm = bad
    for options, word in (
        ({"memory": True, "quiesce": "required"}, "frozen"),
        ({"mode": "internal", "memory": False}, "always includes its memory"),
        ({"mode": "internal", "quiesce": "required"}, "cannot be quiesced"),
        ({"mode": "internal", "disks": ["vda"]}, "cannot leave out vdb"),
    ):
        assert word in mine.refused("vm_snapshot", vm, name="s1", **options)
    off = make_vm("rawoff", disks=[Disk(), Disk(format="raw")], running=False)
    assert "no memory" in modules.refused("vm_snapshot", off, name="s1", memory=True)
    message = modules.refused("vm_snapshot", off, name="s1", mode="internal")
    assert "vdb" in message and "raw" in message and "mode: external" in message


def test_daemons_that_cannot_be_reached_and_other_hosts(bad, tmp_path):
    modules, vm = bad
    for uri, words in (
        (f"qemu:///session?socket={tmp_path}/none", ("cannot be reached", "start the daemon")),
        ("qemu+ssh://root@kvm7/system", ("another host, kvm7", "delegate_to")),
        ("test:///default", ("not one of libvirt's QEMU driver",)),
        ("nonsense", ("nonsense",)),
    ):
        result = run_module("vm_snapshot", {**modules.params(vm, name="s1"), "uri": uri})
        assert result["failed"] and all(word in result["msg"] for word in words), result["msg"]


def test_a_target_without_the_binding(bad, tmp_path):
    modules, vm = bad
    (tmp_path / "libvirt.py").write_text("raise ImportError('hidden for this test')\n")
    env = {"PYTHONPATH": f"{tmp_path}:{COLLECTIONS}"}
    result = run_module("vm_snapshot", modules.params(vm, name="s1"), env=env)
    assert result["failed"] and "has no libvirt binding" in result["msg"]
    assert "python3-libvirt" in result["msg"]


def test_a_state_directory_that_cannot_be_used(bad, tmp_path):
    modules, vm = bad
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    params = modules.params(vm, name="s1", state_dir=str(blocked / "state"))
    before = world(vm)
    result = run_module("vm_snapshot", params)
    assert result["failed"] and str(blocked) in result["msg"] and "state_dir" in result["msg"]
    assert world(vm) == before


def test_a_journal_that_nobody_understands_stops_the_run(bad):
    modules, vm = bad
    journal = modules.state_dir / "journal" / f"{vm.domain.UUIDString()}.json"
    journal.parent.mkdir(parents=True, exist_ok=True)
    for content in ("", "{}", '{"format": 99}', "[1, 2]", "\x00"):
        journal.write_text(content)
        assert str(journal) in modules.refused("vm_snapshot", vm, name="s1")
    journal.unlink()


def test_an_offline_vm_with_saved_memory(make_vm, modules):
    vm = make_vm("saved", disks=1)
    take(modules, vm, "s1")
    vm.domain.managedSave(0)
    for module, options in (("vm_blockcommit", {}), ("vm_snapshot", {"name": "s2"})):
        message = modules.refused(module, vm, **options)
        assert "managed save" in message and "saved" in message
