# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of one VM that outlive a run: ``STATE_DIR/KIND/UUID.json``, replaced as a whole.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from .journal import write_durably
from .lock import state_directory


def record_path(state_dir: str, kind: str, uuid: str) -> str:
    """Where the record of a VM stands."""
    return os.path.join(state_dir, kind, f"{uuid}.json")


def read_record(state_dir: str, kind: str, uuid: str) -> dict[str, Any] | None:
    """Its content, None if there is none; {} for one that cannot be understood."""
    try:
        with open(record_path(state_dir, kind, uuid), encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_record(state_dir: str, kind: str, uuid: str, content: dict[str, Any]) -> None:
    """Replace it; the content is on disk when this returns."""
    path = os.path.join(state_directory(state_dir, kind), f"{uuid}.json")
    write_durably(path, f"{path}.new", content)


def remove_record(state_dir: str, kind: str, uuid: str) -> None:
    """Remove it, and what a run that died while writing it has left."""
    path = record_path(state_dir, kind, uuid)
    for name in (path, f"{path}.new"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
