# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file is read ahead of its digest: no byte is left out, taken twice or mixed up."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import digest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.digest import (
    stored_file,
    trouble_with,
)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8192, 100_001])
def test_every_byte_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(digest, "_CHUNK", 4096)
    content = os.urandom(size)
    (tmp_path / "disk").write_bytes(content)
    file = stored_file(str(tmp_path), "disk", "image")
    assert (file.size, file.sha256) == (size, hashlib.sha256(content).hexdigest())
    assert trouble_with(str(tmp_path / "disk"), file) == ""


def test_what_cannot_be_read_is_told_and_nothing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").write_bytes(b"some")
    file = stored_file(str(tmp_path), "disk", "image")
    # The kernel refuses to read a folder, as it does a bad block.
    monkeypatch.setattr(digest, "_open", lambda _path: os.open(tmp_path, os.O_RDONLY))
    before = set(threading.enumerate())
    assert "cannot be read: Is a directory" in trouble_with(str(tmp_path / "disk"), file)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
