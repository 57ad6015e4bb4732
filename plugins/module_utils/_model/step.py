# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps that plans are made of. Each is a value: printed in check mode, journaled, applied.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Union

from .snapshot import SnapshotDisk, SnapshotSpec


@dataclass(frozen=True)
class CreateOverlay:
    """Create an empty overlay on an image: mode 0600, the image's owner, its bitmaps continued.

    ``bitmaps`` are (name, granularity in bytes); only an offline overlay needs them, QEMU
    itself continues the bitmaps of a running VM.
    """

    step: ClassVar[str] = "create_overlay"
    target: str
    file: str
    backing: str
    backing_format: str
    size: int
    bitmaps: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class TakeSnapshot:
    """Ask libvirt for the snapshot. ``quiesce`` is required, preferred or never."""

    step: ClassVar[str] = "take_snapshot"
    spec: SnapshotSpec
    flags: tuple[str, ...]
    quiesce: str
    freeze_timeout: int


@dataclass(frozen=True)
class CommitDisk:
    """Merge ``top`` and all between it and ``base`` into ``base``.

    ``how`` is active (block job with pivot), middle (block job) or offline (qemu-img);
    ``merged`` are the images that leave the chain; ``overlay`` is the image above ``top``
    ('' if none); ``resume`` continues the job that an earlier run left; ``bandwidth`` is in
    MiB/s, 0 for no limit. ``bytes`` is what the merged images have allocated.
    """

    step: ClassVar[str] = "commit"
    target: str
    base: str
    base_format: str
    top: str
    top_format: str
    merged: tuple[str, ...]
    how: str
    overlay: str = ""
    bitmaps: tuple[tuple[str, str, int], ...] = ()
    bandwidth: int = 0
    resume: bool = False
    bytes: int = 0

    @property
    def pivot_mark(self) -> str:
        """The note made in the journal before QEMU is told to switch the disk to its base."""
        return f"pivot {self.target}"


@dataclass(frozen=True)
class SetSource:
    """Point a disk of the persistent definition at an image (which may be the one it has).

    ``gone`` are images that it must no longer record below that.
    """

    step: ClassVar[str] = "set_source"
    target: str
    old: str
    new: str
    format: str
    gone: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForgetSnapshot:
    """Remove libvirt's metadata of a snapshot, never an image."""

    step: ClassVar[str] = "forget_snapshot"
    name: str


@dataclass(frozen=True)
class RewriteSnapshot:
    """Let a snapshot's metadata name the images that now hold its content.

    ``sources`` are (old, new, new format); disks ``without`` are no longer part of it.
    """

    step: ClassVar[str] = "rewrite_snapshot"
    name: str
    sources: tuple[tuple[str, str, str], ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeleteInternal:
    """Let libvirt delete an internal snapshot from the images it lives in."""

    step: ClassVar[str] = "delete_internal"
    name: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class RemoveFile:
    """Delete a file that nothing uses any more; ``why`` says what it was."""

    step: ClassVar[str] = "remove_file"
    file: str
    why: str


@dataclass(frozen=True)
class ResumeVm:
    """Let the vCPUs run again after a run that died while it had them paused."""

    step: ClassVar[str] = "resume_vm"


Step = Union[
    CreateOverlay,
    TakeSnapshot,
    CommitDisk,
    SetSource,
    ForgetSnapshot,
    RewriteSnapshot,
    DeleteInternal,
    RemoveFile,
    ResumeVm,
]
_KINDS: Mapping[str, Any] = {kind.step: kind for kind in Step.__args__}  # type: ignore[attr-defined]


def to_dict(step: Step) -> dict[str, Any]:
    """A step as plain data, for the journal; :func:`from_dict` is its inverse."""
    return {"step": step.step, **asdict(step)}


def from_dict(data: Mapping[str, Any]) -> Step:
    """The step that :func:`to_dict` made plain (lists become tuples again)."""
    values = {key: _frozen(value) for key, value in data.items() if key not in ("step", "spec")}
    if "spec" in data:
        values["spec"] = _spec(data["spec"])
    step: Step = _KINDS[data["step"]](**values)
    return step


def shown(vm: str, step: Step) -> dict[str, Any]:
    """A step as the returned ``plan`` shows it: ``{vm, step, ...}``, nothing empty."""
    data = to_dict(step)
    spec = data.pop("spec", None)
    if spec:
        data.update(name=spec["name"], mode=spec["mode"], memory_file=spec["memory_file"])
        data["disks"] = [disk["target"] for disk in spec["disks"] if disk["mode"] != "no"]
    return {
        "vm": vm,
        **{key: value for key, value in data.items() if value not in ("", (), [], False)},
    }


def _spec(data: Mapping[str, Any]) -> SnapshotSpec:
    disks = tuple(SnapshotDisk(**disk) for disk in data["disks"])
    return SnapshotSpec(**{**data, "disks": disks})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Plan:
    """What is to be done to one VM, in order, and what to tell beside it."""

    vm: str
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = field(default=())
