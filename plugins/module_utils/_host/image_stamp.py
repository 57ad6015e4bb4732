# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stamps of images that snapshots need, and what they tell later (see ``_model/stamp.py``).

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace

from .._model.image import Read
from .._model.problem import Problem
from .._model.qcow2_content import content_digest, marks
from .._model.snapshot import Snapshot
from .._model.stamp import Seen, Stamp, tables_differ, written
from .image_file import read_image
from .image_opener import ImageOpener
from .stamp import stamp as counted


def stamp_of(path: str, image_format: str, *, loose: bool = False) -> Stamp | None:
    """The stamp of an image at rest, None where it cannot be read."""
    found = _at_a_glance(path)
    if found is None or image_format != "qcow2":
        return found
    full = _in_full(found)
    return replace(full, loose=loose or full.loose)


def stamp_inside(path: str, name: str) -> Stamp | None:
    """The stamp of an internal snapshot in an image, None where it cannot be read."""
    try:
        image = read_image(path, format="qcow2")
        entry = next((found for found in image.snapshots if found.name == name), None)
        with _opened(path) as read:
            content = marks(read, image.file.length, [entry.id]) if entry else {}
    except (OSError, Problem):
        return None
    # One that is made anew may get the id, and even the tables, of the one that was deleted.
    known = repr((entry, content[entry.id])).encode() if entry else b""
    digest = hashlib.sha256(known).hexdigest()[:16] if known else ""
    return Stamp(path, tables=digest, backing=image.backing_filename or "")


def read_seen(
    snapshots: Iterable[Snapshot], stale: Set[tuple[str, str]] = frozenset()
) -> tuple[Seen, ...]:
    """What the images tell that snapshots have stamps of, but those that are out of date."""
    glances = Glances()
    return tuple(
        glances.seen(snapshot.name, then)
        for snapshot in snapshots
        for then in snapshot.stamps
        if (snapshot.name, then.image) not in stale
    )


class Glances:
    """Looks at images, each of which is looked at once."""

    def __init__(self) -> None:
        self._found: dict[str, Stamp | None] = {}
        self._full: dict[str, Stamp] = {}

    def seen(self, name: str, then: Stamp) -> Seen:
        path = then.image
        if then.inside:
            now = stamp_inside(path, name)
            return Seen(name, path, now.tables != then.tables if now and then.tables else None)
        if path not in self._found:
            self._found[path] = _at_a_glance(path)
        now = self._found[path]
        if now is None:
            return Seen(name, path, None)
        return Seen(name, path, self._written(then, now), then.time, now.time)

    def _written(self, then: Stamp, now: Stamp) -> bool | None:
        """As :func:`written`, with a look at the tables only where the time does not tell."""
        verdict = written(then, now)
        if verdict is False or not then.tables:
            return verdict
        if then.image not in self._full:
            self._full[then.image] = _in_full(now)
        now = self._full[then.image]
        verdict = written(then, now)
        return tables_differ(then, now) if verdict is None else verdict


def _at_a_glance(path: str) -> Stamp | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    if stat.S_ISBLK(facts.st_mode):
        return Stamp(path, counted=counted(path) or "device")
    return Stamp(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)


def _in_full(found: Stamp) -> Stamp:
    """The stamp of a qcow2 image with all that it tells itself, as far as it can be read.

    In one with bitmaps or ``lazy_refcounts`` QEMU writes something without the guest, and internal
    snapshots are deleted from an image without a change of its content.
    """
    try:
        image = read_image(found.image, format="qcow2")
        with _opened(found.image) as read:
            tables = content_digest(read)
    except (OSError, Problem):
        return found
    lazy = image.header is not None and image.header.lazy_refcounts
    loose = lazy or image.bitmaps_stale or bool(image.bitmaps) or bool(image.snapshots)
    return replace(found, tables=tables, backing=image.backing_filename or "", loose=loose)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Read]:
    with ImageOpener(None) as opener:
        descriptor = opener.open(path).descriptor
        try:
            yield lambda offset, size: os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
