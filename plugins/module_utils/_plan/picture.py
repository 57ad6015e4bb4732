# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of a VM that a person compares: what stands under ``diff``.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from .._model.state import DiskState, VmState
from .._model.tree import tree_text
from .backup_after import backup_lines
from .freeze import freeze_lines
from .memory import memory_lines
from .predict_storage import storage_lines


def picture(vm: VmState) -> str:
    """Chains (base first, joined by the arrow of ``<-`` is backed by), media, and the tree."""
    lines = [f"VM {vm.name}"]
    lines.extend(f"  {disk.target}: {_contents(disk)}" for disk in vm.disks if disk.disk.source)
    tree = tree_text(vm.snapshots)
    lines.append("  snapshots:" if tree else "  snapshots: none")
    lines.extend(f"    {line}" for line in tree.splitlines())
    lines.extend(storage_lines(vm.storage))
    lines.extend((*freeze_lines(vm), *memory_lines(vm), *backup_lines(vm)))
    return "\n".join(lines) + "\n"


def _contents(disk: DiskState) -> str:
    if disk.disk.writable:
        return " <- ".join(reversed(disk.files)) or str(disk.disk.source)
    kind = disk.disk.device if disk.disk.device != "disk" else "read-only"
    return f"{disk.disk.source} ({kind})"
