# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding the VMs of a repository by name or UUID.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence

from .._model.backup import is_id
from .._model.problem import BadInput, NotFound, Problem
from .._model.stock import Stock
from .repository import folders, listed, of_vm, read_stock


def find_stocks(repository: str, names: Sequence[str] | None) -> dict[str, Stock | Problem]:
    """What a repository holds of VMs by name or UUID, of all without ``names``.

    The name is that of the newest restore point. One that is unknown, or stands for several VMs,
    gives a Problem. Of VMs that are not asked for, hardly anything is read.
    """
    known = {uuid: path for path, uuid in folders(repository)}
    named: dict[str, list[str]] = {}
    for uuid, path in known.items():
        named.setdefault(_name_in(path), []).append(uuid)
    if names is None:
        each = {name if len(u) == 1 else uuid: uuid for name, u in named.items() for uuid in u}
        return {name: read_stock(repository, known[uuid]) for name, uuid in sorted(each.items())}
    return {name: _found(repository, name, known, named) for name in dict.fromkeys(names)}


def _name_in(directory: str) -> str:
    """What a VM was called in its newest restore point, by the ids of these."""
    name, uuid = os.path.basename(directory).rsplit(".", 1)
    for id in filter(is_id, reversed(listed(directory))):
        # One that is damaged is told of when it is read with the others.
        with contextlib.suppress(FileNotFoundError, Problem):
            return of_vm(uuid, os.path.join(directory, id)).vm
    return name


def _found(
    repository: str, name: str, known: Mapping[str, str], named: Mapping[str, list[str]]
) -> Stock | Problem:
    uuids = [name] if name in known else named.get(name, [])
    if len(uuids) == 1:
        return read_stock(repository, known[uuids[0]])
    if uuids:
        return BadInput(
            f"{repository} has restore points of {len(uuids)} VMs that are called {name}",
            wanted=f"one of these UUIDs: {', '.join(uuids)}",
            todo="name the UUID in the option 'vm'",
        )
    listing = ", ".join(sorted(named)[:20]) or "(none)"
    return NotFound(
        f"{repository} has no restore point of VM {name}",
        wanted=f"one of: {listing}",
        todo="correct the option 'vm' or 'repository'",
    )
