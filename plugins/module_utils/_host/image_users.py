# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who stands on an image, as definitions of VMs and other images tell. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from .._model.domain import Definition, Disk
from .._model.image import Identity, identity_of
from .._model.problem import Denied, Problem
from .durable import permission
from .files import regular_files
from .image_file import read_chain, read_image


class StandingFile(NamedTuple):
    """An image file, and the image that it names as its backing file."""

    path: str
    identity: Identity
    base: Identity


def path_identity(path: str) -> Identity:
    """The identity of what a path leads to. Raises OSError."""
    return identity_of(os.stat(path))


def standing_files(
    directories: Iterable[str], skip: Container[Identity] = (), sure: Container[str] = ()
) -> Iterator[StandingFile]:
    """The overlays among the files of some directories, but for those with an identity in ``skip``.

    At most 10,000 files of each directory are looked at; what is no image is passed over. So is
    what this user may not read, but not in the directories ``sure``: raises Denied, since it may be
    an overlay.
    """
    for directory in sorted(set(directories)):
        strict = directory in sure
        for path in regular_files(directory, strict=strict):
            try:
                yield from _standing(path, skip)
            except Exception as error:
                # What is wrong with one of them is told to those who work on it.
                if strict and isinstance(error, (Denied, PermissionError)):
                    raise _hidden(path, error) from error


def _hidden(path: str, error: Denied | PermissionError) -> Denied:
    found = error.found if isinstance(error, Denied) else f"{path}: {error.strerror}"
    return Denied(
        found,
        wanted="to know that it does not stand on what is to be written or removed beside it",
        todo=f"{permission()}; or take it out of that directory",
    )


def _standing(path: str, skip: Container[Identity]) -> Iterator[StandingFile]:
    identity = path_identity(path)
    image = read_image(path, snapshots=False) if identity not in skip else None
    base = image.full_backing_filename if image else None
    if base and os.path.exists(base):
        yield StandingFile(path, identity, path_identity(base))


def definition_chains(definition: Definition) -> Iterator[tuple[Disk, tuple[str, ...]]]:
    """Each disk with a local source and what it stands on, its own image first.

    Of a chain that cannot be read it is what the definition records.
    """
    for disk in definition.disks:
        if disk.source and disk.source.local:
            yield disk, _chain_files(disk)


def _chain_files(disk: Disk) -> tuple[str, ...]:
    try:
        return tuple(image.filename for image in read_chain(disk.path, format=disk.format))
    except Problem:
        return tuple(path for path in (disk.path, *disk.recorded) if os.path.exists(path))
