# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a hypervisor as a whole: versions, programs, VMs. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from .._model.domain import Definition, parse_domain
from .._model.problem import NotFound
from .connection import call

if TYPE_CHECKING:
    from .libvirt_dep import Connection, Domain


def versions(conn: Connection) -> dict[str, str]:
    """The versions of libvirt and of the QEMU that it starts, such as 9.0.0."""
    return {
        "libvirt": _dotted(call("asking for the version of libvirt", conn.getLibVersion)),
        "qemu": _dotted(call("asking for the version of QEMU", conn.getVersion)),
    }


def _dotted(number: int) -> str:
    """libvirt's number for a version, 1,000,000 * major + 1,000 * minor + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def definitions(conn: Connection) -> list[Definition]:
    """Every VM as it is now; one that goes away meanwhile is left out."""
    domains = call("listing the VMs", conn.listAllDomains, 0)
    return [found for found in map(_definition, domains) if found]


def _definition(dom: Domain) -> Definition | None:
    try:
        return parse_domain(call(f"reading VM {dom.name()}", dom.XMLDesc, 0))
    except NotFound:
        return None


def program(name: str) -> str:
    """The path by which a program is started, '' if it is not there."""
    return shutil.which(name) or ""
