# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that was restored beside ours: looked at, worked with, and discarded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from lab import VM
from lab.vm import Spec

from . import images
from .guest import FILE_SYSTEM, write_in
from .model import Content
from .stage import Stage

NAME = "beside"


def look(stage: Stage, wanted: Content) -> None:
    """Compare it with what it has to hold, and discard it."""
    Guest(stage, wanted).end()


def clear(stage: Stage) -> None:
    """Take away what a run that died, or met another, may have restored."""
    if NAME in {domain.name() for domain in stage.lab.connection.listAllDomains()}:
        stage.attempt("vm_discard", vm=[NAME], force=True)
    for path in stage.beside.iterdir():
        path.unlink()


class Guest:
    """That machine, whose images may stand on those of the restore point `point`."""

    def __init__(self, stage: Stage, wanted: Content, point: str = "") -> None:
        self.stage, self.point = stage, point
        self.wanted = dict(wanted)
        domain = stage.lab.connection.lookupByName(NAME)
        self.vm = VM(stage.lab, Spec.read(domain.XMLDesc(0)), domain.UUIDString())
        self._stock = self._digests()

    def work(self, steps: list[str], number: int) -> None:
        """Do these things (see STEPS) with it, and with it as it is then the end."""
        for step in steps:
            STEPS[step](self, number)
        self.end()

    def end(self) -> None:
        """Compare everything, and discard it, though it may run."""
        if self.vm.active():
            self.vm.domain.suspend()
        self.vm.disconnect()
        held = {target: images.content(target, self.vm.source(target)) for target in self.wanted}
        if held != self.wanted:
            raise images.Stray(f"restored beside, it holds {held}, not {self.wanted}")
        if (now := self._digests()) != self._stock:
            raise images.Stray(f"the repository was written to: {now}, not {self._stock}")
        self.done("vm_discard", force=True)
        if left := sorted(map(str, self.stage.beside.iterdir())):
            raise images.Stray(f"vm_discard has left {left}")

    def done(self, module: str, **given: Any) -> None:
        """Let a task of ours do what check mode says, and nothing when it runs again."""
        options = {"vm": [NAME], **given}
        foreseen = self.stage.attempt(module, check=True, **options)
        real, again = (self.stage.attempt(module, **options) for _time in range(2))
        steps = [[step["step"] for step in run.get("plan", ())] for run in (foreseen, real)]
        if real["failed"] or steps[0] != steps[1]:
            raise images.Stray(f"beside, {module} {given}: {real.get('msg')}, {steps}")
        if again["failed"] or again["changed"]:
            raise images.Stray(f"beside, {module} {given} again: {again.get('msg')}")

    # -- what can be done with it ----------------------------------------------------------

    def boot(self, _number: int) -> None:
        if not self.vm.active():
            self.vm.start()

    def write(self, number: int) -> None:
        self.boot(number)
        write_in(self.vm, {target: {0: number} for target in self.wanted}, number)
        self.wanted = {target: (number, *held[1:]) for target, held in self.wanted.items()}

    def pull(self, _number: int) -> None:
        """Until it stands for itself."""
        self.done("vm_blockpull")
        for target in self.vm.disks:
            if len(found := images.chain(self.vm.source(target))) > 1:
                raise images.Stray(f"beside, {target} still stands on {found[1:]}")

    def commit(self, _number: int) -> None:
        """Into the repository there is no way, not even for somebody who names an image of it."""
        self.stage.attempt("vm_blockcommit", vm=[NAME])
        for target in self.wanted:
            for base in images.chain(self.vm.source(target))[1:]:
                self.stage.attempt("vm_blockcommit", vm=[NAME], disks=[target], base=base)

    def snapshot(self, number: int) -> None:
        """Written to above one, which is merged again."""
        self.done("vm_snapshot", name="inside")
        self.write(number)
        self.done("vm_snapshot", name="inside", state="absent")

    def prune(self, _number: int) -> None:
        """What it stands on is not to be removed."""
        rules = {"repository": str(self.stage.repository), "keep_last": 1}
        foreseen = self.stage.attempt("vm_backup_prune", check=True, **rules)
        removed = [
            each["id"] for found in foreseen["vms"].values() for each in found.get("removed", ())
        ]
        stands = len(images.chain(self.vm.source(FILE_SYSTEM))) > 1
        if foreseen["failed"] or (stands and self.point in removed):
            raise images.Stray(f"{self.point} is in use, and pruning removes {removed}")

    def _digests(self) -> dict[str, str]:
        """The images in the repository."""
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.stage.repository.rglob("*"))
            if path.suffix in (".qcow2", ".raw")
        }


STEPS: dict[str, Callable[[Guest, int], None]] = {
    "boot": Guest.boot,
    "write": Guest.write,
    "pull": Guest.pull,
    "commit": Guest.commit,
    "snapshot": Guest.snapshot,
    "prune": Guest.prune,
}
