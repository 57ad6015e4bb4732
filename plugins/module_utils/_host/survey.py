# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a hypervisor as a whole: versions, programs, VMs. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._model.domain import Definition, domain_from_element
from .._model.fault import as_problem
from .._model.problem import NotFound, Unreachable
from .._model.restore import read_marker
from .connection import call

if TYPE_CHECKING:
    from .libvirt_dep import Connection, Domain


@dataclass(frozen=True)
class Resident:
    """A VM of the hypervisor.

    ``copy_of`` is the UUID of the VM that it was restored from as another one, '' if it was not.
    ``trouble`` is why no more than its name and UUID could be read.
    """

    definition: Definition
    title: str
    persistent: bool
    copy_of: str
    trouble: str = ""


def versions(conn: Connection) -> dict[str, str]:
    """The versions of libvirt and of the QEMU that it starts, such as 9.0.0."""
    return {
        "libvirt": _dotted(call("asking for the version of libvirt", conn.getLibVersion)),
        "qemu": _dotted(call("asking for the version of QEMU", conn.getVersion)),
    }


def _dotted(number: int) -> str:
    """libvirt's number for a version, 1,000,000 * major + 1,000 * minor + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def residents(conn: Connection) -> list[Resident]:
    """Every VM as it is now; one that goes away meanwhile is left out."""
    found = []
    for dom in call("listing the VMs", conn.listAllDomains, 0):
        try:
            one = _resident(dom)
        except Unreachable:
            raise
        except Exception as error:
            problem = as_problem(error, f"VM {dom.name()}")
            known = Definition(dom.name(), dom.UUIDString(), dom.ID() != -1, ())
            one = Resident(known, "", True, "", str(problem))
        if one:
            found.append(one)
    return found


def _resident(dom: Domain) -> Resident | None:
    doing = f"reading VM {dom.name()}"
    try:
        root = ET.fromstring(call(doing, dom.XMLDesc, 0))  # noqa: S314 - the daemon's own output
        persistent = bool(call(doing, dom.isPersistent))
    except NotFound:
        return None
    definition, marker = domain_from_element(root), read_marker(root)
    copied = marker.vm if marker and marker.vm != definition.uuid else ""
    return Resident(definition, root.findtext("title", "").strip(), persistent, copied)


def program(name: str) -> str:
    """The path by which a program is started, '' if it is not there."""
    return shutil.which(name) or ""
