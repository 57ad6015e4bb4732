# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading image files and backing chains. Nothing else in the collection opens an image to read.

What an image names as its backing file is a claim of whoever made the image. It is opened only
if it is a plain path to a regular file or block device in an allowed place; its data file is
never opened. Nothing here takes a lock, so the image of a running VM can be read.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .._model.formats import parse_image
from .._model.image import File, Image, damaged, identity_of
from .._model.problem import Damaged, Problem, Unsupported
from .._model.reference import full_name, is_reference, shown
from .image_opener import ImageOpener, Opened

# What libvirt accepts as well (VIR_STORAGE_MAX_CHAIN).
MAX_DEPTH = 200
# A file that nobody has written to for a second rests: what is wrong with it stays wrong.
_RESTS_AFTER = 1.0
_PAUSE = 0.002
_PATIENCE = 0.008
_LARGEST_L1 = 1 << 20


class Wish(NamedTuple):
    """Which image to read and how: see Image for ``source``; ``format`` None means to probe."""

    path: str
    format: str | None = None
    source: str = "given"
    tables: bool = True


def read_image(
    path: str,
    *,
    format: str | None = None,
    roots: Sequence[str] | None = None,
    snapshots: bool = True,
) -> Image:
    """Read one image, and nothing that it refers to.

    ``format`` None probes the content, which is wrong for a disk that a VM uses as raw.
    ``roots`` are the directories that the image must lie in; None is for paths that the caller
    trusts. ``snapshots`` False leaves snapshots and bitmaps out. Raises NotFound, BadInput,
    Unsupported, Damaged, or Problem where the kernel refuses.
    """
    with ImageOpener(roots) as opener:
        return read(opener, Wish(path, format, tables=snapshots))


def read_chain(
    path: str,
    *,
    format: str | None = None,
    roots: Sequence[str] | None = None,
    max_depth: int = MAX_DEPTH,
) -> tuple[Image, ...]:
    """Read an image and all that it stands on, the active image first.

    Options and errors are those of :func:`read_image`. A chain that cannot be read to its end
    raises, so what is returned is complete (but see :func:`walk_chain`). A backing file whose
    format is not recorded is taken for raw, as libvirt does, and never probed.
    """
    images, problem = walk_chain(path, format=format, roots=roots, max_depth=max_depth)
    if problem is not None:
        raise problem
    return images


def walk_chain(
    path: str,
    *,
    format: str | None = None,
    roots: Sequence[str] | None = None,
    max_depth: int = MAX_DEPTH,
) -> tuple[tuple[Image, ...], Problem | None]:
    """As :func:`read_chain`, but returns the images up to the problem, and the problem."""
    images: list[Image] = []
    try:
        with ImageOpener(roots) as opener:
            for image in walk(opener, Wish(path, format), max_depth):
                images.append(image)
    except Problem as problem:
        return tuple(images), problem
    return tuple(images), None


def walk(opener: ImageOpener, wish: Wish, max_depth: int = MAX_DEPTH) -> Iterator[Image]:
    """The images of a chain one by one; raises where it cannot go on."""
    top = wish.path
    seen: set[tuple[int, int]] = set()
    above = ""
    while True:
        try:
            image = read(opener, wish)
        except Problem as problem:
            found = f"{problem.found}{above and f' (backing file of {shown(above)})'}"
            raise type(problem)(found, wanted=problem.wanted, todo=problem.todo) from problem
        if image.file.identity in seen:
            raise damaged(f"the backing chain of {shown(top)} comes back to {shown(wish.path)}")
        seen.add(image.file.identity)
        yield image
        if not image.backing_filename:
            return
        if len(seen) >= max_depth:
            raise _too_deep(top, max_depth)
        wish, above = _backing(image), image.file.filename


def _backing(image: Image) -> Wish:
    """What is to be read below ``image``: a name that may be followed, and its format."""
    name = full_name(image.file.filename, image.backing_filename or "")
    if is_reference(name):
        raise _reference(f"backing file of {shown(image.filename)}", name)
    if image.backing_format:
        return Wish(name, image.backing_format, "recorded")
    return Wish(name, "raw", "assumed")


def read(opener: ImageOpener, wish: Wish) -> Image:
    """One image. Raises as :func:`read_image` does."""
    opened = opener.open(wish.path)
    try:
        image = _parse_settled(opened, wish)
    except OSError as error:
        raise Problem(f"{shown(wish.path)} cannot be read: {error.strerror}") from error
    finally:
        os.close(opened.descriptor)
    if image.data_file:
        _check_data_file(opener, image, image.data_file)
    return image


def is_unwritten(image: Image) -> bool:
    """Whether nothing was ever written to a qcow2 image: its L1 table names no L2 table.

    False where that is not known, as for a disk of many TiB.
    """
    header = image.header
    if image.format != "qcow2" or header is None or header.l1_size * 8 > _LARGEST_L1:
        return False
    try:
        with ImageOpener(None) as opener:
            opened = opener.open(image.filename)
            try:
                table = os.pread(opened.descriptor, header.l1_size * 8, header.l1_offset)
            finally:
                os.close(opened.descriptor)
    except (OSError, Problem):
        return False
    return len(table) == header.l1_size * 8 and not any(table)


def holds_data(path: str) -> bool:
    """Whether something was written to an overlay; what cannot be read no guest has run on."""
    try:
        return not is_unwritten(read_image(path, format="qcow2"))
    except Problem:
        return False


def _parse_settled(opened: Opened, wish: Wish) -> Image:
    """Parse, again if somebody writes to the image and a table may have moved meanwhile."""
    deadline = None
    while True:
        try:
            return _parse(opened, wish)
        except Damaged:
            deadline = deadline or time.monotonic() + _PATIENCE
            if _rests(opened.facts) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)
        opened = opened._replace(facts=os.fstat(opened.descriptor))


def _parse(opened: Opened, wish: Wish) -> Image:
    descriptor, real, facts = opened
    length = facts.st_size
    if not stat.S_ISREG(facts.st_mode):
        # A block device tells how long it is only in this way.
        length = os.lseek(descriptor, 0, os.SEEK_END)
    size, time = facts.st_blocks * 512, facts.st_mtime_ns
    file = File(wish.path, real, length, size, identity_of(facts), time)

    def read_at(offset: int, size: int) -> bytes:
        return os.pread(descriptor, size, offset)

    return parse_image(read_at, file, wish.format, wish.source, tables=wish.tables)


def _rests(facts: os.stat_result) -> bool:
    return stat.S_ISREG(facts.st_mode) and time.time() - facts.st_mtime > _RESTS_AFTER


def _check_data_file(opener: ImageOpener, image: Image, name: str) -> None:
    """A data file is reported and left alone, but one in a forbidden place is an attack.

    A relative name is looked up beside the image, as libvirt does.
    """
    full = full_name(image.filename, name)
    if is_reference(full):
        raise _reference(f"data file of {shown(image.filename)}", name)
    opener.check_place(full, f" (data file of {shown(image.filename)})")


def _reference(what: str, name: str) -> Unsupported:
    return Unsupported(
        f"the {what} is the reference {shown(name)}, which is never followed",
        wanted="a plain path to a file or block device",
        todo="if you trust who made the image, write a plain path into it with qemu-img rebase -u",
    )


def _too_deep(path: str, max_depth: int) -> Unsupported:
    return Unsupported(
        f"the backing chain of {shown(path)} has more than {max_depth} images",
        wanted=f"at most {max_depth} images, which is also libvirt's limit",
        todo="merge overlays, for example with vm_blockcommit",
    )
