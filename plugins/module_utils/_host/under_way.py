# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who works on the restore points of a VM now, and how far that is.

Who makes a restore point keeps ``progress.json`` in its folder as long as there is no manifest.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from .._model.problem import Problem
from .files import regular_files
from .image_lock import users
from .lock import holder_of
from .repository_read import small_text

PROGRESS = "progress.json"
WRITER, READERS = "writer.lock", "readers.lock"


def writer_of(directory: str) -> str:
    """Who adds, merges or removes restore points of a VM now, '' for nobody."""
    return holder_of(os.path.join(directory, WRITER))


def progress_of(folder: str) -> dict[str, Any] | None:
    """How far the backup is that is made in a folder, None where that is not told."""
    with contextlib.suppress(FileNotFoundError, ValueError, RecursionError, Problem):
        content = json.loads(small_text(os.path.join(folder, PROGRESS)))
        if isinstance(content, dict):
            known = ("processed", "total", "since")
            found = {key: content.get(key) for key in known}
            return {"id": os.path.basename(folder), **found}
    return None


def users_of(debris: str) -> str:
    """Which QEMU still has an image in what a dead run left, '' for none."""
    folder = os.path.isdir(debris) and not os.path.islink(debris)
    files = regular_files(debris) if folder else (debris,)
    for path in files:
        with contextlib.suppress(Problem, OSError):
            if who := users(path):
                return who
    return ""
