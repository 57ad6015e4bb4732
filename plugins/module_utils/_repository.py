# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that are about a repository of restore points, and what they say of one.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ._argspec import VM_OPTIONS
from ._host.repository import IDENTITY, folders
from ._model.backup import is_id, moment
from ._model.names import check_path
from ._model.problem import BadInput

REPOSITORY_OPTIONS: dict[str, Any] = {
    **VM_OPTIONS,
    "vm": {"type": "list", "elements": "str", "aliases": ["domain", "guest"]},
    "repository": {"type": "path", "required": True},
}


def repository_of(params: Mapping[str, Any]) -> str:
    """The option ``repository`` without what makes two names of one path. Raises BadInput."""
    return os.path.normpath(check_path(params["repository"], "the option 'repository'"))


def without_identity(repository: str) -> str:
    """A note on a directory without the file that makes it a repository."""
    if folders(repository):
        missing = os.path.join(repository, IDENTITY)
        return f"{missing} is missing, though restore points are here; the next backup makes it"
    return f"{repository} is no repository yet: nothing is in it"


def now_of(params: Mapping[str, Any]) -> datetime:
    """The time that counts as now, to the second. Raises BadInput."""
    given = params["now"]
    found = check_moment("now", given) if given else datetime.now(timezone.utc)
    return found.replace(microsecond=0)


def check_moment(option: str, text: str) -> datetime:
    """The time that an option gives. Raises BadInput."""
    found = moment(text)
    if found is None:
        raise BadInput(
            f"{option} is {text!r}",
            wanted="a time such as 2026-11-25T03:00:00Z",
            todo="correct it",
        )
    return found


def check_ids(option: str, ids: list[str]) -> None:
    """Raise BadInput unless all of them could be restore points."""
    for id in ids:
        if not is_id(id):
            raise BadInput(
                f"{option} names {id!r}",
                wanted="the id of a restore point, such as 20261124T030000Z",
                todo="correct it (vm_backup_info lists the restore points)",
            )
