# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a real emulated TPM, by swtpm, is kept with a VM and comes back with it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from backup_story import Repository, paused
from lab import VM, Disk, Lab
from lab.vm import wait_until
from story import Modules

STATE = "tpm2-00.permall"
DEVICE = "<tpm model='tpm-tis'><backend type='emulator' version='{}'>{}</backend></tpm>"
KEY = "0d5a3d9c-9f0e-4a51-8f6c-1c2d3e4f5a6b"
KEY_XML = f"<secret><uuid>{KEY}</uuid><usage type='vtpm'><name>lab</name></usage></secret>"


@pytest.fixture(autouse=True)
def config(lab_session, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the daemon of the lab keeps what belongs to a user, as its user would have it."""
    path = lab_session.directory / "c"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(path))
    return path


@pytest.fixture
def vm(make_vm: Callable[..., VM]) -> VM:
    """It is off, and has a TPM that was never used.

    The guest of the lab does not get on with it (the ACPI tables of its firmware), nor is it asked:
    libvirt makes the state before it starts QEMU.
    """
    vm = make_vm("db01", disks=[Disk(size=16)], running=False)
    define_with_tpm(vm, "2.0")
    return vm


def define_with_tpm(vm: VM, version: str, encryption: str = "") -> None:
    """In place of the one that it has."""
    xml = re.sub(
        "<tpm .*</tpm>", "", vm.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), flags=re.S
    )
    device = DEVICE.format(version, encryption)
    vm.lab.connection.defineXML(xml.replace("</devices>", f"{device}</devices>"))


@pytest.fixture
def repository(modules: Modules, tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backup", modules)


def state(config: Path, uuid: str, version: str = "2.0") -> Path:
    folder, name = ("tpm2", STATE) if version == "2.0" else ("tpm1.2", "tpm-00.permall")
    return config / "libvirt" / "qemu" / "swtpm" / uuid / folder / name


def wait_at_rest(path: Path) -> None:
    """Return when the firmware seems to have done with the TPM."""
    wait_until(lambda: time.time() - path.stat().st_mtime > 2, 60, "the TPM is at rest")


def kept(repository: Repository, vm: VM, id: str) -> bytes:
    """The state in a restore point."""
    files = {file["name"]: file["role"] for file in repository.manifest(vm, id)["files"]}
    assert files[f"tpm.{STATE}"] == "tpm"
    repository.check(vm, id)
    return (repository.folder(vm) / id / f"tpm.{STATE}").read_bytes()


def test_kept_while_running_and_put_back(vm, repository, modules, config) -> None:
    vm.domain.create()
    path = state(config, vm.uuid)
    wait_at_rest(path)
    with paused(vm):  # the firmware of a slow machine may not have done yet
        before = path.read_bytes()
        id = repository.back_up(vm, quiesce="never")["id"]
    assert kept(repository, vm, id) == before

    vm.destroy()
    path.unlink()
    vm.domain.create()
    vm.destroy()
    assert path.read_bytes() != before, "another TPM, with other keys"
    modules.change("vm_restore", vm, repository=str(repository.path), point=id)
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o077 == 0
    vm.domain.create()


@pytest.mark.parametrize("form", ["2.0", "1.2", "encrypted"])
def test_another_vm_gets_a_copy(
    vm, repository, modules, config, lab_session, tmp_path, form: str
) -> None:
    version = "2.0" if form == "encrypted" else form
    if form != "2.0":
        define_with_tpm(vm, version, secret(lab_session) if form == "encrypted" else "")
    vm.domain.create()
    vm.destroy()
    before = state(config, vm.uuid, version).read_bytes()
    made = modules.run("vm_backup", vm, **repository.params())
    assert [KEY in note for note in made["notes"]] == [True] * (form == "encrypted")
    [id] = repository.ids(vm)
    place = tmp_path / "place"
    place.mkdir()
    how = {"as": "copy", "directory": str(place)}
    modules.change("vm_restore", vm, repository=str(repository.path), point=id, **how)
    copy = lab_session.connection.lookupByName("copy")
    try:
        assert copy.UUIDString() != vm.uuid
        assert state(config, copy.UUIDString(), version).read_bytes() == before
        assert state(config, vm.uuid, version).read_bytes() == before
        copy.create()
        copy.destroy()
    finally:
        copy.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


def secret(lab: Lab) -> str:
    """What lets a TPM encrypt its state."""
    try:
        made = lab.connection.secretDefineXML(KEY_XML)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        pytest.skip("SKIPPED LOUDLY: libvirt's driver of secrets is not installed")
    made.setValue(b"open sesame", 0)
    return f"<encryption secret='{KEY}'/>"


def test_it_is_not_left_out_silently(vm, repository, modules, monkeypatch, tmp_path) -> None:
    """Where it is not found it is refused for a VM that has one, and told of one that may."""
    result = modules.run("vm_backup", vm, **repository.params())
    assert "is not in" in result["notes"][0] and "never started" in result["notes"][0]
    vm.domain.create()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    before = repository.ids(vm)
    for check in (True, False):
        params = repository.params(type="full")
        result = modules.attempt("vm_backup", vm, check=check, **params)
        assert result["failed"] and f"is not in {tmp_path}/libvirt/qemu/swtpm" in result["msg"]
        assert "XDG_CONFIG_HOME" in result["msg"]
    assert repository.ids(vm) == before and not vm.domain.listAllCheckpoints()
