# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk image says about itself.

The words are those of ``qemu-img info --output=json``. Sizes and offsets are in bytes.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .problem import Damaged
from .reference import full_name

# read(offset, length) returns that many bytes, fewer only at the end of the file.
Read = Callable[[int, int], bytes]
# What two paths to one image have in common, see identity_of.
Identity = tuple[int, int]

INCOMPATIBLE_DIRTY = 1 << 0
INCOMPATIBLE_CORRUPT = 1 << 1
INCOMPATIBLE_DATA_FILE = 1 << 2
INCOMPATIBLE_COMPRESSION = 1 << 3
INCOMPATIBLE_EXTENDED_L2 = 1 << 4
COMPATIBLE_LAZY_REFCOUNTS = 1 << 0
AUTOCLEAR_BITMAPS = 1 << 0
AUTOCLEAR_DATA_FILE_RAW = 1 << 1


def identity_of(facts: os.stat_result) -> Identity:
    """What to compare paths by: two paths with the same identity are one image.

    Files: (st_dev, st_ino). Block devices: (st_rdev, 0), since one device has many nodes and no
    file has inode 0.
    """
    if stat.S_ISBLK(facts.st_mode):
        return (facts.st_rdev, 0)
    return (facts.st_dev, facts.st_ino)


class File(NamedTuple):
    """The file or block device that holds an image.

    ``filename`` is the name by which it was opened, ``real`` the same without symbolic links,
    ``length`` what can be read of it, ``allocated`` what it takes on the disk. ``time`` is that of
    its last write in ns, 0 where that is not known.
    """

    filename: str
    real: str
    length: int
    allocated: int
    identity: Identity
    time: int = 0


def damaged(found: str, wanted: str = "") -> Damaged:
    """The error for a file that breaks the rules of its format. Whoever knows its name adds it."""
    todo = "do not start a VM with this image; restore it from a backup, or find out who made it"
    return Damaged(found, wanted=wanted, todo=todo)


class Header(NamedTuple):
    """The fixed fields of a qcow2 header as they stand in the file (interop/qcow2)."""

    magic: bytes
    version: int
    backing_offset: int
    backing_length: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_size: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshot_count: int
    snapshot_offset: int
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_length: int = 72
    compression: int = 0

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def compat(self) -> str:
        """The version as qemu-img names it: 0.10 is version 2, 1.1 is version 3."""
        return "0.10" if self.version == 2 else "1.1"

    @property
    def compression_type(self) -> str:
        return "zstd" if self.compression else "zlib"

    @property
    def refcount_bits(self) -> int:
        return 1 << self.refcount_order

    @property
    def lazy_refcounts(self) -> bool:
        return self.compatible & COMPATIBLE_LAZY_REFCOUNTS != 0

    @property
    def extended_l2(self) -> bool:
        return self.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0

    @property
    def dirty(self) -> bool:
        """Whether reference counts may be stale: lazy_refcounts and not closed properly."""
        return self.incompatible & INCOMPATIBLE_DIRTY != 0

    @property
    def corrupt(self) -> bool:
        """Whether QEMU found damage and now refuses to write to the image."""
        return self.incompatible & INCOMPATIBLE_CORRUPT != 0

    @property
    def data_file_raw(self) -> bool:
        """Whether the external data file can be used as a raw image."""
        external = self.incompatible & INCOMPATIBLE_DATA_FILE
        return external != 0 and self.autoclear & AUTOCLEAR_DATA_FILE_RAW != 0


@dataclass(frozen=True)
class InternalSnapshot:
    """An entry of the snapshot table. Names need not be unique; ids are.

    ``icount`` is None where it was not recorded; ``disk_size`` is the size to go back to.
    """

    id: str
    name: str
    vm_state_size: int
    date_sec: int
    date_nsec: int
    vm_clock_sec: int
    vm_clock_nsec: int
    icount: int | None
    disk_size: int


@dataclass(frozen=True)
class Bitmap:
    """A persistent dirty bitmap. ``flags`` are ``in-use`` and ``auto``, as qemu-img names them."""

    name: str
    granularity: int
    flags: tuple[str, ...]

    @property
    def auto(self) -> bool:
        """Whether it records writes."""
        return "auto" in self.flags

    @property
    def inconsistent(self) -> bool:
        """Whether it was not closed properly; true of all bitmaps while QEMU has the image."""
        return "in-use" in self.flags


@dataclass(frozen=True)
class KeySlot:
    """A LUKS key slot; ``iters`` and ``stripes`` are None where it is not active."""

    active: bool
    key_offset: int
    iters: int | None = None
    stripes: int | None = None


@dataclass(frozen=True)
class Encryption:
    """How an image is encrypted: ``format`` is aes or luks. Never any key material."""

    format: str
    cipher_alg: str | None = None
    cipher_mode: str | None = None
    ivgen_alg: str | None = None
    ivgen_hash_alg: str | None = None
    hash_alg: str | None = None
    uuid: str | None = None
    payload_offset: int | None = None
    master_key_iters: int | None = None
    slots: tuple[KeySlot, ...] = ()


class Image(NamedTuple):
    """A disk image.

    ``format_source`` says how the format is known: ``given`` by the caller, ``recorded`` in
    the overlay above, ``probed`` from the content, or ``assumed`` (raw, since the overlay
    records none). ``virtual_size`` is None where the format is only known by name.
    ``backing_filename`` and ``data_file`` are written as in the header. ``snapshots`` and
    ``bitmaps`` are empty where they were not asked for. ``bitmaps_stale`` is True once a program
    that knows nothing of bitmaps has written to the image; they count for nothing then and,
    as in qemu-img, are not listed.
    """

    file: File
    format: str
    format_source: str
    virtual_size: int | None = None
    header: Header | None = None
    backing_filename: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    encrypt: Encryption | None = None
    snapshots: tuple[InternalSnapshot, ...] = ()
    bitmaps: tuple[Bitmap, ...] = ()
    bitmaps_stale: bool = False

    def holding(self, name: str) -> Image:
        """The image once it holds one more snapshot of its content of now.

        QEMU counts ids up from the highest number there is.
        """
        numbers = [int(each.id) for each in self.snapshots if each.id.isdecimal()]
        id, size = str(max(numbers, default=0) + 1), self.virtual_size or 0
        taken = InternalSnapshot(id, name, 0, 0, 0, 0, 0, None, size)
        return self._replace(snapshots=(*self.snapshots, taken))

    @property
    def filename(self) -> str:
        return self.file.filename

    @property
    def actual_size(self) -> int:
        return self.file.allocated

    @property
    def identity(self) -> Identity:
        return self.file.identity

    @property
    def full_backing_filename(self) -> str | None:
        """The backing file as QEMU looks for it: relative names start at this image's directory."""
        name = self.backing_filename
        return full_name(self.file.filename, name) if name else None

    @property
    def encrypted(self) -> bool:
        return self.encrypt is not None

    @property
    def cluster_size(self) -> int | None:
        return self.header.cluster_size if self.header else None

    @property
    def compat(self) -> str | None:
        """The qcow2 version (see Header); None for other formats."""
        return self.header.compat if self.header else None

    @property
    def dirty(self) -> bool:
        return self.header is not None and self.header.dirty

    @property
    def corrupt(self) -> bool:
        return self.header is not None and self.header.corrupt
