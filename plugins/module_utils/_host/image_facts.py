# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking up the facts that a plan for an image is held against. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from .._model.image import Identity
from .._model.image_state import ImageFacts, Standing
from .._model.reference import shown
from . import image_lock
from .definitions import defined_users, pool_directories, unreadable
from .files import directory_fact
from .image_observe import ImageHost, image_key
from .image_users import path_identity, standing_files
from .journal import read_journal
from .program import missing


def image_facts(
    host: ImageHost,
    real: str,
    *,
    written: Collection[str],
    removed: Collection[str],
    stood_on: Collection[str],
    directories: Iterable[str],
    bases_of: Callable[[Mapping[str, Any]], Iterable[str]],
    gone: Collection[Identity] = (),
) -> ImageFacts:
    """Who uses and who needs the images, and where there is room.

    ``real`` is the image of the plan. ``bases_of`` tells of a journal which images its run has
    begun to write into. Images with an identity in ``gone`` will not be there any more.
    """
    images = dict.fromkeys((*written, *removed, *stood_on))
    identities = {path: path_identity(path) for path in (real, *images) if os.path.exists(path)}
    touched = (*written, *removed)
    return ImageFacts(
        identities=identities,
        users=_who(image_lock.users, touched),
        writers=_who(image_lock.writers, stood_on),
        standing=tuple(_standing(host, identities, gone)),
        claims=_claims(host, real, images, bases_of),
        blocked={path: why for path in written if (why := _blocked(path))},
        directories={path: directory_fact(path) for path in directories},
        missing=missing("qemu-img"),
        notes=tuple(
            f"VMs defined in {shown(place)} are not looked at: this user may not read it"
            for place in unreadable()
        ),
    )


def _who(ask: Callable[[str], str], paths: Iterable[str]) -> dict[str, str]:
    return {path: who for path in paths if (who := ask(path))}


def _standing(
    host: ImageHost, identities: Mapping[str, Identity], gone: Collection[Identity]
) -> Iterator[Standing]:
    """All who need one of the images or have it as their disk.

    The directories of the images, of storage pools, and those that the task names are looked at.
    """
    wanted = set(identities.values())
    directories = {os.path.dirname(os.path.realpath(path)) for path in identities}
    directories.update(host.look_in, pool_directories())
    for file in standing_files(directories, frozenset(gone)):
        if file.base in wanted:
            yield Standing(f"image {shown(file.path)}", (file.base,), file.identity)
    for user in defined_users():
        if user.disk not in gone and wanted.intersection((user.disk, *user.images)):
            yield user


def _claims(
    host: ImageHost,
    real: str,
    images: Iterable[str],
    bases_of: Callable[[Mapping[str, Any]], Iterable[str]],
) -> dict[str, str]:
    """path -> which dead run has begun to write into it for another image."""
    own = f"{image_key(real)}.json"
    found: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(os.path.join(host.state_dir, "journal")):
            journal = None
            if name.endswith(".json") and name != own:
                journal = read_journal(host.state_dir, name[: -len(".json")])
            if journal:
                whose = f"{journal['path']}, {journal['run']}"
                found.update({os.path.realpath(base): whose for base in bases_of(journal)})
    return {path: found[place] for path in images if (place := os.path.realpath(path)) in found}


def _blocked(path: str) -> str:
    """Why a file cannot be written, '' if it can."""
    if os.access(path, os.W_OK):
        return ""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "its file system is read-only"
    return "this user may not, or it is immutable"
