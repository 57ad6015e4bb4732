# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading an image that no VM uses, and the facts for a plan. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .._model.image import Image
from .._model.image_state import ImageState
from .._model.image_step import from_dict
from .._model.problem import BadInput, NotFound, Problem
from .._model.qcow2_content import marks
from .._model.reference import shown
from .durable import denied
from .image_file import Wish, read, read_chain, walk_chain
from .image_lock import writers
from .image_opener import ImageOpener, own_directories
from .journal import journal_path, read_checked

_OF_IMAGE = ("run", "path", "marks", "steps")


@dataclass(frozen=True)
class ImageHost:
    """Where a run finds images and keeps its state.

    ``roots`` are the directories that images must lie in, None for those of the images that the
    task names; ``look_in`` are more directories in which others may stand on them. ``timeout`` is
    the deadline of each long operation in seconds, ``lock_timeout`` how long to wait for another
    run; ``run`` names this run in locks and journals.
    """

    state_dir: str
    roots: tuple[str, ...] | None
    look_in: tuple[str, ...]
    timeout: float
    lock_timeout: float
    run: str


Compared = Callable[[Image], Sequence[str]]
"""Which snapshots of an image its content is to be compared with, by id."""


def real_path(path: str) -> str:
    """Where a path leads, whether or not something stands there. Raises BadInput."""
    if not path.startswith("/") or "\0" in path:
        raise BadInput(f"the image {shown(path)} is no absolute path", todo="write the whole path")
    return os.path.realpath(path)


def image_key(real: str) -> str:
    """The name of an image's lock and journal. Its number may change when the host boots."""
    return hashlib.sha256(real.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def draft_path(real: str) -> str:
    """Where an overlay is made before it gets its name: a name that nobody else gives."""
    return os.path.join(os.path.dirname(real), f".vmkeep-{image_key(real)}")


def observe_tags(host: ImageHost, path: str, compared: Compared) -> ImageState:
    """One image with its snapshots, and marks of the contents that are to be compared.

    What it stands on is opened only where a dead run may have been at a commit. Raises Problem
    where the image cannot be read.
    """
    real, roots = real_path(path), _roots(host, path)
    with ImageOpener(roots) as opener:
        image = read(opener, Wish(path))
        ids = compared(image) if image.format == "qcow2" else ()
        found = _marks(opener, image, ids) if ids else {}
    journal, drafts = _left_behind(host, real)
    chain, trouble = walk_chain(path, roots=roots) if journal else ((image,), None)
    return ImageState(
        path, real, _kind(path), chain, trouble, marks=found, journal=journal, drafts=drafts
    )


def observe_overlay(host: ImageHost, path: str, base: str, base_format: str) -> ImageState:
    """One overlay with its chain, and the chain of the base that it is to have ('' for any).

    Raises Problem where that base cannot be read.
    """
    real, kind = real_path(path), _kind(path)
    roots = _roots(host, path, base)
    wanted = read_chain(base, format=base_format or None, roots=roots) if base else ()
    chain, trouble = walk_chain(path, roots=roots) if kind else ((), None)
    journal, drafts = _left_behind(host, real)
    return ImageState(
        path,
        real,
        kind,
        chain,
        trouble,
        lost=isinstance(trouble, NotFound) and len(chain) == 1,
        wanted=wanted,
        journal=journal,
        drafts=drafts,
    )


def read_image_journal(host: ImageHost, key: str) -> dict[str, Any] | None:
    """What a dead run left of an image. Raises as :func:`.journal.read_checked` does."""
    return read_checked(journal_path(host.state_dir, key), from_dict, _OF_IMAGE)


def _left_behind(host: ImageHost, real: str) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The journal of a dead run, and the overlay that it had begun to make."""
    journal = read_image_journal(host, image_key(real))
    draft = draft_path(real)
    return journal, (draft,) if journal and os.path.lexists(draft) else ()


def _roots(host: ImageHost, *paths: str) -> tuple[str, ...]:
    if host.roots is not None:
        return host.roots
    return tuple(place for path in paths if path for place in own_directories(path))


def _kind(path: str) -> str:
    """What stands at a path, '' for nothing; all but files, devices and links are refused later."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except PermissionError as error:
        raise denied(shown(path), error, "to know what stands there") from error
    except OSError as error:
        raise Problem(f"{shown(path)} cannot be looked at: {error.strerror}") from error
    kinds = {stat.S_IFREG: "file", stat.S_IFBLK: "device", stat.S_IFLNK: "symbolic link"}
    return kinds.get(stat.S_IFMT(mode), "special file")


def _marks(opener: ImageOpener, image: Image, ids: Sequence[str]) -> dict[str, bytes]:
    """The marks of the contents, none while somebody may write to the image."""
    opened = opener.open(image.filename)
    try:
        found = marks(
            lambda offset, size: os.pread(opened.descriptor, size, offset), image.file.length, ids
        )
    finally:
        os.close(opened.descriptor)
    return {} if writers(image.filename) else found
