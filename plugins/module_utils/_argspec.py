# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that modules share, and how their values are read.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ._model.names import check_path
from ._model.problem import BadInput

DEFAULT_STATE_DIR = "/var/lib/vmkeep"

VM_OPTIONS: dict[str, Any] = {
    "vm": {"type": "list", "elements": "str", "required": True, "aliases": ["domain", "guest"]},
    "uri": {"type": "str", "default": "qemu:///system"},
    "timeout": {"type": "int", "default": 3600},
    "lock_timeout": {"type": "int", "default": 30},
    "state_dir": {"type": "path"},
}

FLUSH_OPTIONS: dict[str, Any] = {
    "flush": {"type": "str", "choices": ["auto", "never"], "default": "auto"},
    "flush_timeout": {"type": "int", "default": 60},
}

QUIESCE_OPTIONS: dict[str, Any] = {
    "quiesce": {
        "type": "str",
        "choices": ["required", "preferred", "never"],
        "default": "preferred",
    },
    "freeze_timeout": {"type": "int", "default": 10},
    **FLUSH_OPTIONS,
}

_LEAST_SECONDS = {"timeout": 1, "lock_timeout": 0, "freeze_timeout": 1, "flush_timeout": 1}


def check_seconds(params: Mapping[str, Any]) -> None:
    """Raise BadInput where one of the options for times is out of range."""
    for option, least in _LEAST_SECONDS.items():
        if params.get(option) is not None and params[option] < least:
            raise BadInput(
                f"{option} is {params[option]}",
                wanted=f"seconds, at least {least}",
                todo="correct it",
            )


def flush_seconds(params: Mapping[str, Any]) -> int:
    """How many seconds a guest may write out before it is frozen, 0 where it is not to."""
    return int(params["flush_timeout"]) if params["flush"] == "auto" else 0


def run_name(module: str) -> str:
    """What locks and journals call this run: the module, when it began, its process."""
    return f"{module} {time.strftime('%Y%m%dT%H%M%S')}.{os.getpid()}"


def state_dir_for(asked: str | None, uri: str) -> str:
    """The state directory: as asked, else the system's, or the user's own for a session.

    Raises BadInput.
    """
    if asked:
        return check_path(asked, "the option 'state_dir'")
    if "/session" in uri:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        return os.path.join(base, "vmkeep")
    return DEFAULT_STATE_DIR
