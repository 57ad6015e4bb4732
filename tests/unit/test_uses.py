# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands on a restore point is known as long as it stands there, and no longer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import uses
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.qemu_img import create_overlay
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.uses import (
    drop_uses,
    read_uses,
    record_use,
)

POINT = "20261124T030000Z"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An image of a restore point; an overlay needs no more of it than its name."""
    path = tmp_path / "db01.uuid" / POINT / "vda.qcow2"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


@pytest.fixture
def overlay(tmp_path: Path, source: Path) -> Path:
    path = tmp_path / "draft"
    path.touch()
    create_overlay(str(path), str(source), "qcow2", 1 << 20)
    return path


def records(source: Path) -> list[Path]:
    return sorted(source.parent.parent.glob("uses/*"))


def test_by_each_of_its_names(source: Path, overlay: Path) -> None:
    directory, final = str(source.parent.parent), overlay.with_name("final")
    assert record_use(str(source), (str(overlay), str(final))) == []
    assert read_uses(directory) == {POINT: str(overlay)}
    overlay.rename(final)
    assert read_uses(directory) == {POINT: str(final)}
    drop_uses(directory)
    assert read_uses(directory) and len(records(source)) == 1
    final.unlink()
    assert read_uses(directory) == {}
    drop_uses(directory)
    assert records(source) == []


def test_an_image_that_stands_elsewhere_by_now(source: Path, overlay: Path) -> None:
    record_use(str(source), (str(overlay),))
    other = source.parent.with_name("20261125T030000Z") / "vda.qcow2"
    other.parent.mkdir()
    other.touch()
    overlay.write_bytes(b"")
    create_overlay(str(overlay), str(other), "qcow2", 1 << 20)
    assert read_uses(str(source.parent.parent)) == {}


def test_what_cannot_be_read_or_is_on_another_host_counts(
    source: Path, overlay: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = str(source.parent.parent)
    record_use(str(source), (str(overlay),))
    overlay.write_bytes(b"no image any more")
    assert read_uses(directory) == {POINT: str(overlay)}
    overlay.unlink()
    monkeypatch.setattr(uses, "_machine", lambda: "another")
    drop_uses(directory)
    host = json.loads(records(source)[0].read_text())["host"]
    assert read_uses(directory) == {POINT: f"{overlay} on host {host}"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"images": 1}', "\0"])
def test_a_record_that_says_nothing(source: Path, overlay: Path, text: str) -> None:
    record_use(str(source), (str(overlay),))
    records(source)[0].write_text(text)
    directory = str(source.parent.parent)
    assert read_uses(directory) == {}
    drop_uses(directory)
    assert records(source) == []


def test_where_nothing_can_be_written_that_is_told(source: Path, overlay: Path) -> None:
    (source.parent.parent / "uses").touch()
    (note,) = record_use(str(source), (str(overlay),))
    assert str(overlay) in note and str(source) in note and "nothing but care" in note
    assert read_uses(str(source.parent.parent)) == {}
