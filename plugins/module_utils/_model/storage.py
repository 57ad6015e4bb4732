# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots that are made by the storage below the images, and what they stand on.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from .snapshot import CRASH, FILESYSTEM, OFFLINE
from .volume import Volume

LVM, REFLINK, BTRFS = "lvm", "reflink", "btrfs"
BACKENDS = (LVM, REFLINK, BTRFS)
_STORED = "storage snapshot "
SUBVOLUMES = ".vmkeep"
"""The directory in a subvolume that holds the snapshots of it."""


@dataclass(frozen=True)
class Copy:
    """One disk's part of a storage snapshot.

    ``image`` is the image that it is of: a file without symbolic links, or a device as the
    definition names it. ``file`` is where its content can be read, ``made`` what was made for it:
    that file, the logical volume VG/LV, or the subvolume that holds it. ``volume`` is what holds
    the image: VG/LV, or a subvolume. ``size`` are the bytes for changes of an LVM snapshot that is
    not thin. ``below`` are (path, stamp) of the images that the image stands on, once it is made
    in the form of ``stamp`` where that tells more. ``stamp`` is that of what was made, as text
    (see stamp.py), '' where it could not be read.
    """

    target: str
    backend: str
    image: str
    made: str
    file: str
    volume: str = ""
    thin: bool = False
    size: int = 0
    below: tuple[tuple[str, str], ...] = ()
    stamp: str = ""

    @property
    def is_merged(self) -> bool:
        """Whether going back to it merges it into its origin, which uses it up."""
        return self.backend == LVM and not self.thin

    @property
    def place(self) -> str:
        """What gets the content when the VM goes back: a file, or VG/LV."""
        return self.volume if self.backend == LVM else self.image

    @property
    def new(self) -> str:
        """What will take that place, while it is made."""
        return f"{self.place}.vmkeep-new"

    @property
    def old(self) -> str:
        """What had that place, until all disks are back."""
        return f"{self.place}.vmkeep-old"


@dataclass(frozen=True)
class StorageSnapshot:
    """A point in time that the storage keeps, with a copy for each disk.

    ``created`` is in seconds since 1970. ``recorded`` is False where the record of it is lost and
    it was found by what its copies say of themselves.
    """

    name: str
    consistency: str
    created: int
    copies: tuple[Copy, ...]
    recorded: bool = True

    def copy(self, target: str) -> Copy | None:
        return next((copy for copy in self.copies if copy.target == target), None)


def stored_user(name: str, vm: str) -> str:
    """How a storage snapshot is called that stands on an image."""
    return f"{_STORED}{name} of VM {vm}"


def stored_name(user: str) -> str:
    """The name of the storage snapshot that is called so, '' for another user of an image."""
    return user[len(_STORED) :].partition(" ")[0] if user.startswith(_STORED) else ""


@dataclass(frozen=True)
class Ground:
    """What is below the active image of a disk.

    ``subvolume`` is the btrfs subvolume of a file, ``volume`` the logical volume of a device;
    ``below`` as in Copy; ``trouble`` says why a device is no logical volume as far as is known.
    """

    target: str
    subvolume: str = ""
    volume: Volume | None = None
    below: tuple[tuple[str, str], ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class StorageState:
    """What was observed below the images of one VM; only where ``seen``.

    ``existing`` are those of the things that its copies and its journal name that exist, and
    ``written`` those that somebody wrote to, or put another one in the place of. ``at``
    are (target, snapshot) of the disks that provably hold just what that snapshot holds, since
    they went back to it and nothing was written to them since. ``below`` are (path, stamp) of the
    images that its copies stand on, as they are now, of those that exist. ``kept`` are what copies
    have recorded so, of images that hold the same still, whatever QEMU keeps in them besides.
    """

    seen: bool = False
    snapshots: tuple[StorageSnapshot, ...] = ()
    grounds: tuple[Ground, ...] = ()
    volumes: tuple[Volume, ...] = ()
    existing: frozenset[str] = frozenset()
    at: tuple[tuple[str, str], ...] = field(default=())
    written: frozenset[str] = frozenset()
    below: tuple[tuple[str, str], ...] = ()
    kept: frozenset[tuple[str, str]] = frozenset()

    def snapshot(self, name: str) -> StorageSnapshot | None:
        return next((found for found in self.snapshots if found.name == name), None)

    def ground(self, target: str) -> Ground:
        return next((g for g in self.grounds if g.target == target), Ground(target))

    def volume(self, name: str) -> Volume | None:
        return next((volume for volume in self.volumes if volume.name == name), None)

    def damages(self, snapshot: StorageSnapshot) -> Iterator[str]:
        """Why it could not be gone back to, in words; nothing for one that is whole."""
        for copy in snapshot.copies:
            volume = self.volume(copy.made) if copy.backend == LVM else None
            if copy.made not in self.existing:
                yield f"{copy.made}, which held {copy.target}, is gone"
            elif volume and volume.invalid:
                yield (
                    f"{copy.made}, which held {copy.target}, is invalid: its space for changes"
                    " overflowed"
                )
            elif copy.made in self.written:
                yield f"{copy.file}, which held {copy.target}, was written to since"


UNSEEN = StorageState()
"""Where nobody has looked."""


def copy_file(image: str, name: str) -> str:
    """The file that a reflink snapshot of an image is kept in: beside it, as IMAGE@NAME."""
    return f"{image}@{name}"


def copy_volume(volume: str, name: str) -> str:
    """The logical volume that keeps a snapshot of another one: VG/LV.NAME."""
    return f"{volume}.{name}"


def copy_subvolume(subvolume: str, vm: str, name: str) -> str:
    """Where the snapshot of a subvolume is kept; ``vm`` as a part of a file name."""
    return posixpath.join(subvolume, SUBVOLUMES, f"{vm}@{name}")


def mark_of(snapshot: StorageSnapshot, copy: Copy, uuid: str) -> dict[str, str]:
    """What a copy says of itself, so that it is known as ours where its record is lost."""
    return {
        "vm": uuid,
        "name": snapshot.name,
        "target": copy.target,
        "of": copy.place,
        "consistency": snapshot.consistency,
        "created": str(snapshot.created),
    }


def is_marked(mark: Mapping[str, str], uuid: str, name: str) -> bool:
    """Whether that is the mark of a copy of this VM's snapshot."""
    return mark.get("vm") == uuid and mark.get("name") == name


def from_mark(mark: Mapping[str, str], copy: Copy) -> StorageSnapshot:
    """The snapshot that a single copy speaks of. What it does not say is not guessed upward."""
    known = mark.get("consistency") in (OFFLINE, FILESYSTEM)
    created = mark.get("created", "")
    return StorageSnapshot(
        mark["name"],
        mark["consistency"] if known else CRASH,
        int(created) if created.isdecimal() else 0,
        (copy,),
        recorded=False,
    )


def gathered(found: Iterator[StorageSnapshot]) -> tuple[StorageSnapshot, ...]:
    """Snapshots of one copy each, put together by name; what the worst copy says is believed."""
    by_name: dict[str, StorageSnapshot] = {}
    for part in found:
        other = by_name.get(part.name, replace(part, copies=()))
        worth = part.consistency if part.consistency == other.consistency else CRASH
        copies = tuple(sorted((*other.copies, *part.copies), key=lambda copy: copy.target))
        by_name[part.name] = replace(other, consistency=worth, copies=copies)
    return tuple(by_name.values())
