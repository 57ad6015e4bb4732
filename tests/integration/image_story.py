# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How tests speak to the modules for images, with what must hold for each of them built in."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.forked import run_forked
from lab.modules import ModuleCrashed
from story import plain

MIB = 1 << 20

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED LOUDLY: mounting small file systems needs root"
)


class Images:
    """The modules for images, with a state directory and a libvirt (or none) of their own."""

    def __init__(self, scratch: Path, libvirt: Path | None = None) -> None:
        self.state_dir = scratch / "state"
        self._environment = {"XDG_CONFIG_HOME": str(libvirt or scratch / "no-libvirt")}

    def attempt(
        self,
        module: str,
        paths: object,
        *,
        check: bool = False,
        env: dict[str, str] | None = None,
        **params: Any,
    ) -> dict[str, Any] | None:
        """One run, whatever comes of it; None if it was killed."""
        told = {**self._environment, **(env or {})}
        try:
            return run_forked(module, self.params(paths, **params), check=check, env=told)
        except ModuleCrashed:
            return None

    def params(self, paths: object, **params: Any) -> dict[str, Any]:
        """A task's options for these images."""
        listed = paths if isinstance(paths, list) else [paths]
        texts = {
            key: str(value) if isinstance(value, Path) else value for key, value in params.items()
        }
        return {"path": [str(path) for path in listed], "state_dir": str(self.state_dir), **texts}

    def run(self, module: str, paths: object, **params: Any) -> dict[str, Any]:
        """One run that has to succeed."""
        result = self.attempt(module, paths, **params)
        assert result is not None and not result["failed"], result
        return result

    def change(self, module: str, paths: object, **params: Any) -> dict[str, Any]:
        """A change, with the promises of every mutation.

        Check mode touches nothing and foresees the very plan and picture of the real run; a second
        run changes nothing and starts no program.
        """
        listed = paths if isinstance(paths, list) else [paths]
        before = fingerprints(listed)
        foreseen = self.run(module, paths, check=True, **params)
        assert fingerprints(listed) == before, "check mode has changed something"
        real = self.run(module, paths, **params)
        # What an overlay takes up changes when another one is merged into it.
        assert real["changed"] and plain(real["plan"]) == plain(foreseen["plan"])
        assert real["diff"] == foreseen["diff"] and real["notes"] == foreseen["notes"]
        again = self.run(module, paths, env={"PATH": "/nonexistent"}, **params)
        assert not again["changed"] and again["plan"] == []
        assert self.journals() == [] and drafts(listed) == []
        return real

    def refused(self, module: str, paths: object, **params: Any) -> str:
        """The message of a run that has to fail, in check mode and really, touching nothing."""
        listed = paths if isinstance(paths, list) else [paths]
        before = fingerprints(listed)
        foreseen = self.attempt(module, paths, check=True, **params)
        real = self.attempt(module, paths, **{"lock_timeout": 0, **params})
        assert foreseen and real and foreseen["failed"] and real["failed"], (foreseen, real)
        assert foreseen["msg"] == real["msg"]
        assert not foreseen.get("changed") and not real.get("changed")
        assert fingerprints(listed) == before, "a refused task has changed something"
        assert self.journals() == []
        return str(real["msg"])

    def journals(self) -> list[Path]:
        """What runs have left in the directory of journals."""
        return sorted(self.state_dir.glob("images/journal/*"))


def fingerprints(paths: list[Any]) -> dict[str, object]:
    """What stands in the directories of some images: names, owners, contents of small files."""
    found: dict[str, object] = {}
    # What is in /dev comes and goes by other tests that run meanwhile.
    for folder in {os.path.dirname(str(path)) for path in paths} - {"/dev"}:
        for file in _files(folder):
            status = os.lstat(file)
            digest = ""
            if os.path.isfile(file) and status.st_blocks * 512 < 64 * MIB:
                digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
            found[file] = (status.st_ino, status.st_mode, status.st_size, digest)
    return found


def drafts(paths: list[Any]) -> list[str]:
    """Overlays that were begun and never got their name."""
    folders = {os.path.dirname(str(path)) for path in paths}
    return [file for folder in folders for file in _files(folder) if "/.vmkeep" in file]


def _files(folder: str) -> Iterator[str]:
    if os.path.isdir(folder):
        yield from (entry.path for entry in os.scandir(folder))


def qemu_img(*words: object) -> str:
    """Run qemu-img by hand; returns what it printed."""
    line = ["qemu-img", *map(str, words)]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def write(path: object, *commands: str, image_format: str = "qcow2") -> None:
    """Write into an image, as ``write -P PATTERN OFFSET LENGTH``."""
    options = [word for command in commands for word in ("-c", f"write {command}")]
    line = ["qemu-io", "-f", image_format, *options, str(path)]
    subprocess.run(line, check=True, capture_output=True)


def content(path: object, tag: str = "", image_format: str = "qcow2") -> str:
    """Digest of what a guest would see, now or in the snapshot with an id."""
    raw = f"/dev/shm/vmkeep-{os.getpid()}.image"
    of_tag = ["-l", f"snapshot.id={tag}"] if tag else []
    try:
        qemu_img("convert", "-U", "-f", image_format, *of_tag, "-O", "raw", path, raw)
        with open(raw, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    finally:
        Path(raw).unlink(missing_ok=True)


def tags(path: object) -> dict[str, str]:
    """id -> name of the snapshots of an image, as qemu-img tells them."""
    found = json.loads(qemu_img("info", "-U", "--output=json", path)).get("snapshots", [])
    return {entry["id"]: entry["name"] for entry in found}


def sound(path: object, *, wasted: int = 0) -> None:
    """qemu-img finds nothing wrong, and no more clusters wasted than so many."""
    line = ["qemu-img", "check", "--output=json", str(path)]
    checked = subprocess.run(line, capture_output=True, text=True, check=False)
    assert checked.returncode in (0, 3), checked.stdout + checked.stderr
    assert json.loads(checked.stdout).get("leaks", 0) <= wasted, checked.stdout
