# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are removed: the name at once, the blocks of a large one behind our back."""

from __future__ import annotations

import os
import subprocess

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import removal


@pytest.fixture
def keepers(monkeypatch):
    """The processes that were given a file to keep open, with what they had open then."""
    started: list[tuple[subprocess.Popen, list[str]]] = []
    original = removal._keep_open

    def keep_open(descriptor):
        keeper = original(descriptor)
        place = f"/proc/{keeper.pid}/fd"
        started.append((keeper, [os.readlink(f"{place}/{n}") for n in os.listdir(place)]))
        return keeper

    monkeypatch.setattr(removal, "_keep_open", keep_open)
    return started


def test_a_small_file_needs_no_help(tmp_path, keepers):
    path = tmp_path / "overlay"
    path.write_bytes(b"x" * 4096)
    removal.remove(str(path))
    assert not path.exists() and keepers == []


def test_a_large_file_is_closed_last_by_somebody_else(tmp_path, keepers, monkeypatch):
    monkeypatch.setattr(removal, "LARGE", 4096)
    path = tmp_path / "overlay"
    path.write_bytes(b"x" * 4096)
    removal.remove(str(path))
    assert not path.exists()
    [(keeper, held)] = keepers
    assert f"{path} (deleted)" in held
    assert keeper.wait(10) == 0


def test_a_file_that_may_not_be_read_can_be_removed(tmp_path):
    path = tmp_path / "overlay"
    path.touch(mode=0)
    removal.remove(str(path))
    assert not path.exists()


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError):
        removal.remove(str(tmp_path / "none"))
