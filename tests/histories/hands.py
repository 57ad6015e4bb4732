# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What others do to the machine, by virsh and at its files."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

import libvirt
from lab import VM, Lab
from lab.programs import LabError
from lab.vm import wait_until

from . import definition, images, liars
from .tasks import NAME


class Hands:
    """`lent` are images that somebody has given the machine, and that stay when it goes."""

    lab: Lab
    vm: VM
    targets: tuple[str, ...]
    lent: set[str]
    saves: Path
    _noted: dict[str, list[tuple[str, int, int, int]]]

    def save_file(self, name: str) -> str:
        """Where memory is saved to under this name."""
        return str(self.saves / f"{name}.save")

    def lend(self, path: str) -> None:
        """An image that somebody has given the machine, and that stays when it goes from there."""
        self.lent.add(path)

    def new_image(self, stem: str) -> str:
        """A path beside the images of the machine where there is nothing yet."""
        names = (self.vm.folder / f"{stem}.{number}.qcow2" for number in itertools.count())
        return str(next(path for path in names if not path.exists()))

    def virsh(self, *words: str) -> None:
        """A command as people give it."""
        command = ["virsh", "-q", "-c", self.lab.uri, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")

    def note_images(self, name: str) -> None:
        """Remember the images as they are when memory was saved under this name."""
        self._noted[name] = self.images()

    def give_up_images(self, name: str) -> None:
        """They are never again as they were then, unless that was noted."""
        self._noted.setdefault(name, [])

    def images_as_noted(self, name: str) -> bool:
        """Whether nobody has written to one since, or put another in its place."""
        return self._noted[name] == self.images()

    def images(self) -> list[tuple[str, int, int, int]]:
        """The files that the disks stand on: path, inode, size and time."""
        chains = [images.chain(self.vm.source(each, inactive=True)) for each in self.targets]
        found = [(path, os.stat(path)) for chain in chains for path in chain]
        return [(path, facts.st_ino, facts.st_size, facts.st_mtime_ns) for path, facts in found]

    def let_lie(self, how: str) -> None:
        """Put an agent in the guest that does otherwise than it says."""
        liars.let_lie(self.vm, how)

    def thaw_inside(self) -> None:
        """As somebody on the console of the guest would."""
        self.vm.run("for point in /mnt/*; do fsfreeze --unfreeze $point 2>/dev/null; done; true")

    def stalls(self) -> bool:
        """Whether the guest cannot write. One whose thaw is under way gets some time for it."""
        with contextlib.suppress(LabError):
            wait_until(lambda: not self.vm.stalled(), 20, "it writes")
            return False
        return True

    def edit(self, what: str, value: str) -> None:
        """Change one thing in the definition that the machine starts from next."""
        root = self.vm.xml(inactive=True)
        definition.edit(root, what, value)
        self._given(root, "define")

    def edit_snapshot(self, name: str, *, whole: bool) -> None:
        """Change its description, as a whole or above what stands there."""
        snapshot = self.vm.domain.snapshotLookupByName(name)
        root = ET.fromstring(snapshot.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE))
        found = root.find("description")
        text = ET.SubElement(root, "description") if found is None else found
        text.text = "see the ticket" + ("" if whole else f"\n{text.text or ''}")
        current = ["--current"] if snapshot.isCurrent() else []
        self._given(root, "snapshot-create", NAME, more=["--redefine", *current])

    def _given(self, root: ET.Element, *words: str, more: Sequence[str] = ()) -> None:
        """A command of virsh about some XML."""
        file = self.lab.directory / "edited.xml"
        file.write_text(ET.tostring(root, encoding="unicode"))
        self.virsh(*words, str(file), *more)
        file.unlink()

    def unplug(self, target: str) -> None:
        """Detach a disk for good; returns when the guest has let go of it."""
        live = ["--live"] if self.vm.active() else []
        self.virsh("detach-disk", NAME, target, "--config", *live)
        wait_until(lambda: not self.plugged(target), 60, f"{target} is gone")

    def backup_begin(self, name: str) -> None:
        """A backup as other programs make it; what it writes is thrown away."""
        place = self.lab.directory / "theirs"
        place.mkdir(exist_ok=True)
        copies = [
            f"<disk name='{each}' backup='yes' type='file'><target file='{place}/{each}'/></disk>"
            for each in self.targets
        ]
        kept = [
            f"<disk name='{each}' checkpoint='{'no' if each == 'vdc' else 'bitmap'}'/>"
            for each in self.targets
        ]
        backup, checkpoint = place / "backup.xml", place / "checkpoint.xml"
        backup.write_text(f"<domainbackup><disks>{''.join(copies)}</disks></domainbackup>")
        checkpoint.write_text(
            f"<domaincheckpoint><name>{name}</name><disks>{''.join(kept)}</disks></domaincheckpoint>"
        )
        try:
            self.virsh("backup-begin", NAME, str(backup), str(checkpoint))
            self.settled()
        finally:
            shutil.rmtree(place)

    def plugged(self, target: str) -> bool:
        """Whether there is such a disk."""
        disks = self.vm.xml(inactive=not self.vm.active()).iterfind("devices/disk/target")
        return any(disk.get("dev") == target for disk in disks)

    @contextlib.contextmanager
    def filled_by_others(self, place: Path) -> Iterator[None]:
        """Somebody writes there until nothing is free, from the moment in which QEMU copies on."""
        over, domain = threading.Event(), self.vm.domain

        def fill() -> None:
            while not over.wait(0.002) and domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE:
                pass
            with contextlib.suppress(OSError), (place / "others").open("wb", buffering=0) as file:
                while not over.is_set():
                    file.write(bytes(1 << 16))

        other = threading.Thread(target=fill)
        other.start()
        try:
            yield
        finally:
            over.set()
            other.join()
            (place / "others").unlink(missing_ok=True)

    def settled(self) -> None:
        """Return when no job of a run that was killed holds the machine."""
        wait_until(self._idle, 60, "libvirt has done what it was told")

    def _idle(self) -> bool:
        try:
            info = self.vm.domain.jobInfo()
            return info[0] == libvirt.VIR_DOMAIN_JOB_NONE
        except libvirt.libvirtError:
            return not self.vm.active()
