# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The adapter of qemu-img, with names that want to be options, and a program that misbehaves."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import qemu_img
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_bitmaps import (
    bitmap_add,
    bitmap_merge,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_file import (
    read_chain,
    read_image,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.program import Limits, run
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    BadInput,
    Conflict,
    Problem,
    TimedOut,
    Unsupported,
)
from images import corpus

NAMES = ("disk.qcow2", "-f raw", "a,b=c", "json:{}", "ünï\ncode", "--help")
SIZE = 64 << 20


def empty(path: Path) -> str:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    return str(path)


@pytest.fixture(params=NAMES)
def overlay(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An overlay with a difficult name on a base with a difficult name."""
    base = tmp_path / f"base {request.param}"
    corpus.created()(base)
    path = empty(tmp_path / request.param)
    assert qemu_img.create_overlay(path, str(base), "qcow2", SIZE) == ()
    return path


def test_an_overlay_is_made_in_the_file_that_is_there(overlay: str) -> None:
    top, base = read_chain(overlay)
    assert (top.virtual_size, top.backing_format) == (SIZE, "qcow2")
    assert top.backing_filename == base.filename
    assert stat.S_IMODE(os.stat(overlay).st_mode) == 0o600


def test_options_of_an_overlay(tmp_path: Path) -> None:
    """Its base need not even be there."""
    path = empty(tmp_path / "disk")
    options = {"cluster_size": "128k", "extended_l2": "on", "compression_type": "zstd"}
    qemu_img.create_overlay(path, "gone", "raw", SIZE, options=options)
    image = read_image(path)
    assert (image.cluster_size, image.backing_filename) == (128 << 10, "gone")
    assert image.header is not None
    assert (image.header.extended_l2, image.header.compression_type) == (True, "zstd")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"precious")
    with pytest.raises(Conflict, match="not an empty file"):
        qemu_img.create_overlay(str(path), "/base", "raw", SIZE)
    link = tmp_path / "link"
    link.symlink_to(empty(tmp_path / "empty"))
    with pytest.raises(Conflict):
        qemu_img.create_overlay(str(link), "/base", "raw", SIZE)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Conflict):
        qemu_img.create_overlay(str(tmp_path / "fifo"), "/base", "raw", SIZE)
    assert path.read_bytes() == b"precious"


def test_commit_and_rebase(overlay: str) -> None:
    base = read_chain(overlay)[1].filename
    plain = overlay + ".plain"
    os.link(overlay, plain)
    corpus.qemu_io(Path(plain), "write -P 9 1M 1M")
    assert qemu_img.commit(overlay, base, rate_limit=1 << 30) == ()
    assert read_image(base).actual_size > 1 << 20
    assert qemu_img.rebase_unsafe(overlay, "", "") == ()
    assert read_image(overlay).backing_filename is None
    assert qemu_img.rebase_unsafe(overlay, base, "qcow2") == ()
    assert [image.filename for image in read_chain(overlay)] == [overlay, base]


def test_a_base_that_is_not_in_the_chain(overlay: str) -> None:
    with pytest.raises(Problem, match="ended with 1: qemu-img: Did not find") as caught:
        qemu_img.commit(overlay, "/other")
    assert caught.value.found.startswith("'qemu-img commit -q -d -f qcow2 -b /other -- ")


def test_bitmaps(overlay: str) -> None:
    base = read_chain(overlay)[1].filename
    assert bitmap_add(overlay, "daily", 32768) == ()
    assert bitmap_add(overlay, "-x", disabled=True) == ()
    assert bitmap_add(base, "daily", 32768) == ()
    assert bitmap_merge(base, "daily", overlay, "daily") == ()
    found = {bitmap.name: bitmap for bitmap in read_image(overlay).bitmaps}
    assert (found["daily"].granularity, found["daily"].auto, found["-x"].auto) == (
        32768,
        True,
        False,
    )
    with pytest.raises(Problem, match="already exists"):
        bitmap_add(base, "daily")


def test_internal_snapshots(overlay: str) -> None:
    plain = Path(overlay).with_name("plain")
    os.link(overlay, plain)
    for name in ("-d", "daily", "daily"):
        corpus.with_snapshot(name)(plain)
    assert qemu_img.snapshot_delete(overlay, "daily") == ()
    assert qemu_img.snapshot_delete(overlay, "-d") == ()
    assert [snapshot.name for snapshot in read_image(overlay).snapshots] == ["daily"]
    with pytest.raises(Problem, match="'never'"):
        qemu_img.snapshot_delete(overlay, "never")


def test_check_needs_no_backing_file(overlay: str) -> None:
    os.unlink(read_chain(overlay)[1].filename)
    assert qemu_img.check(overlay, "qcow2")["result"] == "clean"


@pytest.mark.parametrize("path", ["disk", "nbd://192.0.2.1", "-x", ""])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(BadInput, match="no absolute path"):
        qemu_img.commit(path, "/base")
    with pytest.raises(BadInput, match="no absolute path"):
        bitmap_add(path, "daily")


def test_a_backing_file_that_is_a_reference(tmp_path: Path) -> None:
    path = empty(tmp_path / "disk")
    for name in ("json:{}", "nbd://192.0.2.1", ""):
        with pytest.raises(BadInput, match="is no path"):
            qemu_img.create_overlay(path, name, "raw", SIZE)


def test_what_a_program_says_on_success_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "qemu-img"
    fake.write_text('#!/bin/sh\necho "qemu-img: Lost a bitmap" >&2\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert bitmap_add("/x", "daily") == ("qemu-img: Lost a bitmap",)


def test_a_program_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unsupported, match="no-such-program cannot be run"):
        run(["no-such-program"], limits=Limits(), timeout=5)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="setpriv is not installed"):
        run(["true"], limits=Limits(), timeout=5)


def test_limits_reach_the_program() -> None:
    limits = Limits(memory=1 << 30, cpu_seconds=7, files=99)
    shell = "ulimit -v; ulimit -t; ulimit -n; ulimit -c; umask; echo $LC_ALL"
    answer = run(["sh", "-c", shell], limits=limits, timeout=5)
    assert answer.stdout.split() == ["1048576", "7", "99", "0", "0077", "C"]


def test_a_program_that_never_ends() -> None:
    start = time.monotonic()
    with pytest.raises(TimedOut, match="sleep 60"):
        run(["sleep", "60"], limits=Limits(), timeout=0.2)
    assert time.monotonic() - start < 5
    assert "sleep" not in names_of_children()


def names_of_children() -> list[str]:
    """Names of the programs that this process has started and that are still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            fields = dict(line.split(":\t", 1) for line in path.read_text().splitlines())
            if fields["PPid"] == str(os.getpid()):
                found.append(fields["Name"])
    return found


def test_a_program_that_never_stops_talking() -> None:
    with pytest.raises(Problem, match="printed more than"):
        run(["yes"], limits=Limits(), timeout=30)


def test_a_program_that_is_killed() -> None:
    answer = run(["sh", "-c", "kill -9 $$"], limits=Limits(), timeout=5)
    assert "was killed by signal 9" in str(answer.problem())
