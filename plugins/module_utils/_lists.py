# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that are lists of names, as they are meant.

Ansible makes a list of a text by splitting it at commas, and leaves the blanks beside them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._model.problem import BadInput

# Lists of words that are handed on as they are.
_VERBATIM = ("command",)
# A VM may be called with blanks, so these go when it is looked up and there is none: see meant.
_LOOKED_UP = ("vm",)


def with_plain_lists(params: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options without blanks around the names in lists, but for VMs.

    BadInput for a name that is empty.
    """
    lists = (option for option, told in spec.items() if told.get("type") == "list")
    names = [option for option in lists if option not in _VERBATIM and params.get(option)]
    return {**params, **{option: _plain(option, params[option]) for option in names}}


def _plain(option: str, given: Sequence[Any]) -> list[Any]:
    found = [name.strip() if isinstance(name, str) else name for name in given]
    if "" in found:
        number = found.index("") + 1
        raise BadInput(
            f"the option '{option}' has an empty name as number {number} of {len(found)}",
            wanted="a name in each place",
            todo="remove it; a text is split at each of its commas",
        )
    return list(given) if option in _LOOKED_UP else found
