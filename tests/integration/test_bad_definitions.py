# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions that cannot be understood: what they name is left alone, all else goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_story import Images, qemu_img

TORN: dict[str, bytes] = {
    "torn": b"<domain type='kvm'><name>db01</name><devices><disk><source file='{}'/>",
    "binary": b'\xff\xfe<domain><disk><source file="{}"/></disk></domain>',
    "other": b"<pool><target dev='{}'/></pool>",
}


@pytest.mark.parametrize("where", ["qemu", "qemu/snapshot/app01"])
def test_what_they_name_is_left_alone(where: str, tmp_path: Path) -> None:
    images = Images(tmp_path, tmp_path / "config")
    folder = tmp_path / "config" / "libvirt" / where
    folder.mkdir(parents=True)
    if where != "qemu":
        known = b"<domain type='kvm'><name>app01</name><uuid>%s</uuid><devices/></domain>"
        uuid = b"4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
        (tmp_path / "config/libvirt/qemu/app01.xml").write_bytes(known % uuid)
    named, free = tmp_path / "named.qcow2", tmp_path / "free.qcow2"
    for path in (named, free):
        qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    definition = folder / "db01.xml"
    for kind, text in TORN.items():
        definition.write_bytes(text.replace(b"{}", str(named).encode()))
        both = images.attempt("qcow2_snapshot", [named, free], name=kind)
        assert both is not None
        errors = [image["error"] for image in both["images"]]
        wanted = f"needed as it is by the VM defined in '{definition}'"
        assert wanted in errors[0], (kind, both)
        assert errors[1] is None and both["changed"], kind
        noted = f"'{definition}' cannot be understood; the images that it names are left alone"
        assert where != "qemu" or noted in both["notes"], kind
    definition.unlink()
    assert images.run("qcow2_snapshot", named, name="s1")["notes"] == []
