# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at what a hypervisor offers: what C(hypervisor_info) does.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from ._host.connection import connect
from ._host.facts import directory_fact
from ._host.survey import Resident, program, residents, versions
from ._model.domain import Definition


def look_at_hypervisor(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The result of C(hypervisor_info) for its options; what cannot be read raises Problem."""
    conn = connect(params["uri"])
    found = sorted(residents(conn), key=lambda vm: vm.definition.name)
    used = {path for vm in found for path in _directories(vm.definition)}
    result = {
        "versions": versions(conn),
        "python": sys.executable,
        "qemu_img": program("qemu-img") or None,
        "vms": {vm.definition.name: _vm(vm) for vm in found},
        "directories": {path: _directory(path) for path in sorted(used | set(params["directory"]))},
    }
    return result, []


def _directories(vm: Definition) -> set[str]:
    """Where the image files lie that a VM writes to."""
    sources = [disk.source for disk in vm.disks if disk.writable]
    return {os.path.dirname(found.path) for found in sources if found and found.kind == "file"}


def _vm(vm: Resident) -> dict[str, Any]:
    return {
        "active": vm.definition.active,
        "agent": vm.definition.agent or "absent",
        "uuid": vm.definition.uuid,
        "title": vm.title,
        "persistent": vm.persistent,
        "copy_of": vm.copy_of or None,
        "trouble": vm.trouble,
    }


def _directory(path: str) -> dict[str, Any]:
    fact = directory_fact(path)
    percent = fact.free * 100 // fact.size if fact.size else 0
    return {
        "free": fact.free,
        "free_percent": percent,
        "size": fact.size,
        "trouble": fact.trouble,
    }
