# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are made beside, named, and given up; libvirt is only told, or refuses."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.digest import stored_file
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.digest_beside import (
    Verification,
    written_out,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.do_restore import (
    Restoring,
    define,
    do_restore,
    give_up,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    Damaged,
    Problem,
    TimedOut,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    DefineRestored,
    RestoreFile,
)
from test_plan_restore import seen, wish

DEFINE = DefineRestored("20261124T030000Z", ())


class Libvirt:
    """Takes definitions, or refuses."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.defined: list[str] = []
        self._refuses = refuses

    def defineXML(self, xml: str) -> None:
        if self._refuses:
            raise Problem("no")
        self.defined.append(xml)


def restoring(libvirt: Libvirt, **values: Any) -> Restoring:
    host: Any = SimpleNamespace(conn=libvirt)
    return Restoring(
        host, wish(), seen(), lambda _step, _stamps: "<domain/>", Damaged, time.monotonic() + 60,
        **values,
    )  # fmt: skip


def file_step(tmp_path: Path, role: str) -> RestoreFile:
    source = tmp_path / "stored"
    source.write_bytes(b"then")
    return RestoreFile(role, str(tmp_path / "state" / "tpm2" / "file"), "P", str(source))


@pytest.mark.parametrize("there", [True, False])
def test_the_state_of_a_tpm_takes_its_place(tmp_path: Path, *, there: bool) -> None:
    step = file_step(tmp_path, "tpm")
    state = Path(step.file)
    if there:
        state.parent.mkdir(parents=True)
        state.write_bytes(b"now")
    libvirt = Libvirt()
    doing = restoring(libvirt)
    assert do_restore(step, doing)
    assert not there or state.read_bytes() == b"now"
    define(DEFINE, (step,), doing)
    assert libvirt.defined == ["<domain/>"] and state.read_bytes() == b"then"
    former = state.with_name("file.before-P")
    assert {path.name for path in state.parent.iterdir()} == {"file", *([former.name] * there)}
    assert not there or former.read_bytes() == b"now"


@pytest.mark.parametrize("there", [True, False])
def test_the_state_of_a_tpm_comes_back_where_libvirt_refuses(
    tmp_path: Path, *, there: bool
) -> None:
    step = file_step(tmp_path, "tpm")
    state = Path(step.file)
    if there:
        state.parent.mkdir(parents=True)
        state.write_bytes(b"now")
    doing = restoring(Libvirt(refuses=True))
    do_restore(step, doing)
    with pytest.raises(Problem):
        define(DEFINE, (step,), doing)
    give_up((step,), doing)
    assert [path.name for path in state.parent.iterdir()] == ["file"] * there
    assert not there or state.read_bytes() == b"now"


def test_other_files_get_a_second_name_and_lose_the_first(tmp_path: Path) -> None:
    step = file_step(tmp_path, "nvram")
    Path(step.file).parent.mkdir(parents=True)
    doing = restoring(Libvirt())
    do_restore(step, doing)
    define(DEFINE, (step,), doing)
    assert [path.name for path in Path(step.file).parent.iterdir()] == ["file"]
    assert Path(step.file).stat().st_mode & 0o777 == 0o600


def test_nothing_stays_where_libvirt_refuses(tmp_path: Path) -> None:
    step = file_step(tmp_path, "nvram")
    folder = Path(step.file).parent
    folder.mkdir(parents=True)
    doing = restoring(Libvirt(refuses=True))
    do_restore(step, doing)
    with pytest.raises(Problem):
        define(DEFINE, (step,), doing)
    give_up((step,), doing)
    assert list(folder.iterdir()) == []


def test_no_file_is_written_over(tmp_path: Path) -> None:
    """Also where it has come since the plan was made; and giving up leaves it alone."""
    step = file_step(tmp_path, "nvram")
    Path(step.file).parent.mkdir(parents=True)
    doing = restoring(Libvirt())
    do_restore(step, doing)
    Path(step.file).write_bytes(b"somebody's")
    with pytest.raises(Conflict, match="has appeared in the meantime"):
        define(DEFINE, (step,), doing)
    give_up((step,), doing)
    assert Path(step.file).read_bytes() == b"somebody's"
    assert [path.name for path in Path(step.file).parent.iterdir()] == ["file"]


def test_nothing_is_defined_on_what_is_not_right(tmp_path: Path) -> None:
    step = file_step(tmp_path, "nvram")
    Path(step.file).parent.mkdir(parents=True)
    good = stored_file(str(tmp_path), "stored", "nvram")
    (tmp_path / "stored").write_bytes(b"thin")
    libvirt = Libvirt()
    doing = restoring(libvirt, verification=Verification([(step.source, good)]))
    do_restore(step, doing)
    with pytest.raises(Damaged, match="has another content than its manifest says"):
        define(DEFINE, (step,), doing)
    assert libvirt.defined == [] and not Path(step.file).exists()


def test_what_cannot_be_written_out_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does so too: the last sync would find nothing wrong."""
    told = threading.Event()

    def fail_once(_descriptor: int) -> None:
        if not told.is_set():
            told.set()
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail_once)
    with open(tmp_path / "file", "wb") as file:
        writing = written_out(file.fileno())
        with pytest.raises(OSError, match="Input/output"), writing:
            assert told.wait(10)


def test_reading_beside_is_bounded(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(4 << 30)
    (tmp_path / "stored").write_bytes(b"")
    entry = stored_file(str(tmp_path), "stored", "image")
    beside = Verification([(str(tmp_path / "large"), entry)])
    with pytest.raises(TimedOut, match="not read in time"):
        beside.trouble(time.monotonic())
    beside.close()
