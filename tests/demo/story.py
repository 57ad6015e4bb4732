# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo as a story: snapshot, inspect and merge a VM that goes on writing, then prove it.

What the collection says is held against what others say: chains against ``qemu-img``, snapshots
against libvirt, and content against what was read inside the guest.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import VM, Lab, LabError
from lab.playbooks import Controller, PlaybookRun

from . import words
from .screen import Screen

NAME = "db01"
TARGETS = ("vda", "vdb")
FIRST, SECOND = "stable", "upgraded"
MIB = 1024 * 1024
PAUSE = 0.01
PHASES = 9
HEAD = ("", "each chain", "consistency", "guest frozen", "playbook took")


class PlaybookFailed(Exception):
    """A playbook ended with an error; its output is in the log."""


@dataclass
class Story:
    """The characters, what the guest was given to write, and what is worth summing up."""

    lab: Lab
    screen: Screen
    log: Path
    vm: VM = field(init=False)
    controller: Controller = field(init=False)
    digests: dict[str, str] = field(default_factory=dict)
    points: list[tuple[object, ...]] = field(default_factory=list)
    records: int = 0
    merged: int = 0

    def tell(self) -> None:
        """All of it. Raises PlaybookFailed or LabError where it cannot go on."""
        self._boot()
        self._write_before()
        planned = self._foresee()
        frozen = self._take(planned)
        self._write_after(frozen)
        self._inspect()
        self._merge()
        self._read_back()
        self._cut_power()
        self._summary()

    # -- the parts ---------------------------------------------------------------------------

    def _boot(self) -> None:
        with self.screen.phase(f"Boot {NAME}, a guest with two disks"):
            self.vm = self.lab.vm(NAME, disks=len(TARGETS))
            self.controller = Controller(self.lab)
            kind = {"kvm": "KVM", "qemu": "emulated (no working KVM here)"}
            accelerator = kind[self.vm.xml().get("type", "")]
            connection = self.lab.connection
            libvirt, qemu = (
                words.version(number)
                for number in (connection.getLibVersion(), connection.getVersion())
            )
            kernel = self.vm.run("uname -r").strip()
            self.screen.table(
                [
                    ("lab", f"{self.lab.directory}, with a libvirtd of its own"),
                    ("hypervisor", f"libvirt {libvirt}, QEMU {qemu}, {accelerator}"),
                    ("guest", f"Linux {kernel} with its guest agent"),
                    ("disks", "vda, vdb: qcow2, 64 MiB, ext4 on /mnt/vda and /mnt/vdb"),
                ]
            )

    def _write_before(self) -> None:
        with self.screen.phase("The guest writes"):
            for target in TARGETS:
                self._write(f"/mnt/{target}/before")
                self._write(f"/mnt/{target}/replaced")
            self.vm.start_writer(pause=PAUSE)
            self.screen.text(
                "From now on a program in the guest appends a numbered record to each disk every"
                f" {PAUSE * 1000:.0f} ms or so. It acknowledges a record only once the disk has it:"
                " none of these may be missing at the end."
            )

    def _foresee(self) -> list[dict[str, Any]]:
        with self.screen.phase("Check mode: what would a snapshot do?"):
            before = self._fingerprint()
            plan = self._play("snapshot", {"vmkeep_name": FIRST}, "--check").result("vm_snapshot")
            self.screen.lines(words.step(step) for step in plan["plan"])
            same = before == self._fingerprint()
            self.screen.check(
                same, "nothing was touched: files, definition and snapshots are as before"
            )
        return plan["plan"]

    def _take(self, planned: list[dict[str, Any]]) -> dict[str, str]:
        """Take the first snapshot; returns the digests of the images that hold that point."""
        with self.screen.phase("Take it, while the guest writes"):
            before = self._chains()
            images = {target: chain[-1] for target, chain in before.items()}
            done = self._snapshot(FIRST)
            digests = {image: _digest(image) for image in images.values()}
            self._show_chains(before, self._chains())
            same = done["plan"] == planned
            self.screen.check(same, "the steps are those that check mode printed")
            self._again("snapshot", {"vmkeep_name": FIRST})
        return digests

    def _write_after(self, frozen: dict[str, str]) -> None:
        with self.screen.phase("The guest writes more, and a second snapshot is taken"):
            for target in TARGETS:
                self._write(f"/mnt/{target}/replaced", "written again")
                self._write(f"/mnt/{target}/after")
            self._snapshot(SECOND)
            same = all(_digest(image) == digest for image, digest in frozen.items())
            self.screen.check(
                same, f"the images that hold snapshot {FIRST} have not changed by a byte"
            )

    def _inspect(self) -> None:
        with self.screen.phase("Inspect"):
            found = self._play("inspect").result("vm_snapshot_info")["vms"][NAME]
            self.screen.lines(found["tree"].splitlines())
            for target in TARGETS:
                self.screen.lines([f"{target}, active image first"])
                self.screen.lines(words.image(image) for image in found["disks"][target]["chain"])
            chains = {t: [i["filename"] for i in found["disks"][t]["chain"]] for t in TARGETS}
            self.screen.check(chains == self._chains(), "qemu-img sees the same chains")
            trouble = "\n".join(entry["message"] for entry in found["disagreements"])
            self.screen.check(not trouble, "record, definition and images agree", trouble)

    def _merge(self) -> None:
        with self.screen.phase("Merge everything back, while the guest writes"):
            planned = self._play("commit", {}, "--check").result("vm_blockcommit")["plan"]
            self.screen.lines(words.step(step) for step in planned)
            before, files = self._chains(), self._files()
            run = self._play("commit")
            done = run.result("vm_blockcommit")
            self.points.append(("merged", self._images(), "", "", f"{run.seconds:.1f} s"))
            self.merged = sum(disk["bytes"] for disk in done["vms"][NAME]["disks"].values())
            self._show_chains(before, self._chains())
            same = [words.shape(step) for step in done["plan"]] == [
                words.shape(step) for step in planned
            ]
            self.screen.check(same, "the steps are those that check mode printed")
            self._again("commit", {})
            left = self._files() - {f"{target}.qcow2" for target in TARGETS}
            gone = f"the {len(files) - len(TARGETS)} overlays are gone, and so are both snapshots"
            self.screen.check(not left and not self._snapshots(), gone, ", ".join(sorted(left)))

    def _read_back(self) -> None:
        with self.screen.phase("Read everything back inside the guest"):
            gap = max(self.vm.longest_gap().values())
            self.screen.text(
                f"The longest pause between two records on a disk was {gap:.0f} ms until now."
            )
            self.vm.run("echo 3 >/proc/sys/vm/drop_caches")
            self._verify()

    def _cut_power(self) -> None:
        with self.screen.phase("Cut the power while the guest writes, boot, and read again"):
            self.vm.destroy()
            self.vm.start()
            self._verify()

    def _summary(self) -> None:
        screen = self.screen
        screen.heading(f"Summary, after {screen.seconds():.0f} s")
        screen.lines(words.row(*row) for row in [HEAD, ("at the start", "1 image"), *self.points])
        screen.lines([""])
        lost = "none lost" if not screen.failures else "see above"
        screen.table(
            [
                (
                    "content",
                    f"{len(self.digests)} files and {self.records} records read back, {lost}",
                ),
                ("merged", f"{self.merged / MIB:.1f} MiB while the guest was writing"),
                ("log", f"{words.shown(self.log)} (all that Ansible printed)"),
            ]
        )

    # -- what the parts are made of ------------------------------------------------------------

    def _write(self, path: str, how: str = "written") -> None:
        """Let the guest write a random MiB that we know the digest of."""
        data = os.urandom(MIB)
        self.vm.write(path, data)
        self.digests[path] = hashlib.sha256(data).hexdigest()
        self.screen.lines([f"{path:<20} 1 MiB {how}, sha256 {self.digests[path][:16]}..."])

    def _verify(self) -> None:
        """Hold what the guest reads against what was given to it and what it acknowledged."""
        wrong = [path for path, digest in self.digests.items() if self.vm.sha256(path) != digest]
        files = f"the content of all {len(self.digests)} files is what was written last (sha256)"
        self.screen.check(not wrong, files, ", ".join(wrong))
        known = self.vm.acknowledged()
        try:
            lost = self.vm.lost_records(known)
        except LabError as damaged:
            lost = [str(damaged)]
        self.records = sum(len(numbers) for numbers in known.values())
        claim = f"{self.records} records were acknowledged, and every one is there, in order"
        self.screen.check(not lost, claim, "\n".join(lost[:10]))

    def _snapshot(self, name: str) -> dict[str, Any]:
        run = self._play("snapshot", {"vmkeep_name": name})
        result = run.result("vm_snapshot")
        entry = result["vms"][NAME]
        consistency, frozen = entry["snapshot"]["consistency"], f"{entry['frozen_ms']} ms"
        seconds = f"{run.seconds:.1f} s"
        self.points.append((f"snapshot {name}", self._images(), consistency, frozen, seconds))
        self.screen.table([("consistency", consistency), ("guest frozen", f"for {frozen}")])
        return result

    def _again(self, playbook: str, variables: dict[str, str]) -> None:
        run = self._play(playbook, variables, quiet=True)
        self.screen.check(run.changed == 0, "the same command again changes nothing")

    def _play(
        self,
        playbook: str,
        variables: dict[str, str] | None = None,
        *options: str,
        quiet: bool = False,
    ) -> PlaybookRun:
        command = self.controller.command(playbook, variables or {}, *options)
        if not quiet:
            self.screen.command(" ".join([Path(command[0]).name, *command[1:]]))
        run = self.controller.play(playbook, variables, *options, log=self.log)
        if run.status:
            raise PlaybookFailed(f"{' '.join(command)} ended with status {run.status}")
        return run

    def _chains(self) -> dict[str, list[str]]:
        """Target to the files of its chain, active image first, as qemu-img sees it."""
        return {target: self._chain(self.vm.source(target)) for target in TARGETS}

    def _chain(self, image: str) -> list[str]:
        command = ("qemu-img", "info", "-U", "--backing-chain", "--output=json", image)
        return [entry["filename"] for entry in json.loads(self.lab.programs.run(*command))]

    def _images(self) -> str:
        longest = max(len(chain) for chain in self._chains().values())
        return "1 image" if longest == 1 else f"{longest} images"

    def _show_chains(self, before: dict[str, list[str]], after: dict[str, list[str]]) -> None:
        for target in TARGETS:
            self.screen.table(
                [
                    (f"{target} before", words.arrows(before[target])),
                    (f"{target} after", words.arrows(after[target])),
                ]
            )

    def _files(self) -> set[str]:
        """The image files of the VM."""
        return {path.name for path in self.vm.folder.glob("*.qcow2")}

    def _snapshots(self) -> list[str]:
        return self.vm.domain.snapshotListNames()

    def _fingerprint(self) -> tuple[Any, ...]:
        """All that a snapshot would change."""
        definitions = self.vm.domain.XMLDesc(0), self.vm.domain.XMLDesc(2)
        return (
            self._files(),
            definitions,
            self._snapshots(),
            (self.lab.directory / "state").exists(),
        )


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
