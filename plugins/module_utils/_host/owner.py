# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Owners of files by name or number.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import grp
import pwd
from typing import Callable

from .._model.problem import BadInput
from .._model.reference import shown


def user_number(name: str | None) -> int | None:
    """The number of a user, None for none. Raises BadInput."""
    return _number(name, "owner", lambda known: pwd.getpwnam(known).pw_uid)


def group_number(name: str | None) -> int | None:
    """The number of a group, None for none. Raises BadInput."""
    return _number(name, "group", lambda known: grp.getgrnam(known).gr_gid)


def _number(name: str | None, option: str, look_up: Callable[[str], int]) -> int | None:
    if not name:
        return None
    try:
        return int(name) if name.isdecimal() else look_up(name)
    except KeyError as error:
        raise BadInput(
            f"{option} is {shown(name)}, which this host does not know",
            wanted=f"the name or number of an existing {option.replace('owner', 'user')}",
            todo="correct it",
        ) from error
