# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the other VMs of a host stand on, also where their definitions cannot be understood.

What is wrong with one of them is no reason to leave this VM alone, as long as it is known which
images the other one names. Where not even that is known, nothing may be written.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .._model.domain import Definition, parse_domain
from .._model.fault import as_problem
from .._model.problem import Conflict, NotFound, Unreachable
from .._model.reference import paths_named_in
from .._model.snapshot import parse_snapshot
from .connection import call
from .image_file import read_chain
from .image_users import definition_chains
from .libvirt_dep import libvirt
from .observe import Host

if TYPE_CHECKING:
    from .libvirt_dep import Domain


class Needed(NamedTuple):
    """``files`` are an image and what it stands on, for ``user``.

    ``disk`` is whether that is a disk which the VM has now, ``writes`` whether it writes to it.
    """

    user: str
    files: tuple[str, ...]
    disk: bool
    writes: bool


def needed_by_others(host: Host, uuid: str) -> Iterator[Needed]:
    """What all VMs but one need. Conflict where one of them cannot be looked at."""
    for dom in call("listing the VMs", host.conn.listAllDomains, 0):
        if dom.UUIDString() != uuid:
            yield from _looked_at(dom)


def _looked_at(dom: Domain) -> list[Needed]:
    name = dom.name()
    try:
        return list(_needed(dom, name))
    except NotFound:
        return []  # it is gone
    except Unreachable:
        raise
    except Exception as error:
        problem = as_problem(error, f"VM {name}")
        raise Conflict(
            f"VM {name} cannot be looked at: {problem.found}",
            wanted="to know that it does not stand on what is to be written or removed",
            todo=f"see what is wrong with it (virsh dumpxml {name}), then run the task again",
        ) from error


def _needed(dom: Domain, name: str) -> Iterator[Needed]:
    doing = f"reading VM {name}"
    texts = [call(doing, dom.XMLDesc, 0)]
    if call(doing, dom.isPersistent):
        texts.append(call(doing, dom.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE))
    for text in texts:
        yield from _of_definition(text, f"VM {name}")
    doing = f"reading the snapshots of VM {name}"
    for found in call(doing, dom.listAllSnapshots, 0):
        user = f"snapshot {found.getName()} of VM {name}"
        yield from _of_snapshot(call(doing, found.getXMLDesc, 0), user)


def _of_definition(text: str, user: str) -> list[Needed]:
    try:
        return list(_of_disks(parse_domain(text), user, disk=True))
    except Exception:
        return list(_named_in(text, user, disk=True))


def _of_snapshot(text: str, user: str) -> list[Needed]:
    try:
        before = parse_snapshot(text).before
        return list(_of_disks(before, user, disk=False)) if before else []
    except Exception:
        return list(_named_in(text, user, disk=False))


def _of_disks(definition: Definition, user: str, *, disk: bool) -> Iterator[Needed]:
    for found, files in definition_chains(definition):
        writes = disk and found.writable and files[:1] == (found.path,)
        yield Needed(f"disk {found.target} of {user}", files, disk, writes)


def _named_in(text: str, user: str, *, disk: bool) -> Iterator[Needed]:
    """All images that a text names, whatever else it says."""
    for path in paths_named_in(text):
        if os.path.exists(path):
            files: tuple[str, ...] = (path,)
            with contextlib.suppress(Exception):
                files = tuple(image.filename for image in read_chain(path))
            yield Needed(user, files, disk, disk)
