# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every form of NVRAM and of the state of a TPM is kept, or refused by name."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import parse_domain
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.firmware import (
    nvram_file,
    set_nvram,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    NotFound,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.backup import (
    BackupWish,
    plan_backup,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.revert import (
    RevertWish,
    plan_reverted,
)
from builders import stacked, vm
from test_plan_backup import observed, tracked

VARS = "/var/lib/libvirt/qemu/nvram/db01_VARS.fd"
QCOW2 = VARS.replace(".fd", ".qcow2")
LOADER = "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>"


def definition(system: str = "", devices: str = "", firmware: str = ""):
    auto = f" firmware='{firmware}'" if firmware else ""
    text = f"<domain type='kvm'><name>db01</name><uuid>u</uuid><os{auto}>{system}</os>"
    return parse_domain(f"{text}<devices>{devices}</devices></domain>")


@pytest.mark.parametrize(
    ("system", "path"),
    [
        (f"{LOADER}<nvram>{VARS}</nvram>", VARS),
        (f"<nvram>\n  {VARS}\n</nvram>", VARS),
        (f"<nvram template='/usr/share/OVMF/OVMF_VARS.fd'>{VARS}</nvram>", VARS),
        (f"<nvram type='file'><source file='{VARS}'/></nvram>", VARS),
        (f"<nvram template='/t' type='file'>\n<source file='{VARS}'/>\n</nvram>", VARS),
        (f"<nvram template='/t' templateFormat='raw' format='qcow2'>{QCOW2}</nvram>", QCOW2),
        (f"<nvram type='file' format='qcow2'><source file='{QCOW2}'/></nvram>", QCOW2),
        ("<nvram template='/usr/share/OVMF/OVMF_VARS.fd'/>", ""),
        (LOADER, ""),
        ("", ""),
    ],
)
def test_the_file_is_found_in_every_form(system: str, path: str) -> None:
    found = definition(system)
    assert found.nvram == path and not found.unkept
    root = ET.fromstring(f"<domain><os>{system}</os></domain>")
    set_nvram(root, "/new/VARS.fd")
    assert nvram_file(root) == "/new/VARS.fd" and len(root.findall("os/nvram")) == 1


@pytest.mark.parametrize(
    ("system", "firmware", "unnamed"),
    [
        ("", "efi", True),
        ("<nvram template='/usr/share/OVMF/OVMF_VARS.fd'/>", "", True),
        (f"<nvram>{VARS}</nvram>", "efi", False),
        ("<loader stateless='yes'/>", "efi", False),
        ("", "bios", False),
        ("<nvram type='block'><source dev='/dev/vg/nvram'/></nvram>", "efi", False),
    ],
)
def test_where_libvirt_decides(system: str, firmware: str, unnamed: bool) -> None:
    assert definition(system, firmware=firmware).nvram_unnamed is unnamed


ISCSI = "<nvram type='network'><source protocol='iscsi' name='iqn.x'/></nvram>"

UNKEPT = [
    ("<nvram type='block'><source dev='/dev/vg/nvram'/></nvram>", "", "nvram", "/dev/vg/nvram"),
    (ISCSI, "", "nvram", "type network .*iqn.x"),
    ("<nvram type='volume'><source pool='p' volume='v'/></nvram>", "", "nvram", "pool=p"),
    ("<varstore template='/t.json' path='/v.json'/>", "", "nvram", "varstore .*/v.json"),
    ("<loader type='pflash' readonly='no'>/l.fd</loader>", "", "nvram", "/l.fd"),
    ("<loader type='pflash'>/l.fd</loader>", "", "nvram", "written to itself .*/l.fd"),
    ("", "<backend type='passthrough'><device path='/dev/tpm0'/></backend>", "tpm", "/dev/tpm0"),
    ("", "<backend type='external'><source path='/run/s'/></backend>", "tpm", "external .*/run/s"),
    ("", "<backend type='emulator'><source type='file' path='/s'/></backend>", "tpm", "file .*/s"),
]


@pytest.mark.parametrize(("system", "backend", "kind", "words"), UNKEPT)
@pytest.mark.parametrize("status", ["running", "shutoff"])
def test_what_cannot_be_kept_is_refused_by_name(
    system: str, backend: str, kind: str, words: str, status: str
) -> None:
    found = definition(system, f"<tpm>{backend}</tpm>" if backend else "")
    assert not found.nvram and not found.tpm
    state = observed(state=vm(tracked(), status=status))
    state = replace(state, live=replace(state.live, unkept=found.unkept))
    with pytest.raises(Unsupported, match=words) as caught:
        plan_backup(BackupWish(), state)
    assert f"'without: [{kind}]'" in str(caught.value.todo)
    other = {"nvram": "tpm", "tpm": "nvram"}[kind]
    with pytest.raises(Unsupported):
        plan_backup(BackupWish(without=(other,)), state)
    [note] = plan_backup(BackupWish(without=(kind,)), state).notes
    assert "left out, as asked" in note


@pytest.mark.parametrize("kind", ["tpm", "nvram"])
def test_what_a_vm_that_runs_must_have(kind: str) -> None:
    for found in ((), ("/there",)) if kind == "tpm" else ("", "/there"):
        values = {f"{kind}_place": "/there", kind: found}
        running = observed(**values)
        off = observed(state=vm(tracked(), status="shutoff"), **values)
        if found:
            assert plan_backup(BackupWish(), running).notes == ()
            assert plan_backup(BackupWish(), off).notes == ()
            continue
        with pytest.raises(NotFound, match=r"is not (in|at) /there"):
            plan_backup(BackupWish(), running)
        for plan in (
            plan_backup(BackupWish(), off),
            plan_backup(BackupWish(without=(kind,)), running),
        ):
            assert "never started has none" in plan.notes[0]


@pytest.mark.parametrize(
    ("backend", "folder"),
    [
        ("<backend type='emulator'/>", "tpm2"),
        ("<backend type='emulator' version='2.0' persistent_state='yes'/>", "tpm2"),
        ("<backend type='emulator' version='1.2'/>", "tpm1.2"),
        ("<backend type='emulator'><source type='dir' path='/srv/tpm'/></backend>", "/srv/tpm"),
        ("<backend type='emulator'><source path='/srv/tpm'/></backend>", "/srv/tpm"),
    ],
)
def test_the_folder_of_a_tpm(backend: str, folder: str) -> None:
    found = definition(devices=f"<tpm model='tpm-crb'>{backend}</tpm>")
    assert found.tpm == folder and found.unkept == ()


def test_a_key_without_which_the_state_of_a_tpm_is_worth_nothing() -> None:
    """The state is kept, and whoever keeps it is told what else it takes."""
    backend = "<backend type='emulator'><encryption secret='5ed83bcf'/></backend>"
    found = definition(devices=f"<tpm>{backend}</tpm>")
    state = observed(tpm=("/there/tpm2-00.permall",), tpm_place="/there")
    state = replace(state, live=replace(state.live, tpm=found.tpm, unkept=found.unkept))
    [note] = plan_backup(BackupWish(), state).notes
    assert "encrypted with the secret 5ed83bcf, which is not kept" in note


NVDIMM = "<memory model='nvdimm'><source><path>/srv/pmem</path></source></memory>"
LASTING = [
    (NVDIMM, "nvdimm whose content is in /srv/pmem"),
    (NVDIMM.replace("nvdimm", "virtio-pmem"), "virtio-pmem whose content is in /srv/pmem"),
    ("<pstore backend='acpi-erst'><path>/srv/erst</path></pstore>", "in /srv/erst"),
    ("<memory model='dimm'><target><size>1</size></target></memory>", ""),
]


@pytest.mark.parametrize(("devices", "words"), LASTING)
def test_memory_that_lasts_is_told_of(devices: str, words: str) -> None:
    """It is no disk, and nobody thinks of it before it is missed."""
    found = definition(devices=devices)
    state = observed()
    state = replace(state, live=replace(state.live, unkept=found.unkept))
    notes = plan_backup(BackupWish(), state).notes
    assert len(notes) == bool(words) and all(words in note for note in notes)
    assert all("which is not kept: keep it elsewhere" in note for note in notes)


@pytest.mark.parametrize(
    ("system", "devices", "words"),
    [
        ("", "", ()),
        (f"{LOADER}<nvram>{VARS}</nvram>", "", ("its NVRAM is",)),
        ("<nvram template='/t'/>", "", ("its NVRAM is",)),
        (ISCSI, "", ("its NVRAM is",)),
        ("", "<tpm><backend type='emulator'/></tpm>", ("the state of its TPM is",)),
        ("<loader stateless='yes' type='pflash'/>", "", ()),
        ("", NVDIMM, ("its memory that lasts is",)),
        (
            f"<nvram>{VARS}</nvram>",
            "<tpm><backend type='external'/></tpm>",
            ("its NVRAM and the state of its TPM is",),
        ),
    ],
)
def test_what_no_snapshot_of_disks_brings_back(
    system: str, devices: str, words: tuple[str, ...]
) -> None:
    """It is said of one that goes back, unless the memory of then comes with it."""
    for memory in ("no", "external"):
        state = stacked("s1", memory=memory)
        live = replace(definition(system, devices), disks=state.live.disks)
        notes = plan_reverted(RevertWish("s1"), replace(state, live=live)).notes
        found = [note for note in notes if "stays as it is now" in note]
        assert len(found) == (len(words) if memory == "no" else 0)
        assert all(word in found[0] for word in words if found)
