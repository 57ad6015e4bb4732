# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was observed of one VM at one moment.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .backups import Backups
from .domain import Definition, Disk
from .freeze import FreezeRecord, Guest
from .image import Image
from .save import Saves
from .snapshot import Snapshot
from .stamp import Seen
from .storage import UNSEEN, StorageState

OFF = "shutoff"


@dataclass(frozen=True)
class DiskState:
    """A disk with its real chain (active image first), read from the images themselves.

    ``persistent`` is the path in the inactive definition ('' for a transient VM), ``recorded``
    what that lists below it; ``trouble`` says why the chain could not be read, which then is
    empty, and ``denied`` what to do where only this user may not. ``unwritten`` is True where the
    VM is off and its active image holds nothing yet. ``stacked`` is what the inactive definition
    tells of snapshots before (see Disk).
    """

    disk: Disk
    chain: tuple[Image, ...] = ()
    persistent: str = ""
    recorded: tuple[str, ...] = ()
    trouble: str = ""
    unwritten: bool = False
    stacked: tuple[str, ...] = ()
    denied: str = ""

    @property
    def target(self) -> str:
        return self.disk.target

    def depth_of(self, path: str) -> int | None:
        """The place of an image in the chain (0 is the active one), by path."""
        for depth, image in enumerate(self.chain):
            if path in (image.filename, image.file.real):
                return depth
        return None

    @property
    def files(self) -> tuple[str, ...]:
        """The chain as file names."""
        return tuple(image.filename for image in self.chain)

    @property
    def real(self) -> tuple[str, ...]:
        """The same without symbolic links."""
        return tuple(image.file.real for image in self.chain)


@dataclass(frozen=True)
class VmState:
    """A domain with everything that a decision about its disks needs.

    ``missing`` are the files that snapshots need and that do not exist. ``branches`` are the
    chains of images that snapshots go back to and no disk stands on. ``reverted`` names the
    snapshot that a dead run was to go back to, once this run has finished that. ``storage`` is
    what is below the images, where somebody wants to know. ``freeze`` is a freeze of
    ours that outlives its run. ``dropped`` are snapshots that libvirt forgot when the VM, which is
    transient, stopped, each after its parent. ``guest`` and ``saves`` are there only for plans that
    want to know them, as are ``shared``, the images in its chains that something else stands on,
    ``committed``, overlays in no chain whose content was provably moved into one by hand, and
    ``backups``, its restore points in the repository that a run is about. ``seen`` is what the
    images tell that snapshots have stamps of. ``config`` is the definition by which it starts next,
    None where that was not read. ``unfit`` are (memory file of a snapshot, why no VM, or not this
    one, could go on from it). ``numbered`` are files beside the overlays of other tools' snapshots
    that going back to those may have left, and that nobody records.
    """

    name: str
    uuid: str
    status: str
    persistent: bool
    live: Definition
    disks: tuple[DiskState, ...]
    snapshots: tuple[Snapshot, ...]  # oldest first
    missing: frozenset[str] = frozenset()
    journal: Mapping[str, Any] | None = None
    branches: tuple[tuple[Image, ...], ...] = ()
    reverted: str = ""
    storage: StorageState = UNSEEN
    freeze: FreezeRecord | None = None
    guest: Guest | None = None
    dropped: tuple[Snapshot, ...] = ()
    saves: Saves | None = None
    shared: frozenset[str] = frozenset()
    committed: frozenset[str] = frozenset()
    backups: Backups | None = None
    seen: tuple[Seen, ...] = ()
    config: Definition | None = None
    unfit: tuple[tuple[str, str], ...] = ()
    numbered: frozenset[str] = frozenset()

    @property
    def off(self) -> bool:
        return self.status == OFF

    @property
    def unsettled(self) -> bool:
        """Whether the next run has something to bring in order before its own work."""
        expired = self.freeze is not None and self.freeze.expired
        return self.journal is not None or expired or bool(self.dropped)

    def disk(self, target: str) -> DiskState | None:
        return next((disk for disk in self.disks if disk.target == target), None)

    @property
    def paths(self) -> dict[str, str]:
        """target -> the image that a disk is on now."""
        return {disk.target: disk.disk.path for disk in self.disks}

    def snapshot(self, name: str) -> Snapshot | None:
        return next((snapshot for snapshot in self.snapshots if snapshot.name == name), None)

    def in_a_chain(self, path: str) -> bool:
        """Whether a disk stands on an image now."""
        return any(disk.depth_of(path) is not None for disk in self.disks)

    def chain_of(self, path: str) -> tuple[Image, ...]:
        """An image and all below it, () if nobody here stands on it or goes back to it."""
        for chain in (*(disk.chain for disk in self.disks), *self.branches):
            for depth, image in enumerate(chain):
                if path in (image.filename, image.file.real):
                    return chain[depth:]
        return ()

    @property
    def writable(self) -> tuple[DiskState, ...]:
        """The disks that a guest writes to; CD-ROM, floppy and read-only disks are left out."""
        return tuple(disk for disk in self.disks if disk.disk.writable)


@dataclass(frozen=True)
class FileFact:
    """What stands at a path: ``kind`` is file, directory, other or '' for nothing.

    ``identity`` is that of an image (see ``identity_of``), None for nothing.
    """

    path: str
    kind: str
    size: int = 0
    identity: tuple[int, int] | None = None


@dataclass(frozen=True)
class DirectoryFact:
    """A directory that is to receive files, in bytes. ``trouble`` is '' when it can.

    ``real`` is its path without symbolic links, '' where that was not looked up.
    """

    path: str
    free: int = 0
    trouble: str = ""
    size: int = 0
    real: str = ""


@dataclass(frozen=True)
class ImageUse:
    """Somebody who stands on an image: a VM's disk, a snapshot of a VM, or an image file.

    ``writes``: it is the active image of a VM's disk.
    """

    image: str
    user: str
    writes: bool = False


@dataclass(frozen=True)
class Job:
    """A block job; ``kind`` is pull, copy, commit, active-commit or backup."""

    target: str
    kind: str
    base: str = ""
    ready: bool = False


@dataclass(frozen=True)
class Facts:
    """What was looked up for one plan: only what its steps need.

    ``read_only`` are images to be written to that are on a read-only file system. ``stocked`` is
    the repository that an image lies in which a merge would change. ``held`` is why QEMU would
    not write memory.
    ``agent`` is thawed, frozen or silent, '' where it was not asked; ``blocked`` are the commands
    that it is known not to allow, ``points`` the mount points of what lies on the disks that are
    taken, None where all is to be frozen. ``memory`` is in bytes.
    ``clones`` tells of directories why files cannot be cloned there ('' if they can), and
    ``dwellers`` which disks of other VMs lie in a subvolume. ``backups`` are the names of libvirt's
    backup checkpoints, where they matter, and ``bitmaps`` are (image, name) of what a running QEMU
    will write to images when it ends. ``rooms`` are bytes that the new image of a disk takes in
    a restore point, by target; ``left`` has to stay free there for guests, and ``debris`` becomes
    free before. ``flash``: libvirt takes internal snapshots of VMs with UEFI that are off.
    ``saved_to`` is a file that we have saved the VM to and that it can go on from.
    ``memory_written``: of a paused VM that has not run since; ``inactive``: QEMU has let go of
    images of a paused VM.
    """

    files: Mapping[str, FileFact]
    directories: Mapping[str, DirectoryFact]
    uses: tuple[ImageUse, ...] = ()
    jobs: tuple[Job, ...] = ()
    managed_save: bool = False
    saved_to: str = ""
    held: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    stocked: Mapping[str, str] = field(default_factory=dict)
    agent: str = ""
    blocked: tuple[str, ...] = ()
    points: tuple[str, ...] | None = None
    memory: int = 0
    clones: Mapping[str, str] = field(default_factory=dict)
    dwellers: tuple[ImageUse, ...] = ()
    backups: tuple[str, ...] = ()
    bitmaps: tuple[tuple[str, str], ...] = ()
    rooms: Mapping[str, int] = field(default_factory=dict)
    left: int = 0
    debris: int = 0
    flash: bool = False
    memory_written: bool = False
    inactive: bool = False

    def job(self, target: str) -> Job | None:
        return next((job for job in self.jobs if job.target == target), None)
