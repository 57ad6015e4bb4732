# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Saving the memory of VMs as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Callable

from ._host.gone import look_up_saved
from ._host.save_file import look_at_saves
from ._model.names import check_path, file_part
from ._model.problem import BadInput
from ._model.save import COMPLETE, Saves
from ._model.state import VmState
from ._operation import Operation
from ._plan.memory import MemoryWish, plan_memory


def memory_operation(params: Mapping[str, Any]) -> Operation:
    """What the module vm_memory is to do. Raises BadInput."""
    path_of = _paths(params["path"], several=len(set(params["vm"])) > 1)
    wish = MemoryWish(saved=params["state"] == "saved")
    return Operation(
        lambda vm: plan_memory(wish, vm),
        lambda _before, after, _report: _result(after),
        find=look_up_saved(path_of),
        also=look_at_saves(path_of),
    )


def _paths(path: str | None, *, several: bool) -> Callable[[str], str]:
    """The save file by the name of the VM, '' for a managed save."""
    if path is None:
        return lambda _name: ""
    check_path(path, "the option 'path'")
    if path.endswith("/") or os.path.isdir(path):
        return lambda name: os.path.join(path, f"{file_part(name)}.save")
    if several:
        raise BadInput(
            f"the path {path} is to hold the memory of several VMs, and is no directory",
            wanted="a directory, for one file for each VM",
            todo="create it, or use one task for each VM",
        )
    return lambda _name: path


def _result(vm: VmState) -> dict[str, Any]:
    saves = vm.saves or Saves()
    save = saves.managed or saves.at
    saved = vm.off and save is not None and save.kind == COMPLETE
    path = save.file if saved and save is not None and not saves.managed else None
    return {"state": "saved" if saved else vm.status, "path": path}
