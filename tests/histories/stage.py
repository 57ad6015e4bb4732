# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that a history is played on, and what can be seen of it without our code."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import libvirt
from lab import VM, Disk, Lab

from . import definition, images
from .guest import FILE_SYSTEM, Guest
from .model import DISKS, MORE, OFF, PAUSED, REGIONS, RUNNING, SAVED, Content, Model
from .rooms import Rooms
from .storage import Storage
from .tasks import NAME

STATES = {
    libvirt.VIR_DOMAIN_RUNNING: RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: OFF,
    libvirt.VIR_DOMAIN_CRASHED: OFF,
}

# What notes say of files that stay.
KEPT = (" was kept", " was left as it is")


class Stage(Rooms, Guest):
    """One machine with some disks, a state directory and a repository, of one history."""

    def __init__(
        self, lab: Lab, disks: Sequence[str], *, clone: bool = False, storage: str = ""
    ) -> None:
        self.lab = lab
        self.storage = Storage(lab.directory, storage)
        self.targets = tuple(disks)
        self.lent: set[str] = set()
        self.vm: VM = lab.vm(NAME, [_disk(each, 2 if clone else 1) for each in disks])
        self.templates = {
            target: path
            for target in self.targets
            for path in images.chain(self.vm.disks[target].path)[1:]
        }
        self.lent.update(self.templates.values())
        self._untouched = self._times()
        self.state_dir = lab.directory / "state"
        self.mount_state()
        self.repository = lab.directory / "repository"
        self.beside = lab.directory / "beside"
        self.elsewhere = self.storage.place / "elsewhere"
        self.saves = lab.directory / "saves"
        for folder in (self.repository, self.beside, self.elsewhere, self.saves):
            folder.mkdir()
        self._noted = {}
        self.notes: list[str] = []  # of files that were kept
        self.stay: set[str] = set()  # as long as the snapshot is there that has made them
        # A daemon of a session and its user have one home.
        os.environ["XDG_CONFIG_HOME"] = str(lab.directory / "c")
        self._first = self.edits()
        size, count = images.REGION, REGIONS
        self.vm.run(f"dd if=/dev/zero of=/mnt/vda/regions bs={size} count={count} conv=fsync")
        self.write({FILE_SYSTEM: dict.fromkeys(range(REGIONS), 0)}, 0)

    def close(self) -> None:
        """Take the machine away, whatever it has become."""
        if not self.lab.daemon.running():
            self.lab.daemon.start()
        for name in {domain.name() for domain in self.lab.connection.listAllDomains()}:
            self.lab.remove(name)
        self.lab.vms.clear()
        self.unmount_state()
        for folder in (self.state_dir, self.repository, self.beside, self.elsewhere, self.saves):
            shutil.rmtree(folder, ignore_errors=True)
        self.storage.close()

    def world(self) -> dict[str, Any]:
        """What no check mode and no refusal may change."""
        return {
            "power": self.power(),
            "definitions": self._definitions(),
            "checkpoints": sorted(found.getName() for found in self.vm.domain.listAllCheckpoints()),
            "files": sorted(map(str, [*self._files(), *self.saves.iterdir()])),
            "repository": sorted(
                str(path) for path in self.repository.rglob("*") if path.suffix != ".lock"
            ),
            "unneeded": self.unneeded(),
            "stored": sorted(map(str, self.storage.copies())),
        }

    def power(self) -> str:
        """What the machine does, as libvirt says."""
        state = STATES.get(self.vm.domain.state()[0], "unknown")
        saved = state == OFF and self.vm.domain.hasManagedSaveImage(0)
        return SAVED if saved else state

    def saved(self) -> set[str]:
        """The files that memory was saved to."""
        return {path.stem for path in self.saves.iterdir()}

    def content(self) -> Content:
        """What the disks hold for the machine, which is paused for the look."""
        with self.standing_still():
            return {each: images.content(each, self.source(each)) for each in self.targets}

    def look_stored(self, model: Model) -> None:
        """Compare what storage snapshots hold, whether or not one can go back to them."""
        for name, point in model.stored.items():
            for target, image in point.images.items() if point.certain else ():
                copy = self.storage.copy(NAME, image, name)
                held = images.content(target, str(copy), self.lab.directory)
                if held != point.disks[target]:
                    raise images.Stray(f"{copy} holds {held}, not {point.disks[target]}")

    def source(self, target: str) -> str:
        return self.vm.source(target, inactive=not self.vm.active())

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        running = self.power() == RUNNING
        if running:
            self.vm.domain.suspend()
        try:
            yield
        finally:
            # The guard of a run that has just died lets a machine go on that it finds paused.
            if running and self.power() != RUNNING:
                self.vm.domain.resume()

    def chain(self, target: str) -> list[str]:
        """The images of a disk, the active one first, without a template."""
        template = self.templates.get(target)
        return [path for path in images.chain(self.source(target)) if path != template]

    def _times(self) -> dict[str, int]:
        return {path: os.stat(path).st_mtime_ns for path in self.templates.values()}

    def written_templates(self) -> list[str]:
        """The images below a clone that somebody has written to."""
        now = self._times()
        return sorted(path for path, time in self._untouched.items() if now[path] != time)

    def snapshots(self) -> set[str]:
        return {found.getName() for found in self.vm.domain.listAllSnapshots()}

    def disks_of(self, snapshot: str) -> set[str]:
        """The disks that a snapshot is of, as libvirt has it."""
        record = ET.fromstring(self.vm.domain.snapshotLookupByName(snapshot).getXMLDesc(0))
        entries = record.iterfind("disks/disk")
        return {str(disk.get("name")) for disk in entries if disk.get("snapshot") != "no"}

    def checkpoints(self) -> set[str]:
        """Backup checkpoints of others."""
        names = {found.getName() for found in self.vm.domain.listAllCheckpoints()}
        return {name for name in names if not name.startswith("vmkeep")}

    def unneeded(self) -> set[str]:
        """Images and memory files in the folder of the machine that nothing refers to.

        Those that it was made with are somebody else's, and stay. So does a former overlay that
        once held an internal snapshot, as it may hold more, or that a disk was on when it was
        detached: it goes with the one that made it.
        """
        needed = {disk.path for disk in self.vm.disks.values()} | self.lent
        detached = not self.plugged(MORE)
        for xml in self._definitions():
            self.stay.update(images.holding(xml))
            named = images.files_named(xml) if detached else set()
            self.stay.update(path for path in named if MORE in Path(path).name)
            for path in images.files_named(xml) | (images.former(xml) & self.stay):
                needed.update(images.chain(path))
        for copy in self.storage.copies():
            needed.update(images.chain(str(copy)))
        found = {str(path) for path in self._files() if images.is_state(path)}
        return found - needed

    def said_to_stay(self, paths: Iterable[str]) -> set[str]:
        """Those of which a task has said that they were kept, or left as they are."""
        told = "\n".join(self.notes)
        return {path for path in paths if any(f"{path}{word}" in told for word in KEPT)}

    def _files(self) -> list[Path]:
        """What lies where the machine has its images."""
        return [*self.vm.folder.iterdir(), *self.elsewhere.iterdir()]

    def size(self, path: str) -> int:
        """Of the disk that an image holds, in bytes."""
        command = ["qemu-img", "info", "-U", "--output=json", path]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(json.loads(done.stdout)["virtual-size"])

    def _definitions(self) -> list[str]:
        domain = self.vm.domain
        texts = [domain.XMLDesc(0), domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)]
        return texts + [found.getXMLDesc(0) for found in domain.listAllSnapshots()]

    def edits(self) -> dict[str, str]:
        """What can be edited in the definition that the machine starts from next."""
        return definition.edits(self.vm.xml(inactive=True))

    def unlike(self, edits: dict[str, str]) -> dict[str, tuple[str, str]]:
        """What of it is not as at first but for these edits: how it is, and was to be."""
        now = self.edits()
        wanted = {**self._first, **edits, "serials": now["serials"]}
        found = {key: (now[key], wanted[key]) for key in now if now[key] != wanted[key]}
        lost = [each for each in self.targets if each not in now["serials"].split(",")]
        return {**found, **{f"serial of {each}": ("", each) for each in lost}}

    def leftovers(self) -> list[str]:
        """Journals, which are there only while a run is under way.

        The draft of a journal by a run that died stays until the next one is written.
        """
        found = self.state_dir.glob("journal/*.json")
        return sorted(str(path.relative_to(self.state_dir)) for path in found)


def _disk(target: str, layers: int) -> Disk:
    if target == FILE_SYSTEM:
        return Disk(size=16, format=DISKS[target], content="ext4", layers=layers)
    return Disk(size=8, format=DISKS[target], content="blank", layers=layers)
