# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a definition says of devices with which less can be done."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import virtiofs
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import parse_domain
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.hardware import (
    has_flash,
    keeping_memory,
    shape,
)


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        ("<disk><target dev='vda'/></disk>", []),
        ("<disk><target dev='vda'/><transient/></disk>", ["transient disk vda"]),
        (
            "<disk><driver type='vmdk'/><source file='/a'/><target dev='sda'/><readonly/></disk>",
            ["disk sda in the format vmdk"],
        ),
        ("<disk device='cdrom'><driver type='vpc'/><target dev='sda'/></disk>", []),
        (
            "<disk><driver type='qcow2'/><source file='/a'/><target dev='vda'/><backingStore>"
            "<format type='vdi'/><source file='/b'/><backingStore/></backingStore></disk>",
            ["disk vda in the format vdi"],
        ),
        ("<shmem name='a'/><shmem name='b' role='master'/>", ["shared memory a"]),
        *(
            (
                f"<disk><driver type='{name}'/><source file='/a'/><target dev='vda'/></disk>",
                [f"disk vda in the format {name}"],
            )
            for name in ("qcow", "vhdx", "parallels")
        ),
        ("<disk><driver type='qed'/><source file='/a'/><target dev='vda'/></disk>", []),
        ("<hostdev mode='subsystem' type='usb'/>", []),
        ("<hostdev mode='subsystem' type='mdev'/>", ["host device of type mdev"]),
        ("<interface type='hostdev'/>", ["network device of type hostdev"]),
        ("<interface type='hostdev'><teaming type='transient'/></interface>", []),
        ("<interface type='network'/>", []),
    ],
)
def test_what_keeps_memory_from_being_written(devices: str, found: list[str]) -> None:
    root = ET.fromstring(f"<domain><devices>{devices}</devices></domain>")
    assert list(keeping_memory(root)) == found


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ("<cpu><feature policy='require' name='invtsc'/></cpu>", ["invtsc"]),
        ("<cpu><feature policy='disable' name='invtsc'/></cpu>", []),
        (
            "<cpu><feature policy='require' name='invtsc'/></cpu>"
            "<clock offset='utc'><timer name='tsc' frequency='3504000000'/></clock>",
            [],
        ),
    ],
)
def test_a_processor_that_keeps_memory_from_being_written(parts: str, found: list[str]) -> None:
    told = list(keeping_memory(ET.fromstring(f"<domain>{parts}</domain>")))
    assert len(told) == len(found) and all(word in text for word, text in zip(found, told))


@pytest.mark.parametrize(
    ("features", "bars"),
    [
        ('["migrate-precopy", "separate-options"]', ()),
        ("[]", ("virtiofs for docs", "virtiofs for media")),
        ("7", ("virtiofs for docs", "virtiofs for media")),
    ],
)
def test_folders_by_virtiofs(
    features: str, bars: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = f'{{"type": "fs", "binary": "/usr/libexec/virtiofsd", "features": {features}}}'
    (tmp_path / "50-virtiofsd.json").write_text(description)
    (tmp_path / "60-torn.json").write_text('{"type"')
    monkeypatch.setattr(virtiofs, "_DESCRIPTIONS", (f"{tmp_path}/*.json",))
    kinds = (("virtiofs", "docs"), ("virtiofs", "media"), ("path", "other"))
    folders = "".join(
        f"<filesystem><driver type='{kind}'/><target dir='{name}'/></filesystem>"
        for kind, name in kinds
    )
    live = parse_domain(f"<domain><name>a</name><devices>{folders}</devices></domain>")
    assert virtiofs.without_idle_bars(live).bars == bars


@pytest.mark.parametrize(
    ("system", "flash"),
    [
        ("<loader>/usr/share/seabios.bin</loader>", False),
        ("<loader type='pflash'>/CODE.fd</loader><nvram>/VARS.fd</nvram>", True),
        ("<loader type='pflash'>/CODE.fd</loader><nvram format='qcow2'>/VARS</nvram>", False),
        ("<loader type='pflash' stateless='yes'>/CODE.fd</loader>", False),
    ],
)
def test_firmware_with_raw_variables(system: str, flash: bool) -> None:
    assert has_flash(ET.fromstring(f"<domain><os>{system}</os></domain>")) is flash
    assert has_flash(ET.fromstring("<domain><os firmware='efi'/></domain>"))


DISK = """
  <disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
    <source file='/a'/><target dev='vda' bus='virtio'/></disk>"""
DEVICES = f"<devices>{DISK}<controller/><interface><mac/></interface></devices>"
THEN = f"""<domain><name>a</name><title>t</title><metadata><x:note xmlns:x="y">n</x:note></metadata>
  <memory unit='KiB'>1</memory><vcpu>1</vcpu>{DEVICES}</domain>"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("<name>a", "<name>b", True),
        ("type='raw'", "type='qcow2'", True),
        ("<source file='/a'/>", "<source dev='/dev/b'/><backingStore/>", True),
        ("disk type='file'", "disk type='block'", True),
        ("<target", "<alias name='disk0'/><target tray='open'", True),
        ("<controller/>", "<controller/><controller index='1'/>", True),
        ("<mac/>", "<mac/><address type='pci'/><alias name='net0'/>", True),
        ("<domain>", "<domain id='3'>\n", True),
        ("<title>t", "<title>u", False),
        (">n</x:note>", ">m</x:note>", False),
        ("<vcpu>", "<description>d</description><vcpu>", False),
        ("cache='none'", "cache='none' discard='unmap'", False),
        ("<target", "<serial>s</serial><target", False),
        (DISK, "", False),
        (">1</memory>", ">2</memory>", False),
        ("<vcpu>", "<vcpu current='1'>", False),
        ("<mac/>", "<mac address='x'/>", False),
        ("<interface><mac/></interface>", "", False),
        ("<devices>", "<cpu/><devices>", False),
    ],
)
def test_two_definitions_have_one_shape_but_for_images_and_names(
    old: str, new: str, same: bool
) -> None:
    other = ET.fromstring(THEN.replace(old, new))
    assert (shape(ET.fromstring(THEN)) == shape(other)) is same
