# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the manifest of a restore point, which may have been made to mislead.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .backup import (
    CONSISTENCIES,
    DOMAIN,
    FORMAT,
    FULL,
    IMAGE,
    INCREMENTAL,
    MANIFEST,
    NVRAM,
    TPM,
    VERIFIED,
    Parent,
    RestorePoint,
    StoredDisk,
    StoredFile,
    digest_of,
    is_id,
    moment,
    seal_of,
    type_of,
)
from .problem import Conflict, Damaged
from .version import VERSION

_ROLES = (IMAGE, DOMAIN, NVRAM, TPM)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}\Z")
_TARGET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_LONGEST = 1e12
_MOST = (1 << 63) - 1  # no file is longer


def parse_manifest(text: str, where: str) -> RestorePoint:
    """Read a manifest that stands ``where``.

    Damaged if it breaks the rules of the format, Conflict if it is of another one.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or "format" not in content:
            raise ValueError(f"it is not of format {FORMAT}")
        if content["format"] != FORMAT:
            raise _of_another_version(where, content["format"])
        if content.pop("seal", None) != seal_of(content):
            raise ValueError("it is not as it was written, its seal does not match")
        del content["format"]
        return _point(content, digest_of(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(
            f"the manifest {where} cannot be understood: {error}",
            wanted=f"a manifest of format {FORMAT} as this collection writes it",
            todo="restore from another point, and move the folder of this one away",
        ) from error


def _of_another_version(where: str, found: object) -> Conflict:
    return Conflict(
        f"the manifest {where} is of format {found!r:.40}, and version {VERSION} of the"
        f" collection knows format {FORMAT}",
        wanted="a manifest that this version understands",
        todo="use the version of the collection that wrote it; if none did, the manifest is"
        " damaged, so move the folder away",
    )


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
    names += [str(file.staged) for file in point.files if file.staged]
    images = {file.name for file in point.files if file.role == IMAGE}
    types = {disk.type for disk in point.disks}
    checks = (
        (is_id(point.id), "its id is none"),
        (point.parent is None or is_id(point.parent.id), "its parent's id is none"),
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
        (_natural(point.flush_ms), "the time of its flush is no number"),
        (_is_duration(point.seconds), "its duration is no number of seconds"),
        (all(isinstance(disk.tracked, bool) for disk in point.disks), "a disk is tracked or not"),
        (isinstance(point.protected, bool), "whether it is protected is not said"),
        (moment(point.time) is not None, "its time is none"),
    )
    return [complaint for good, complaint in checks if not good]


def _texts(point: RestorePoint) -> list[object]:
    own = [point.vm, point.uuid, point.reason, point.started, point.finished, point.checkpoint]
    of_disks = [text for d in point.disks for text in (d.target, d.format, d.source)]
    of_left_out = [text for pair in point.left_out for text in pair]
    staged = [file.staged for file in point.files]
    return [*own, point.libvirt, point.qemu, *of_disks, *of_left_out, *staged]


def _is_text(text: object) -> bool:
    """Whether the system could be asked for something of that name."""
    try:
        return isinstance(text, str) and b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _is_file_name(name: str) -> bool:
    """Whether a file of a restore point may be called so: never like what is kept about it."""
    ours = (MANIFEST, VERIFIED)
    return bool(_FILE.match(name)) and not name.endswith(".new") and name not in ours


def _is_duration(number: object) -> bool:
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return is_number and 0 <= number < _LONGEST  # type: ignore[operator]


def _natural(number: object) -> bool:
    is_number = isinstance(number, int) and not isinstance(number, bool)
    return is_number and 0 <= number <= _MOST  # type: ignore[operator]
