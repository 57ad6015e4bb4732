# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which restore points have images standing on them that a VM got at once.

While the VM is off nobody else knows. Each such image is recorded in the folder of the VM, and
counts as long as it really stands there.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from dataclasses import asdict, dataclass
from typing import Any

from .._model.plain import Unfit, built
from .._model.problem import Damaged, NotFound, Problem, Unwritten
from .._model.version import VERSION
from .durable import not_understood, write_json
from .image_file import read_image
from .repository_read import is_folder, listed, small_text
from .repository_write import make_folder

_FOLDER, _MACHINE = "uses", "/etc/machine-id"
FORMAT = 1
_WHAT = "the record of what stands on a restore point"
_OTHER_VERSION = "\0"  # no host is called so


@dataclass(frozen=True)
class Use:
    """``images`` are the names of one image: it gets its final one when all is ready.

    ``machine`` is the id of the host where these names hold, ``host`` how people call it.
    """

    point: str
    images: tuple[str, ...]
    host: str
    machine: str


def record_use(source: str, images: tuple[str, ...]) -> list[str]:
    """Record that an image, which is there, stands on ``source``; a note where that cannot be."""
    above, point = os.path.split(os.path.dirname(source))
    folder = os.path.join(above, _FOLDER)
    use = Use(point, images, socket.gethostname(), _machine())
    name = hashlib.sha256(json.dumps([use.machine, *images]).encode()).hexdigest()[:16]
    path = os.path.join(folder, f"{name}.json")
    try:
        make_folder(folder)
        write_json(path, {"format": FORMAT, "version": VERSION, **asdict(use)})
    except (OSError, Unwritten) as error:
        what = f"it cannot be recorded that {images[-1]} stands on {source} ({_why(error)})"
        return [f"{what}: nothing but care keeps that from being pruned"]
    return []


def _why(error: OSError | Unwritten) -> str:
    return error.found if isinstance(error, Unwritten) else error.strerror or str(error)


def read_uses(directory: str) -> dict[str, str]:
    """id of a restore point -> what stands on it. Raises Conflict, Denied or Problem."""
    found: dict[str, set[str]] = {}
    for use in filter(None, map(_read, _records(directory))):
        found.setdefault(use.point, set()).add(_user(directory, use))
    users = {point: ", ".join(sorted(filter(None, all_))) for point, all_ in found.items()}
    return {point: text for point, text in users.items() if text}


def drop_uses(directory: str) -> None:
    """Forget those that are over. Nobody restores meanwhile, or a record may come too early."""
    for path in _records(directory):
        use = _read(path)
        if use is None or not _user(directory, use):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _records(directory: str) -> list[str]:
    folder = os.path.join(directory, _FOLDER)
    return [os.path.join(folder, name) for name in listed(folder)] if is_folder(folder) else []


def _read(path: str) -> Use | None:
    """A record, None for one that says nothing, such as one that was never complete.

    What another version has written is believed as far as it names a restore point; one that does
    not raises Conflict.
    """
    content = _content(path)
    try:
        use: Use = built(Use, {key: content[key] for key in content.keys() - {"format", "version"}})
        return use
    except Unfit as error:
        point = content.get("point")
        if isinstance(point, str) and point:
            return Use(point, (), _OTHER_VERSION, path)
        if content.get("format", FORMAT) != FORMAT:
            raise not_understood(path, _WHAT, str(error)) from error
        return None


def _content(path: str) -> dict[str, Any]:
    try:
        content = json.loads(small_text(path))
    except (FileNotFoundError, ValueError, RecursionError, Damaged):
        return {}
    return content if isinstance(content, dict) else {}


def _user(directory: str, use: Use) -> str:
    """What stands on the restore point, '' if that is over."""
    if use.host == _OTHER_VERSION:
        return f"something that another version of the collection has recorded in {use.machine}"
    if use.machine != _machine():
        return f"{use.images[-1]} on host {use.host}" if use.images else ""
    place = os.path.realpath(os.path.join(directory, use.point))
    return next((image for image in use.images if _stands(image, place)), "")


def _stands(image: str, place: str) -> bool:
    """Whether an image stands on one in a folder; so it does if nobody can tell."""
    try:
        backing = read_image(image, format="qcow2").backing_filename or ""
    except NotFound:
        return False
    except Problem:
        return True
    return os.path.realpath(os.path.dirname(backing)) == place


def _machine() -> str:
    """https://www.freedesktop.org/software/systemd/man/latest/machine-id.html"""
    try:
        with open(_MACHINE, encoding="ascii", errors="replace") as file:
            return file.read(64).strip()
    except OSError:
        return socket.gethostname()
