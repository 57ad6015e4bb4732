# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Thin clones on real guests: the template below a VM's own disk is not written."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from lab import Disk
from story import chain, folder, sources
from test_snapshot_absent import assert_kept, overlay, take


def virsh(modules, *words):
    subprocess.run(["virsh", "-c", modules.lab.uri, *words], check=True, capture_output=True)


class Template:
    """A cloud image, as it was made."""

    def __init__(self, donor, path: Path) -> None:
        self.path = str(path)
        convert = ["qemu-img", "convert", "-O", "qcow2", donor.disks["vda"].path, self.path]
        subprocess.run(convert, check=True)
        self._digest = self._read()

    def _read(self) -> str:
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()

    def assert_untouched(self) -> None:
        assert self._read() == self._digest


@pytest.fixture
def template(make_vm, tmp_path):
    return Template(make_vm("donor", disks=1, running=False), tmp_path / "cloud.qcow2")


def test_a_running_clone(make_vm, modules, template):
    clone = make_vm("clone", disks=[Disk(backing=template.path), Disk()])
    own = sources(clone)
    assert modules.info(clone)["disagreements"] == []
    none = modules.run("vm_blockcommit", clone)
    assert not none["changed"] and f"{own['vda']} is the VM's own disk vda" in none["notes"][0]

    # an overlay of another name: it may as well be the VM's own disk on a template
    odd = str(folder(clone) / "odd.img")
    spec = ("--diskspec", f"vda,file={odd}", "--diskspec", "vdb,snapshot=no")
    virsh(modules, "snapshot-create-as", "clone", "odd", "--disk-only", "--no-metadata", *spec)
    message = modules.refused("vm_blockcommit", clone)
    assert f"'base: {own['vda']}'" in message and f"'base: {odd}'" in message
    keeping = modules.run("vm_blockcommit", clone, needed="keep")
    assert not keeping["changed"] and odd in keeping["notes"][0]
    modules.change("vm_blockcommit", clone, disks=["vda"], base=own["vda"])
    assert sources(clone) == own

    take(modules, clone, "s1", "s2", "s3")
    result = modules.change("vm_blockcommit", clone, max_depth=2)
    assert result["vms"]["clone"]["disks"]["vda"]["depth"] == 2
    assert chain(sources(clone)["vda"]) == [overlay(clone, "vda", "s3"), own["vda"], template.path]
    modules.change("vm_blockcommit", clone)
    assert chain(sources(clone)["vda"]) == [own["vda"], template.path]
    template.assert_untouched()
    assert_kept(clone, "s1", "s2", "s3")


def test_a_clone_after_changes_by_hand(make_vm, modules, template):
    clone = make_vm("clone", disks=[Disk(backing=template.path), Disk()])
    own = sources(clone)
    # virsh takes the record away: libvirt's definition still tells what the disk was before
    take(modules, clone, "s4")
    virsh(modules, "snapshot-delete", "clone", "s4", "--metadata")
    kinds = [(entry["kind"], entry["file"]) for entry in modules.info(clone)["disagreements"]]
    wanted = [("overlay_without_snapshot", overlay(clone, disk, "s4")) for disk in ("vda", "vdb")]
    assert kinds == wanted
    modules.change("vm_blockcommit", clone)
    assert sources(clone) == own

    # the own disk is pulled into the overlay by hand, which then is the own disk
    take(modules, clone, "s5")
    pull = ("--base", template.path, "--wait")
    virsh(modules, "blockpull", "clone", "vda", *pull)
    result = modules.change("vm_snapshot", clone, name="s5", state="absent")
    assert "stays in use by vda" in result["notes"][0]
    assert chain(sources(clone)["vda"]) == [overlay(clone, "vda", "s5"), template.path]
    assert sources(clone)["vdb"] == own["vdb"]
    template.assert_untouched()
    assert_kept(clone, "s4", "s5")

    # what is named is written, once nothing else stands on it
    message = modules.refused("vm_blockcommit", clone, disks=["vda"], base=template.path)
    assert f"remove {own['vda']} if nobody needs it (qcow2_overlay" in message
    Path(own["vda"]).unlink()
    modules.change("vm_blockcommit", clone, disks=["vda"], base=template.path)
    assert chain(sources(clone)["vda"]) == [template.path]
    assert_kept(clone, "s4", "s5")


def test_a_pull_to_a_depth_leaves_the_template(make_vm, modules, template):
    clone = make_vm("clone", disks=[Disk(backing=template.path), Disk()])
    own = sources(clone)
    assert not modules.run("vm_blockpull", clone, max_depth=1)["changed"]
    take(modules, clone, "s1", "s2", "s3")
    modules.change("vm_blockpull", clone, max_depth=2)
    assert chain(sources(clone)["vda"]) == [overlay(clone, "vda", "s3"), own["vda"], template.path]
    assert chain(sources(clone)["vdb"]) == [overlay(clone, "vdb", "s3"), own["vdb"]]
    modules.change("vm_blockpull", clone, max_depth=1)
    assert chain(sources(clone)["vda"]) == [overlay(clone, "vda", "s3"), template.path]
    assert chain(sources(clone)["vdb"]) == [overlay(clone, "vdb", "s3")]
    template.assert_untouched()
    modules.change("vm_blockpull", clone)
    assert chain(sources(clone)["vda"]) == [overlay(clone, "vda", "s3")]
    assert_kept(clone, "s1", "s2", "s3")


def test_a_clone_that_is_off(make_vm, modules, template):
    clone = make_vm("clone", disks=[Disk(backing=template.path)], running=False)
    own = sources(clone, inactive=True)
    assert not modules.run("vm_blockcommit", clone)["changed"]
    take(modules, clone, "s1", "s2")
    message = modules.refused("vm_blockcommit", clone, top=own["vda"])
    assert "is not above the own disk" in message and "'base'" in message
    modules.change("vm_blockcommit", clone, top=overlay(clone, "vda", "s1"))
    modules.run("vm_snapshot", clone, name="s2", state="reverted")
    modules.change("vm_snapshot", clone, name="s2", state="absent")
    assert sources(clone, inactive=True) == own
    take(modules, clone, "s3")
    modules.run("vm_snapshot", clone, name="s3", state="reverted")
    modules.run("vm_snapshot", clone, name="s3", state="absent", metadata_only=True)
    active = sources(clone, inactive=True)["vda"]
    message = modules.refused("vm_blockcommit", clone)
    assert f"'base: {own['vda']}'" in message and f"'base: {active}'" in message
    modules.change("vm_blockcommit", clone, disks=["vda"], base=own["vda"])
    assert sources(clone, inactive=True) == own
    template.assert_untouched()
