# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points, and the manifest that each of them consists of besides its files.

docs/repository.md describes the format for people and other programs.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"
VERIFIED = "verified.json"
FULL, INCREMENTAL = "full", "incremental"
NOT_ASKED = "not asked for"  # why a disk is left out that could have been taken
IMAGE, DOMAIN, NVRAM, TPM = "image", "domain", "nvram", "tpm"
CONSISTENCIES = ("offline", "filesystem", "crash")
_ID = re.compile(r"\d{8}T\d{6}Z(-[1-9]\d{0,3})?\Z")


@dataclass(frozen=True)
class StoredFile:
    """A file of a restore point: its name in the folder of the point, bytes, SHA-256 in hex.

    ``staged``: as long as a file of that name is there, it is the one that is meant. It takes the
    place of ``name``, which so far has the same content in another form.
    """

    name: str
    role: str
    size: int
    sha256: str
    staged: str = ""


@dataclass(frozen=True)
class StoredDisk:
    """A disk of a restore point.

    ``file`` is a qcow2 image, ``type`` full or incremental; ``format``, ``source`` and
    ``virtual_size`` (bytes) are those of the disk it was taken from. ``tracked``: libvirt's
    checkpoint of the point holds for it, so the next one can be incremental.
    """

    target: str
    file: str
    type: str
    format: str
    virtual_size: int
    source: str
    tracked: bool = False


@dataclass(frozen=True)
class Parent:
    """The restore point that incremental disks stand on, and the SHA-256 of its manifest."""

    id: str
    digest: str


@dataclass(frozen=True)
class RestorePoint:
    """One finished backup of one VM: the content of a manifest.

    ``sequence`` counts the points of a VM, so their order does not depend on a clock. ``time`` is
    the point in time, ``started`` and ``finished`` frame the run (ISO 8601, UTC). ``checkpoint``
    is libvirt's, by which the next point can be incremental ('' for none). ``left_out`` are
    (target, why). ``formerly`` are the SHA-256 of manifests that this one replaced and whose
    content, as a guest sees it, was the same. ``digest`` is that of the manifest itself, which
    does not contain it.
    """

    id: str
    vm: str
    uuid: str
    sequence: int
    time: str
    type: str
    reason: str
    consistency: str
    files: tuple[StoredFile, ...]
    disks: tuple[StoredDisk, ...]
    started: str
    finished: str
    seconds: float
    frozen_ms: int = 0
    flush_ms: int = 0
    parent: Parent | None = None
    checkpoint: str = ""
    left_out: tuple[tuple[str, str], ...] = ()
    protected: bool = False
    libvirt: str = ""
    qemu: str = ""
    formerly: tuple[str, ...] = ()
    digest: str = ""

    @property
    def made(self) -> bool:
        """Whether it is there, and not only foreseen."""
        return self.digest != ""

    @property
    def bytes(self) -> int:
        """What its files take."""
        return sum(file.size for file in self.files)

    @property
    def selection(self) -> frozenset[str]:
        """The disks that it was asked for, none where it was asked for all."""
        partial = any(why == NOT_ASKED for _target, why in self.left_out)
        return frozenset(disk.target for disk in self.disks if partial)

    def covers(self, targets: Collection[str]) -> bool:
        """Whether it has these disks; without any whether it has all that it could have."""
        return all(map(self.disk, targets)) if targets else not self.selection

    def disk(self, target: str) -> StoredDisk | None:
        return next((disk for disk in self.disks if disk.target == target), None)

    def file(self, name: str) -> StoredFile | None:
        return next((file for file in self.files if file.name == name), None)

    def of_role(self, role: str) -> StoredFile | None:
        """The first file of a role."""
        return next((file for file in self.files if file.role == role), None)

    def stands_on(self, other: RestorePoint) -> bool:
        """Whether ``other`` is its parent, and the very one."""
        if self.parent is None or self.parent.id != other.id:
            return False
        return self.parent.digest in (other.digest, *other.formerly)


def manifest_text(point: RestorePoint) -> str:
    """The manifest of a restore point; :func:`.manifest.parse_manifest` is its inverse."""
    content = {"format": FORMAT, **dataclasses.asdict(point)}
    del content["digest"]
    return json.dumps({**content, "seal": seal_of(content)}, indent=1, sort_keys=True) + "\n"


def seal_of(content: Mapping[str, Any]) -> str:
    """The digest of what a manifest says, kept in it: a flipped byte is seen in itself."""
    return digest_of(json.dumps(content, sort_keys=True, separators=(",", ":")))


def digest_of(text: str) -> str:
    """The SHA-256 of a manifest, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(point: RestorePoint) -> RestorePoint:
    """The point with the digest that its manifest has."""
    return dataclasses.replace(point, digest=digest_of(manifest_text(point)))


def type_of(disks: Iterable[StoredDisk]) -> str:
    """Incremental where any disk is, since the point then stands on another one."""
    return INCREMENTAL if any(disk.type == INCREMENTAL for disk in disks) else FULL


def is_id(name: str) -> bool:
    """Whether a name could be the id of a restore point."""
    return bool(_ID.match(name))


def moment(text: str) -> datetime | None:
    """A time in ISO 8601, in UTC where it does not say; None if it is none."""
    try:
        # Python 3.9 and 3.10 do not know the Z.
        found = datetime.fromisoformat(re.sub(r"[zZ]\Z", "+00:00", text))
        zone = found.tzinfo or timezone.utc
        return found.replace(tzinfo=zone).astimezone(timezone.utc)
    except (ValueError, TypeError, OverflowError):
        return None


def in_utc(time: datetime) -> str:
    """The time as a manifest writes it."""
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def id_at(time: datetime, taken: Iterable[str]) -> str:
    """A new id for a restore point of this time; ``taken`` are those that there are."""
    first = time.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    known = set(taken)
    others = (f"{first}-{number}" for number in range(1, 10_000))
    return next(name for name in (first, *others) if name not in known)
