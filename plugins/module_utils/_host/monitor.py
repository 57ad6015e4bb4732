# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking QEMU for what libvirt has no call for. libvirt notes in its log that somebody did.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .libvirt_dep import libvirt, libvirt_qemu

if TYPE_CHECKING:
    from .libvirt_dep import Domain


def ask_qemu(dom: Domain, command: str, **arguments: Any) -> Any:
    """What QEMU returns to a command of QMP; None where it does not."""
    request = json.dumps({"execute": command, "arguments": arguments})
    try:
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(dom, request, 0))
    except (libvirt.libvirtError, ValueError):
        return None
    return answer.get("return")


def block_nodes(dom: Domain) -> list[dict[str, Any]]:
    """QEMU's block nodes; none where it does not tell."""
    return ask_qemu(dom, "query-named-block-nodes", flat=True) or []
