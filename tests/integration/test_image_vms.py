# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_snapshot and qcow2_overlay on images of real guests: running ones, and some off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from image_story import Images, content, needs_root, qemu_img, tags, write
from images import corpus
from images.storage import StorageDaemon
from lab import VM, Disk, Lab
from lab.modules import COLLECTIONS, RUNNER
from story import folder

MakeVm = Callable[..., VM]


@pytest.fixture
def images(lab_session: Lab, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """The modules for images on a host whose libvirt is that of the lab."""
    return Images(tmp_path_factory.mktemp("images"), lab_session.directory / "c")


def disk(vm: VM) -> Path:
    return Path(vm.source("vda"))


# --- in use ---


@pytest.mark.parametrize("paused", [False, True])
def test_images_of_a_running_vm_are_refused(
    images: Images, make_vm: MakeVm, tmp_path: Path, paused: bool
) -> None:
    vm = make_vm("busy", disks=[Disk(layers=2)])
    overlay, base = disk(vm), Path(f"{folder(vm)}/vda.base0.qcow2")
    other = tmp_path / "other.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", other, "64M")
    link, sibling = tmp_path / "link", base.with_name("sibling.qcow2")
    link.symlink_to(overlay)
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", sibling)
    if paused:
        vm.domain.suspend()
    for path, module, options in (
        (overlay, "qcow2_snapshot", {"name": "s1"}),
        (link, "qcow2_snapshot", {"name": "s1"}),
        (base, "qcow2_snapshot", {"name": "s1"}),
        (overlay, "qcow2_overlay", {"state": "committed"}),
        (overlay, "qcow2_overlay", {"state": "absent"}),
        (overlay, "qcow2_overlay", {"base": other, "rebase": True}),
        (sibling, "qcow2_overlay", {"state": "committed"}),
    ):
        roots = [str(folder(vm)), str(tmp_path)]
        result = images.attempt(module, path, check=True, allowed_roots=roots, **options)
        real = images.attempt(module, path, lock_timeout=0, allowed_roots=roots, **options)
        for answer in (result, real):
            assert answer["failed"] and not answer["changed"], (path, answer)
            assert "is in use by process" in answer["msg"] and "VM busy" in answer["msg"]
            assert str(vm.qemu_pid()) in answer["msg"]
    roots = [str(folder(vm)), str(tmp_path)]
    message = images.refused("qcow2_overlay", tmp_path / "new", base=overlay, allowed_roots=roots)
    assert "is written to by process" in message and "VM busy" in message
    if paused:
        vm.domain.resume()
    vm.write("/mnt/vda/after", b"still alive")
    assert vm.read("/mnt/vda/after") == b"still alive"


def test_a_clone_beside_a_running_one(images: Images, make_vm: MakeVm) -> None:
    """A base that VMs only read is free for more overlays."""
    vm = make_vm("busy", disks=[Disk(layers=2)])
    base = f"{folder(vm)}/vda.base0.qcow2"
    path = folder(vm) / "clone.qcow2"
    images.change("qcow2_overlay", path, base=base)
    images.change("qcow2_overlay", path, state="absent")


def test_what_is_as_wanted_needs_no_vm_to_be_off(images: Images, make_vm: MakeVm) -> None:
    vm = make_vm("busy", disks=1, running=False)
    path = disk(vm)
    images.change("qcow2_snapshot", path, name="s1")
    vm.start()
    assert not images.run("qcow2_snapshot", path, name="s1")["changed"]
    assert not images.run("qcow2_snapshot", path, name="s2", state="absent")["changed"]
    # Whether anything was written since cannot be told while somebody may write.
    message = images.refused("qcow2_snapshot", path, name="s1", state="applied")
    assert "is in use by process" in message


def test_other_programs_of_qemu(images: Images, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    corpus.created()(path)
    with StorageDaemon(path):
        assert "qemu-storage" in images.refused("qcow2_snapshot", path, name="s1")
    socket = f"{tmp_path}/socket"
    with subprocess.Popen(["qemu-nbd", "-r", "-t", "-k", socket, "-f", "qcow2", path]) as reader:
        while not os.path.exists(socket):
            assert reader.poll() is None
        assert "qemu-nbd" in images.refused("qcow2_snapshot", path, name="s1")
        images.change("qcow2_overlay", tmp_path / "overlay", base=path)
        reader.terminate()
    (tmp_path / "overlay").unlink()
    images.change("qcow2_snapshot", path, name="s1")


def test_a_lock_that_is_held_while_a_file_is_removed(images: Images, tmp_path: Path) -> None:
    """From the comparison to its end no VM can open the overlay for writing."""
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    corpus.created()(base)
    corpus.on("%s/base", "qcow2")(overlay)
    write(overlay, "-P 3 0 1M")
    script = tmp_path / "bin" / "qemu-img"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = compare ] && qemu-io -c "write -P 9 0 64k" {overlay} 2>{tmp_path}/said\n'
        'exec /usr/bin/qemu-img "$@"\n'
    )
    script.chmod(0o755)
    wanted = content(overlay)
    env = {"PATH": f"{script.parent}:{os.environ['PATH']}"}
    images.run("qcow2_overlay", overlay, state="committed", env=env)
    assert 'Failed to get "write" lock' in (tmp_path / "said").read_text()
    assert content(base) == wanted


# --- off ---


def test_a_guest_goes_back(images: Images, make_vm: MakeVm) -> None:
    """The seed's procedure for a VM that is off, seen from within the guest."""
    vm = make_vm("guest", disks=1)
    vm.write("/mnt/vda/old", b"old" * 1000)
    vm.shutdown()
    path = Path(vm.source("vda", inactive=True))
    result = images.change("qcow2_snapshot", path, name="before-upgrade")
    assert "disk vda of VM guest" in result["notes"][0]
    vm.start()
    vm.write("/mnt/vda/old", b"new" * 1000)
    vm.write("/mnt/vda/more", b"more")
    vm.destroy()
    params = {"name": "before-upgrade", "state": "applied"}
    images.change("qcow2_snapshot", path, keep_current="failed", **params)
    vm.start()
    assert vm.read("/mnt/vda/old") == b"old" * 1000
    assert vm.run("ls /mnt/vda/more 2>&1 || true").endswith("No such file or directory\n")
    vm.shutdown()
    images.change("qcow2_snapshot", path, name="failed", state="applied")
    vm.start()
    assert vm.read("/mnt/vda/more") == b"more" and vm.read("/mnt/vda/old") == b"new" * 1000


def test_a_guest_on_a_clone(images: Images, make_vm: MakeVm, tmp_path: Path) -> None:
    """Made, booted, put on another base, merged: the guest finds its files each time."""
    donor = make_vm("donor", disks=1)
    donor.write("/mnt/vda/template", b"template")
    donor.shutdown()
    base, second, clone = tmp_path / "base.qcow2", tmp_path / "second.qcow2", tmp_path / "clone"
    shutil.copyfile(donor.source("vda", inactive=True), base)
    shutil.copyfile(base, second)
    write(second, "-P 77 40M 4M")
    images.change("qcow2_overlay", clone, base=base)
    vm = make_vm("clone", disks=[Disk(path=str(clone), content="keep")])
    vm.write("/mnt/vda/own", b"own" * 5000)
    vm.shutdown()
    images.change("qcow2_overlay", clone, base=second, rebase=True)
    base.unlink()
    vm.start()
    assert vm.read("/mnt/vda/own") == b"own" * 5000 and vm.read("/mnt/vda/template") == b"template"
    vm.shutdown()
    message = images.refused("qcow2_overlay", clone, state="committed")
    assert f"'{clone}' is disk vda of VM clone" in message
    assert f"vm_blockcommit (with 'disks' and 'base: {second}')" in message
    assert "disk vda of VM clone" in images.refused("qcow2_overlay", clone, state="absent")
    wanted = content(clone)
    vm.domain.undefine()
    images.change("qcow2_overlay", clone, state="committed")
    assert content(second) == wanted
    merged = make_vm("merged", disks=[Disk(path=str(second), content="keep")])
    assert merged.read("/mnt/vda/own") == b"own" * 5000


def test_vms_that_stand_on_an_image_elsewhere(
    images: Images, make_vm: MakeVm, tmp_path: Path
) -> None:
    template = make_vm("template", disks=1, running=False)
    base = disk(template)
    vm = make_vm("thin", disks=[Disk(backing=str(base))], running=False)
    assert folder(vm) != base.parent
    message = images.refused("qcow2_snapshot", base, name="s1")
    assert "needed as it is by" in message and "disk vda of VM thin" in message
    vm.domain.undefine()
    images.change("qcow2_snapshot", base, name="s1")
    images.change("qcow2_snapshot", base, name="s1", state="absent")
    overlay = tmp_path / "overlay"
    roots = [str(tmp_path), str(base.parent), str(folder(vm))]
    result = images.run("qcow2_overlay", overlay, base=base, allowed_roots=roots)
    assert "now stands on, is disk vda of VM template" in result["notes"][0]
    message = images.refused("qcow2_overlay", overlay, state="committed", allowed_roots=roots)
    assert f"'{base}' is needed as it is by disk vda of VM template" in message


def test_memory_that_was_saved(images: Images, make_vm: MakeVm) -> None:
    vm = make_vm("saved", disks=1, running=False)
    path = disk(vm)
    images.change("qcow2_snapshot", path, name="s1")
    vm.start()
    vm.write("/mnt/vda/file", b"x")
    vm.domain.managedSave(0)
    message = images.refused("qcow2_snapshot", path, name="s1", state="applied")
    assert "whose memory is saved" in message and "managedsave-remove" in message
    images.change("qcow2_snapshot", path, name="s2")
    vm.domain.managedSaveRemove(0)
    images.change("qcow2_snapshot", path, name="s1", state="applied")


def test_snapshots_that_libvirt_has_recorded(images: Images, make_vm: MakeVm) -> None:
    vm = make_vm("recorded", disks=1, running=False)
    path = disk(vm)
    vm.domain.snapshotCreateXML("<domainsnapshot><name>inner</name></domainsnapshot>", 0)
    assert tags(path) == {"1": "inner"}
    message = images.refused("qcow2_snapshot", path, name="inner", state="absent")
    assert "is recorded for disk vda of VM recorded" in message and "vm_snapshot" in message
    write(path, "-P 1 63M 64k")
    images.change("qcow2_snapshot", path, name="inner", state="applied")

    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    vm.domain.snapshotCreateXML("<domainsnapshot><name>outer</name></domainsnapshot>", flags)
    overlay = vm.source("vda", inactive=True)
    assert overlay != str(path)
    message = images.refused("qcow2_snapshot", path, name="s1")
    assert "snapshot outer of VM recorded" in message


def test_a_checkpoint_whose_vm_was_renamed(images: Images, make_vm: MakeVm) -> None:
    """libvirt 9.0 moves the record of a checkpoint to those of snapshots, and leaves it there."""
    vm = make_vm("renamed", disks=1)
    path = disk(vm)
    vm.domain.checkpointCreateXML("<domaincheckpoint><name>c1</name></domaincheckpoint>", 0)
    vm.destroy()
    vm.domain.rename("other")
    vm.domain.rename("renamed")
    images.change("qcow2_snapshot", path, name="s1")


@needs_root
def test_an_ordinary_user(lab_session: Lab) -> None:
    """Works on what belongs to him, and says where he cannot see VMs that are off."""
    nobody = 65534
    with tempfile.TemporaryDirectory(prefix="vmkeep-") as place:
        os.chown(place, nobody, nobody)
        path, base = f"{place}/disk.qcow2", f"{place}/base.qcow2"
        for made in (path, base):
            qemu_img("create", "-q", "-f", "qcow2", made, "8M")
        os.chown(path, nobody, nobody)
        config = {"HOME": place, "XDG_CONFIG_HOME": str(lab_session.directory / "c")}
        answer = as_user(nobody, "qcow2_snapshot", {"path": [path], "name": "s1"}, config)
        assert answer["changed"] and tags(path) == {"1": "s1"}
        assert os.path.isdir(f"{place}/.local/state/vmkeep/images/lock")
        answer = as_user(nobody, "qcow2_snapshot", {"path": [base], "name": "s1"}, config)
        assert f"'{base}' cannot be written" in answer["msg"] and "become" in answer["msg"]
        options = {"path": [f"{place}/overlay"], "base": base, "owner": "root"}
        answer = as_user(nobody, "qcow2_overlay", options, config)
        assert "not permitted" in answer["msg"] and not os.path.exists(f"{place}/overlay")
        hidden = Path(place) / "c/libvirt/qemu"
        hidden.mkdir(parents=True, mode=0o700)
        config["XDG_CONFIG_HOME"] = f"{place}/c"
        options = {"path": [f"{place}/overlay"], "base": base}
        answer = as_user(nobody, "qcow2_overlay", options, config)
        assert answer["changed"] and os.stat(f"{place}/overlay").st_uid == nobody
        assert f"VMs defined in '{hidden}' are not looked at" in " ".join(answer["notes"])
        os.mkdir(f"{place}/closed", 0o700)
        options = {"path": [f"{place}/closed/disk.qcow2"], "state": "committed"}
        answer = as_user(nobody, "qcow2_overlay", options, config)
        assert "Permission denied" in answer["msg"] and "become" in answer["msg"]


def as_user(number: int, module: str, params: dict, env: dict[str, str]) -> dict:
    """Run a module as another user; its own files are readable for everybody."""
    line = ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups"]
    done = subprocess.run(
        [*line, sys.executable, str(RUNNER), module],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": params}).encode(),
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS), "TMPDIR": env["HOME"], **env},
        capture_output=True,
        check=False,
    )
    return json.loads(done.stdout.decode().splitlines()[-1])
