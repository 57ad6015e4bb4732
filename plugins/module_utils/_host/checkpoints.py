# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Libvirt's backup checkpoints: removing them, with their bitmaps or without, and their start.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from .._model.checkpoint_steps import STARTED
from .._model.problem import Problem
from .backup_bitmaps import remove_rest
from .connection import call, code_of
from .libvirt_dep import libvirt

if TYPE_CHECKING:
    from .libvirt_dep import Checkpoint, Domain

# virErrorNumber: internal error, which is all that QEMU's answers become; checkpoint inconsistent.
_BITMAP_GONE = (1, 109)


def drop_checkpoint(dom: Domain, name: str) -> str:
    """Let libvirt drop a checkpoint with its bitmaps, or its record and those that are left.

    libvirt drops all of them or none. What there is to tell, or ''.
    """
    doing = f"VM {dom.name()}: dropping checkpoint {name}"
    found = _found(dom, name, doing)
    if found is None:
        return ""
    try:
        call(doing, found.delete, 0)
    except Problem as problem:
        if not call(doing, dom.isActive):
            return f"{dom.name()}: it went off, so checkpoint {name} stays until it runs again"
        if code_of(problem.__cause__) not in _BITMAP_GONE:
            raise
        call(doing, found.delete, libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
        remove_rest(dom, name)
        return f"{dom.name()}: not all bitmaps of checkpoint {name} were there: {problem.found}"
    return ""


def forget_checkpoint(dom: Domain, name: str) -> None:
    """Remove libvirt's record of a checkpoint, where there is one, and no bitmap."""
    doing = f"VM {dom.name()}: forgetting checkpoint {name}"
    found = _found(dom, name, doing)
    if found is not None:
        call(doing, found.delete, libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def start_of_checkpoint(dom: Domain, name: str) -> str:
    """The start of the VM in which a checkpoint of ours was made, '' where that is not known."""
    doing = f"VM {dom.name()}: reading checkpoint {name}"
    found = call(doing, dom.checkpointLookupByName, name, 0)
    xml = call(doing, found.getXMLDesc, libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN)
    text = ET.fromstring(xml).findtext("description", "")  # noqa: S314 - the daemon's own output
    return text.rpartition(STARTED)[2] if STARTED in text else ""


def _found(dom: Domain, name: str, doing: str) -> Checkpoint | None:
    found = {point.getName(): point for point in call(doing, dom.listAllCheckpoints, 0)}
    return found.get(name)
