# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is below the images: an ordinary directory, or a file system that takes snapshots."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.file_systems import mount_new

from .images import is_state

# Memory is saved there, too. The file has holes.
SIZE = 4 << 30
# What a run has while it goes back, and takes away at its end.
PASSING = (".vmkeep-new", ".vmkeep-old")


class Storage:
    """The place below which a lab has its machines, a file system of this kind if there is one."""

    def __init__(self, lab: Path, kind: str) -> None:
        self.place = lab / "v"
        self._image = lab / "storage.img" if kind else None
        if self._image:
            mount_new(kind, self._image, self.place, SIZE)

    def close(self) -> None:
        """Unmount it, with all that is left there."""
        if self._image:
            subprocess.run(["umount", str(self.place)], check=True)
            self._image.unlink()

    def copies(self) -> list[Path]:
        """The images in storage snapshots, and what a run has left that was to go back to one.

        They are the files IMAGE@NAME, and the images in subvolumes .vmkeep/VM@NAME.
        """
        found = [
            path
            for path in self.place.glob("*/*")
            if ("@" in path.name or path.name.endswith(PASSING)) and path.is_file()
        ]
        kept = filter(is_state, self.place.glob(".vmkeep/*@*/*/*"))
        return sorted((*found, *kept))

    def names(self) -> set[str]:
        """The storage snapshots that have copies; what should not be there by its own name."""
        return {self._name(path) for path in self.copies()}

    def copy(self, machine: str, image: str, name: str) -> Path:
        """The file that has what an image held when a snapshot of the machine was taken."""
        beside = Path(f"{image}@{name}")
        inside = self.place / ".vmkeep" / f"{machine}@{name}" / Path(image).relative_to(self.place)
        return beside if beside.exists() else inside

    def _name(self, path: Path) -> str:
        inside = path.relative_to(self.place).parts
        part = inside[1] if inside[0] == ".vmkeep" else path.name
        return part.partition("@")[2] or part
