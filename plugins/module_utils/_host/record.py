# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of one VM that outlive a run: ``STATE_DIR/KIND/UUID.json``, replaced as a whole.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from typing import Any

from .._model.problem import Conflict
from .._model.version import VERSION
from .durable import not_understood, read_json, remove, write_json
from .state_dir import state_directory

FORMAT = 1


def record_path(state_dir: str, kind: str, uuid: str) -> str:
    """Where the record of a VM stands."""
    return os.path.join(state_dir, kind, f"{uuid}.json")


def read_record(state_dir: str, kind: str, uuid: str) -> dict[str, Any] | None:
    """Its content, None if there is none.

    Raises Conflict where it is of another version, and Denied or Problem where it cannot be read.
    """
    path = record_path(state_dir, kind, uuid)
    content = read_json(path, _what(kind))
    if content is None:
        return None
    found = content.pop("format", FORMAT)
    if found != FORMAT:
        why = f"it is of format {found!r}, and this version knows format {FORMAT}"
        raise of_another_version(state_dir, kind, uuid, why, content)
    return content


def of_another_version(
    state_dir: str, kind: str, uuid: str, why: str, content: dict[str, Any] | None = None
) -> Conflict:
    """The error for a record whose content this version does not understand."""
    version = (content or {}).get("version")
    by = f"version {version}" if isinstance(version, str) else ""
    return not_understood(record_path(state_dir, kind, uuid), _what(kind), why, by=by)


def _what(kind: str) -> str:
    return f"the record ({kind})"


def write_record(state_dir: str, kind: str, uuid: str, content: dict[str, Any]) -> None:
    """Replace it; the content is on disk when this returns. Raises Unwritten."""
    state_directory(state_dir, kind)
    versioned = {"format": FORMAT, "version": VERSION, **content}
    write_json(record_path(state_dir, kind, uuid), versioned)


def remove_record(state_dir: str, kind: str, uuid: str) -> None:
    """Remove it, and what a run that died while writing it has left. Raises Unwritten."""
    remove(record_path(state_dir, kind, uuid))
