# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking up the facts that a plan for an image is held against. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from .._model.image import Identity
from .._model.image_state import ImageFacts, Standing
from .._model.problem import Conflict
from .._model.reference import shown
from . import image_lock
from .definitions import defined_users, passed_over, pool_directories
from .durable import denied, read_whole
from .files import directory_fact
from .image_observe import ImageHost, image_key, read_image_journal
from .image_users import path_identity, standing_files
from .journal import journal_path
from .program import missing
from .repository import stocked


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
    places = {path: os.path.realpath(path) for path in images}
    touched = (*written, *removed)
    return ImageFacts(
        identities=identities,
        users=_who(image_lock.users, touched),
        writers=_who(image_lock.writers, stood_on),
        standing=tuple(_standing(host, identities, gone, touched)),
        claims=_at(places, _claims(host, real, bases_of)),
        unknown=_at(places, _unknown(host, real, places.values())),
        stocked=stocked(touched),
        blocked={path: why for path in written if (why := _blocked(path))},
        directories={path: directory_fact(path) for path in directories},
        missing=missing("qemu-img"),
        notes=tuple(passed_over()),
    )


def _at(places: Mapping[str, str], found: Mapping[str, str]) -> dict[str, str]:
    return {path: found[place] for path, place in places.items() if place in found}


def _who(ask: Callable[[str], str], paths: Iterable[str]) -> dict[str, str]:
    return {path: who for path in paths if (who := ask(path))}


def _standing(
    host: ImageHost,
    identities: Mapping[str, Identity],
    gone: Collection[Identity],
    touched: Iterable[str],
) -> Iterator[Standing]:
    """All who need one of the images or have it as their disk.

    The directories of the images, of storage pools, and those that the task names are looked at.
    Raises Denied for what may stand beside one that is ``touched``.
    """
    wanted = set(identities.values())
    beside = {os.path.dirname(os.path.realpath(path)) for path in touched}
    directories = {os.path.dirname(os.path.realpath(path)) for path in identities}
    directories.update(host.look_in, pool_directories())
    for file in standing_files(directories, frozenset(gone), beside):
        if file.base in wanted:
            yield Standing(f"image {shown(file.path)}", (file.base,), file.identity)
    for user in defined_users():
        if user.disk not in gone and wanted.intersection((user.disk, *user.images)):
            yield user


def _claims(
    host: ImageHost, real: str, bases_of: Callable[[Mapping[str, Any]], Iterable[str]]
) -> dict[str, str]:
    """path without links -> which dead run has begun to write into it for another image."""
    found: dict[str, str] = {}
    for key in _journals(host, real):
        with contextlib.suppress(Conflict):  # see _unknown
            journal = read_image_journal(host, key)
            if journal:
                whose = f"{journal['path']}, {journal['run']}"
                found.update({os.path.realpath(base): whose for base in bases_of(journal)})
    return found


def _unknown(host: ImageHost, real: str, places: Collection[str]) -> dict[str, str]:
    """Which of these files a journal names that is of another version, and what there is to say.

    Nobody knows what that was about to do to them.
    """
    found: dict[str, str] = {}
    for key in _journals(host, real):
        try:
            read_image_journal(host, key)
        except Conflict as problem:
            named = _named(journal_path(host.state_dir, key), places)
            found.update(dict.fromkeys(named, problem.found))
    return found


def _journals(host: ImageHost, real: str) -> list[str]:
    """The keys of the other images that have a journal. Raises Denied."""
    directory = os.path.join(host.state_dir, "journal")
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise denied(directory, error, "to know of interrupted runs") from error
    keys = [name[: -len(".json")] for name in sorted(names) if name.endswith(".json")]
    return [key for key in keys if key != image_key(real)]


def _named(path: str, places: Iterable[str]) -> list[str]:
    """The files that the text of a journal names."""
    text = b""
    with contextlib.suppress(Conflict):
        text = read_whole(path, "the journal of an interrupted run") or b""
    return [place for place in places if json.dumps(place).encode() in text]


def _blocked(path: str) -> str:
    """Why a file cannot be written, '' if it can."""
    if os.access(path, os.W_OK):
        return ""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "its file system is read-only"
    return "this user may not, or it is immutable"
