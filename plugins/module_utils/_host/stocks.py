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
from .._model.fault import as_problem
from .._model.names import meant
from .._model.problem import BadInput, NotFound, Problem
from .._model.stock import Stock
from .repository import folders, of_vm, read_stock
from .repository_read import listed


def find_stocks(repository: str, names: Sequence[str] | None) -> dict[str, Stock | Problem]:
    """What a repository holds of VMs by name or UUID, of all without ``names``.

    The name is that of the newest restore point. One that is unknown, or stands for several VMs,
    gives a Problem. Of VMs that are not asked for, hardly anything is read.
    """
    known = {uuid: path for path, uuid in folders(repository)}
    named: dict[str, list[str]] = {}
    for uuid, path in known.items():
        name = os.path.basename(path).rsplit(".", 1)[0]
        # What is wrong here is told of when all of it is read, if anybody asks for this VM.
        with contextlib.suppress(Exception):
            name = _name_in(path)
        named.setdefault(name, []).append(uuid)
    if names is None:
        all_ = {name if len(u) == 1 else uuid: uuid for name, u in named.items() for uuid in u}
        asked = dict(sorted(all_.items()))
    else:
        asked = {name: name for name in (meant(given, named) for given in names)}
    found: dict[str, Stock | Problem] = {}
    for shown, name in asked.items():
        try:
            found[shown] = _found(repository, name, known, named)
        except Exception as error:
            found[shown] = as_problem(error, f"the restore points of VM {shown}")
    return found


def _name_in(directory: str) -> str:
    """What a VM was called in its newest restore point, by the ids of these."""
    name, uuid = os.path.basename(directory).rsplit(".", 1)
    for id in filter(is_id, reversed(listed(directory))):
        # One that is damaged is told of when it is read with the others.
        with contextlib.suppress(Exception):
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
