# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong in a repository."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from .actions import action
from .judge import DONE, Candidate, Fault, Trial, message, one_of
from .model import Model, demand
from .stage import Stage


@action("a bit rots", 2)
class Rot(Trial):
    """A bit of a restore point turns over: that is noticed, and nothing comes of such a point."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.backups)
        return {"number": random.randrange(len(model.backups)), "place": random.random()}

    def after(self, model: Model, *, number: int, place: float) -> None:
        demand(number < len(model.backups))

    def run(self, stage: Stage, model: Model, *, number: int, place: float) -> tuple[str, Model]:
        id = stage.restore_points()[number]
        images = sorted(stage.repository.rglob(f"{id}/*.qcow2"))
        image = images[int(place * len(images))]
        given = {"repository": str(stage.repository)}
        look = ("vm_backup_info", {**given, "verify": True})
        restore = {"as": "beside", "directory": str(stage.beside)}
        runs = (look, ("vm_restore", {**given, **restore, "point": id}), look)
        for module, options in runs[: 1 if place < 0.5 else 0]:  # it may have been good before
            _must(stage.attempt(module, **options), good=True)
        with turned(image, int(place * image.stat().st_size)):
            for module, options in runs:
                told = _must(stage.attempt(module, **options), good=False)
                if id not in told:
                    raise Fault(f"{module} does not name {id}: {told}")
            if left := list(stage.beside.iterdir()):
                raise Fault(f"a restore that failed has left {left}")
        _must(stage.attempt("vm_backup_info", **given, verify=True), good=True)
        after = model.copy()
        after.verified = True
        return DONE, one_of(stage, [Candidate(after, model)])


def _must(result: dict[str, Any], *, good: bool) -> str:
    """What a run says that has to end well, or not."""
    if result["failed"] is good:
        raise Fault(f"a bit has rotted: {'' if good else 'not '}noticed: {message(result)}")
    return message(result)


@contextlib.contextmanager
def turned(path: Path, place: int) -> Iterator[None]:
    """One bit of a file is the other one meanwhile; nothing but its content tells that."""
    status = path.stat()
    try:
        _turn(path, place)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        yield
    finally:
        if path.exists():
            _turn(path, place)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _turn(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
