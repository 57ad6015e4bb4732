# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that change images, and what a definition says of them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class CreateOverlay:
    """Create an empty overlay on an image: mode 0600, the image's owner, its bitmaps continued.

    ``bitmaps`` are (name, granularity in bytes); only an offline overlay needs them, QEMU
    itself continues the bitmaps of a running VM.
    """

    step: ClassVar[str] = "create_overlay"
    target: str
    file: str
    backing: str
    backing_format: str
    size: int
    bitmaps: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class CommitDisk:
    """Merge ``top`` and all between it and ``base`` into ``base``.

    ``how`` is active (block job with pivot), middle (block job) or offline (qemu-img);
    ``merged`` are the images that leave the chain; ``overlay`` is the image above ``top``
    ('' if none), and ``relative`` how it is to name its base ('' for the full path); ``resume``
    continues the job that an earlier run left; ``bandwidth`` is in MiB/s, 0 for no limit.
    ``bytes`` is what the merged images have allocated.
    """

    step: ClassVar[str] = "commit"
    target: str
    base: str
    base_format: str
    top: str
    top_format: str
    merged: tuple[str, ...]
    how: str
    overlay: str = ""
    relative: str = ""
    bitmaps: tuple[tuple[str, str, int], ...] = ()
    bandwidth: int = 0
    resume: bool = False
    bytes: int = 0

    @property
    def pivot_mark(self) -> str:
        """The note made in the journal before QEMU is told to switch the disk to its base."""
        return f"pivot {self.target}"


@dataclass(frozen=True)
class PullDisk:
    """Copy what the images between the active image ``into`` and ``base`` hold up into it.

    Then it stands on ``base``, or on nothing where that is ''. ``pulled`` are the images that
    leave the chain; ``how`` is running (block job) or offline (qemu-img); ``bitmaps`` are (image,
    bitmap) to be added to those of ``into``. ``resume`` continues what an earlier run began.
    ``doubtful``: QEMU went off before all that it had copied was on the disk for sure, so
    ``into`` is put back on what it stood on, and it is copied once more. ``relative``,
    ``bandwidth`` and ``bytes`` as in CommitDisk.
    """

    step: ClassVar[str] = "pull"
    target: str
    into: str
    base: str
    base_format: str
    pulled: tuple[str, ...]
    pulled_format: str
    how: str
    relative: str = ""
    bitmaps: tuple[tuple[str, str], ...] = ()
    bandwidth: int = 0
    resume: bool = False
    doubtful: bool = False
    bytes: int = 0

    def mark(self, number: str, boot: str) -> str:
        """The note made in the journal before QEMU is told, which tells one QEMU from another.

        ``number``: see Definition; ``boot`` is the boot of the host.
        """
        return f"pull {self.target} in {number} of {boot}"

    @property
    def pause_mark(self) -> str:
        """The note made before the VM is paused for a moment, so that QEMU writes all it has."""
        return f"pause for {self.target}"


@dataclass(frozen=True)
class SetSource:
    """Point a disk of the persistent definition at an image (which may be the one it has).

    ``gone`` are images that it must no longer record below that.
    """

    step: ClassVar[str] = "set_source"
    target: str
    old: str
    new: str
    format: str
    gone: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemoveFile:
    """Delete a file that nothing uses any more; ``why`` says what it was.

    ``spare``: where something else uses it after all, it is kept, and that is no error.
    """

    step: ClassVar[str] = "remove_file"
    file: str
    why: str
    spare: bool = False
