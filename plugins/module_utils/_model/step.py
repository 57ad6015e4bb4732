# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps that plans are made of. Each is a value: printed in check mode, journaled, applied.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Union

from .backup_steps import BackUp, CreateRepository, DropCheckpoint, EndBackup, RemoveBitmap
from .checkpoint_steps import GiveUpCheckpoints, PutBackCheckpoints, TakeOutCheckpoints
from .disk_steps import CommitDisk, CreateOverlay, PullDisk, RemoveFile, SetSource
from .freeze import FreezeGuest, ThawGuest
from .plain import step_from
from .power_steps import DefineAsOf, RestoreMemory, ResumeVm, RevertInternal, StartVm, StopVm
from .restore_steps import (
    DefineRestored,
    ForgetCheckpoint,
    RestoreDisk,
    RestoreFile,
    VerifyPoint,
)
from .save_steps import RecordSave, RemoveSave, RestoreSave, SaveMemory
from .snapshot_steps import (
    DefineSnapshot,
    DeleteInternal,
    ForgetSnapshot,
    RewriteSnapshot,
    TakeSnapshot,
)
from .stock_step import RemoveDebris
from .storage_steps import RemoveStorage, RevertStorage, SnapshotStorage, UnprepareRevert

__all__ = [
    "BackUp",
    "CommitDisk",
    "CreateOverlay",
    "CreateRepository",
    "DefineAsOf",
    "DefineRestored",
    "DefineSnapshot",
    "DeleteInternal",
    "DropCheckpoint",
    "EndBackup",
    "ForgetCheckpoint",
    "ForgetSnapshot",
    "FreezeGuest",
    "GiveUpCheckpoints",
    "Plan",
    "PullDisk",
    "PutBackCheckpoints",
    "RecordSave",
    "RemoveBitmap",
    "RemoveDebris",
    "RemoveFile",
    "RemoveSave",
    "RemoveStorage",
    "RestoreDisk",
    "RestoreFile",
    "RestoreMemory",
    "RestoreSave",
    "ResumeVm",
    "RevertInternal",
    "RevertStorage",
    "RewriteSnapshot",
    "SaveMemory",
    "SetSource",
    "SnapshotStorage",
    "StartVm",
    "Step",
    "StopVm",
    "TakeOutCheckpoints",
    "TakeSnapshot",
    "ThawGuest",
    "UnprepareRevert",
    "VerifyPoint",
    "from_dict",
    "shown",
    "to_dict",
]

Step = Union[
    CreateOverlay,
    TakeSnapshot,
    CommitDisk,
    PullDisk,
    SetSource,
    DefineSnapshot,
    ForgetSnapshot,
    RewriteSnapshot,
    DeleteInternal,
    RemoveFile,
    ResumeVm,
    StopVm,
    StartVm,
    DefineAsOf,
    RestoreMemory,
    RevertInternal,
    SnapshotStorage,
    RemoveStorage,
    RevertStorage,
    UnprepareRevert,
    FreezeGuest,
    ThawGuest,
    SaveMemory,
    RestoreSave,
    RemoveSave,
    RecordSave,
    RestoreDisk,
    RestoreFile,
    VerifyPoint,
    DefineRestored,
    ForgetCheckpoint,
    BackUp,
    CreateRepository,
    DropCheckpoint,
    EndBackup,
    RemoveBitmap,
    RemoveDebris,
    TakeOutCheckpoints,
    PutBackCheckpoints,
    GiveUpCheckpoints,
]
_KINDS: Mapping[str, Any] = {kind.step: kind for kind in Step.__args__}  # type: ignore[attr-defined]


def to_dict(step: Step) -> dict[str, Any]:
    """A step as plain data, for the journal; :func:`from_dict` is its inverse."""
    return {"step": step.step, **asdict(step)}


def from_dict(data: Mapping[str, Any]) -> Step:
    """The step that :func:`to_dict` made plain. Conflict for one that is not known here."""
    step: Step = step_from(_KINDS, data)
    return step


def shown(vm: str, step: Step) -> dict[str, Any]:
    """A step as the returned ``plan`` shows it: ``{vm, step, ...}``, nothing empty."""
    data = to_dict(step)
    spec = data.pop("spec", None)
    if spec:
        data.update(name=spec["name"], mode=spec["mode"], memory_file=spec["memory_file"])
        data["disks"] = [disk["target"] for disk in spec["disks"] if disk["mode"] != "no"]
    if "copies" in data:
        data["copies"] = [_plain(copy) for copy in data["copies"]]
    return {"vm": vm, **_plain(data)}


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value not in ("", (), [], False)}


@dataclass(frozen=True)
class Plan:
    """What is to be done to one VM, in order, and what to tell beside it.

    ``reverted`` names the snapshot that the VM is at once the steps of a recovery are done.
    ``back`` is the plan of going back after this one, where that is to be proved first.
    """

    vm: str
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = field(default=())
    reverted: str = ""
    back: Plan | None = None
