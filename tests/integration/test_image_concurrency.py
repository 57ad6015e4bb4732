# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several runs that change images at one time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from image_story import Images, content, qemu_img, sound, tags, write
from lab.modules import ModuleRun, start_module
from lab.vm import wait_until


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "16M")
    write(path, "-P 1 0 4M")
    return path


def start(
    images: Images, module: str, path: object, slow: Path | None = None, **params: Any
) -> ModuleRun:
    """A run that goes on; with ``slow`` its qemu-img waits until that file is gone."""
    env = {"XDG_CONFIG_HOME": "/nonexistent"}
    if slow:
        script = slow.parent / "bin" / "qemu-img"
        script.parent.mkdir()
        script.write_text(
            f"#!/bin/sh\ntouch {slow}.begun\nwhile [ -e {slow} ]; do sleep 0.05; done\n"
            'exec /usr/bin/qemu-img "$@"\n'
        )
        script.chmod(0o755)
        slow.touch()
        env["PATH"] = f"{script.parent}:{os.environ['PATH']}"
    return start_module(module, images.params(path, **params), env=env)


def begun(slow: Path) -> None:
    wait_until(Path(f"{slow}.begun").exists, 60, "qemu-img is started")


def test_the_same_task_at_once(images: Images, base: Path) -> None:
    """One does it, the others find it done."""
    runs = [start(images, "qcow2_snapshot", base, name="s1") for _run in range(4)]
    results = [run.result() for run in runs]
    assert not any(result["failed"] for result in results), results
    assert [result["changed"] for result in results].count(True) == 1
    assert tags(base) == {"1": "s1"}


def test_clones_of_one_base_at_once(images: Images, base: Path) -> None:
    paths = [base.with_name(f"clone{number}") for number in range(6)]
    runs = [start(images, "qcow2_overlay", path, base=base) for path in paths]
    assert all(run.result()["changed"] for run in runs)
    assert {content(path) for path in paths} == {content(base)}


def test_a_run_waits_for_another_and_says_for_whom(
    images: Images, base: Path, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    first = start(images, "qcow2_snapshot", base, slow, name="s1")
    begun(slow)
    result = images.attempt("qcow2_snapshot", base, name="s2", lock_timeout=0)
    assert f"image '{base}' is held by another run: vmkeep.libvirt.qcow2_snapshot" in result["msg"]
    assert f"process {first.pid}" in result["msg"]
    second = start(images, "qcow2_snapshot", base, name="s2")
    time.sleep(0.5)
    assert second.poll() is None
    slow.unlink()
    assert first.result()["changed"] and second.result()["changed"]
    assert sorted(tags(base).values()) == ["s1", "s2"]
    sound(base)


def test_nobody_gets_between_a_commit_and_its_base(
    images: Images, base: Path, tmp_path: Path
) -> None:
    """An overlay that is asked for meanwhile stands on the whole of it, or is refused."""
    overlay, slow = base.with_name("overlay"), tmp_path / "slow"
    images.run("qcow2_overlay", overlay, base=base)
    write(overlay, "-P 9 2M 4M")
    wanted = content(overlay)
    commit = start(images, "qcow2_overlay", overlay, slow, state="committed")
    begun(slow)
    foreseen = images.attempt("qcow2_overlay", tmp_path / "new", base=base, check=True)
    assert "half way through a merge" in foreseen["msg"]
    for module, path, options in (
        ("qcow2_overlay", tmp_path / "new", {"base": base}),
        ("qcow2_snapshot", base, {"name": "s1"}),
        ("qcow2_snapshot", overlay, {"name": "s1"}),
        ("qcow2_overlay", overlay, {"state": "absent"}),
    ):
        result = images.attempt(module, path, lock_timeout=0, **options)
        assert result["failed"] and "held by another run" in result["msg"], result["msg"]
    clone = start(images, "qcow2_overlay", tmp_path / "new", base=base)
    slow.unlink()
    assert commit.result()["changed"] and clone.result()["changed"]
    assert content(tmp_path / "new") == wanted and not overlay.exists()
