# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this user may not look at is neither gone nor damaged, and is not changed beside."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import (
    files,
    image_lock,
    image_observe,
    image_users,
    save_file,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_users import (
    standing_files,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Denied
from builders import at, disk, vm


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user, whom the system refuses everything."""

    def refuse(*_args: object, **_options: object) -> Any:
        raise PermissionError(13, "Permission denied")

    for module in (image_lock, image_observe, save_file):
        kept = {name: getattr(os, name) for name in dir(os)}
        system = SimpleNamespace(**{**kept, "stat": refuse, "lstat": refuse, "open": refuse})
        monkeypatch.setattr(module, "os", system)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)


@pytest.mark.usefixtures("refusing")
def test_the_disks_of_a_vm_whose_memory_is_to_be_saved() -> None:
    """Later nobody could tell whether they were written; that was found out after the save."""
    with pytest.raises(Denied, match=at("vda", "base")) as refused:
        save_file.look_at_saves(lambda _name: "")(None, None, vm(disk("vda")))
    assert "become" in refused.value.todo


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    "look", [image_observe._kind, lambda path: image_lock._holders(path, (0,))], ids=["kind", "use"]
)
def test_images_that_no_vm_uses(look: Any) -> None:
    with pytest.raises(Denied, match="/closed/disk") as refused:
        look("/closed/disk")
    assert "become" in refused.value.todo


def test_what_may_stand_on_an_image_that_is_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what an unreadable file beside it is: an overlay would be lost."""
    place = str(tmp_path)
    (tmp_path / "theirs").write_bytes(b"")

    def refuse(path: str, **_options: object) -> Any:
        raise Denied(f"{path} cannot be opened by this user")

    monkeypatch.setattr(image_users, "read_image", refuse)
    assert list(standing_files([place])) == []
    with pytest.raises(Denied, match="theirs") as refused:
        list(standing_files([place], sure=[place]))
    assert "stand on" in refused.value.wanted and refused.value.todo


def test_a_directory_that_may_not_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(files.os, "scandir", refuse)
    assert list(standing_files(["/closed"])) == []
    with pytest.raises(Denied, match="/closed"):
        list(standing_files(["/closed"], sure=["/closed"]))
