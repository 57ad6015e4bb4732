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

from .problem import Damaged

FORMAT = 1
MANIFEST = "manifest.json"
VERIFIED = "verified.json"
FULL, INCREMENTAL = "full", "incremental"
NOT_ASKED = "not asked for"  # why a disk is left out that could have been taken
IMAGE, DOMAIN, NVRAM, TPM = "image", "domain", "nvram", "tpm"
CONSISTENCIES = ("offline", "filesystem", "crash")
_ROLES = (IMAGE, DOMAIN, NVRAM, TPM)
_ID = re.compile(r"\d{8}T\d{6}Z(-[1-9]\d{0,3})?\Z")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}\Z")
_TARGET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_LONGEST = 1e12


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
    """The manifest of a restore point; :func:`parse_manifest` is its inverse."""
    content = {"format": FORMAT, **dataclasses.asdict(point)}
    del content["digest"]
    return json.dumps({**content, "seal": _seal(content)}, indent=1, sort_keys=True) + "\n"


def _seal(content: Mapping[str, Any]) -> str:
    """The digest of what a manifest says, kept in it: a flipped byte is seen in itself."""
    return digest_of(json.dumps(content, sort_keys=True, separators=(",", ":")))


def digest_of(text: str) -> str:
    """The SHA-256 of a manifest, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(point: RestorePoint) -> RestorePoint:
    """The point with the digest that its manifest has."""
    return dataclasses.replace(point, digest=digest_of(manifest_text(point)))


def parse_manifest(text: str, where: str) -> RestorePoint:
    """Read a manifest that stands ``where``. Damaged if it breaks the rules of the format."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        if content.pop("seal", None) != _seal(content):
            raise ValueError("it is not as it was written, its seal does not match")
        del content["format"]
        return _point(content, digest_of(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(
            f"the manifest {where} cannot be understood: {error}",
            wanted=f"a manifest of format {FORMAT} as this collection writes it",
            todo="restore from another point, and move the folder of this one away",
        ) from error


def _point(content: Mapping[str, Any], digest: str) -> RestorePoint:
    values = dict(content)
    values["files"] = tuple(StoredFile(**file) for file in content["files"])
    values["disks"] = tuple(StoredDisk(**disk) for disk in content["disks"])
    values["left_out"] = tuple((str(target), str(why)) for target, why in content["left_out"])
    values["formerly"] = tuple(content["formerly"])
    values["parent"] = Parent(**content["parent"]) if content["parent"] else None
    point = RestorePoint(**values, digest=digest)
    for complaint in _complaints(point):
        raise ValueError(complaint)
    return point


def _complaints(point: RestorePoint) -> list[str]:
    """What is wrong with the values of a manifest, which may have been made to mislead."""
    digests = [file.sha256 for file in point.files] + list(point.formerly)
    digests += [point.parent.digest] if point.parent else []
    names = [file.name for file in point.files]
    names += [file.staged for file in point.files if file.staged]
    images = {file.name for file in point.files if file.role == IMAGE}
    types = {disk.type for disk in point.disks}
    checks = (
        (bool(_ID.match(point.id)), "its id is none"),
        (point.parent is None or bool(_ID.match(point.parent.id)), "its parent's id is none"),
        (all(_is_text(text) for text in _texts(point)), "a text is none"),
        (all(_is_file_name(name) for name in names), "a file has a name that is not allowed"),
        (len(set(names)) == len(names), "two files have one name"),
        (all(file.role in _ROLES for file in point.files), "a file has an unknown role"),
        (all(_natural(file.size) for file in point.files), "a size is no number of bytes"),
        (all(_DIGEST.match(digest) for digest in digests), "a digest is no SHA-256"),
        ({disk.file for disk in point.disks} == images, "its disks and its images differ"),
        (len({d.target for d in point.disks}) == len(point.disks), "two disks have one target"),
        (all(_TARGET.match(disk.target) for disk in point.disks), "a disk has no proper target"),
        (all(_natural(disk.virtual_size) for disk in point.disks), "a disk has no size"),
        (types <= {FULL, INCREMENTAL}, "a disk is of an unknown type"),
        (point.type == type_of(point.disks), "its type is not that of its disks"),
        ((INCREMENTAL in types) == (point.parent is not None), "it should have a parent or not"),
        (point.consistency in CONSISTENCIES, "its consistency is unknown"),
        (_natural(point.sequence), "its sequence is no number"),
        (_natural(point.frozen_ms), "the time of its freeze is no number"),
        (_is_duration(point.seconds), "its duration is no number of seconds"),
        (isinstance(point.protected, bool), "whether it is protected is not said"),
        (moment(point.time) is not None, "its time is none"),
    )
    return [complaint for good, complaint in checks if not good]


def _texts(point: RestorePoint) -> list[object]:
    own = [point.vm, point.uuid, point.reason, point.started, point.finished, point.checkpoint]
    of_disks = [text for d in point.disks for text in (d.target, d.format, d.source)]
    of_left_out = [text for pair in point.left_out for text in pair]
    return [*own, point.libvirt, point.qemu, *of_disks, *of_left_out]


def _is_text(text: object) -> bool:
    return isinstance(text, str)


def _is_file_name(name: str) -> bool:
    """Whether a file of a restore point may be called so: never like what is kept about it."""
    ours = (MANIFEST, VERIFIED)
    return bool(_FILE.match(name)) and not name.endswith(".new") and name not in ours


def _is_duration(number: object) -> bool:
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return is_number and 0 <= number < _LONGEST  # type: ignore[operator]


def _natural(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


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
    except (ValueError, TypeError):
        return None
    return found.astimezone(timezone.utc) if found.tzinfo else found.replace(tzinfo=timezone.utc)


def in_utc(time: datetime) -> str:
    """The time as a manifest writes it."""
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def id_at(time: datetime, taken: Iterable[str]) -> str:
    """A new id for a restore point of this time; ``taken`` are those that there are."""
    first = time.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    known = set(taken)
    others = (f"{first}-{number}" for number in range(1, 10_000))
    return next(name for name in (first, *others) if name not in known)
