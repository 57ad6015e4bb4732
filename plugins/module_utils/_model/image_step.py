# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of plans for an image that no VM uses: printed in check mode, journaled, applied.

A step is about the image of its plan. It has no path of its own but where it names another file.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Union

from .plain import step_from


@dataclass(frozen=True)
class CreateTag:
    """Take an internal snapshot."""

    step: ClassVar[str] = "create_snapshot"
    name: str


@dataclass(frozen=True)
class DeleteTag:
    """Delete an internal snapshot; it is the first of its name in the image's table."""

    step: ClassVar[str] = "delete_snapshot"
    name: str
    id: str


@dataclass(frozen=True)
class ApplyTag:
    """Go back to an internal snapshot; what the image holds beside its snapshots is lost.

    ``bitmaps`` are those of backups of ours, with which QEMU does not go back: they are given up.
    """

    step: ClassVar[str] = "apply_snapshot"
    name: str
    id: str
    bitmaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewOverlay:
    """Create an empty overlay. ``owner`` and ``group`` None: those of the image it stands on."""

    step: ClassVar[str] = "create_overlay"
    backing: str
    backing_format: str
    size: int
    mode: int
    owner: int | None = None
    group: int | None = None


@dataclass(frozen=True)
class Rebase:
    """Let an overlay stand on another image.

    ``copy``: compare both images and take over what differs, so that the content stays. Else
    only the name in the header changes.
    """

    step: ClassVar[str] = "rebase"
    backing: str
    backing_format: str
    copy: bool


@dataclass(frozen=True)
class CommitOverlay:
    """Write what an overlay holds into the image it stands on; the overlay stays as it is.

    ``bitmaps`` are (name, granularity, whether it records writes) of those to carry over,
    ``bytes`` is what the overlay has allocated, ``bandwidth`` in MiB/s with None for no limit.
    """

    step: ClassVar[str] = "commit"
    base: str
    base_format: str
    bitmaps: tuple[tuple[str, int, bool], ...] = ()
    bytes: int = 0
    bandwidth: int | None = None


@dataclass(frozen=True)
class RemoveOverlay:
    """Delete the overlay, if it still is the file with this ``inode``.

    With ``same_as`` only after a comparison has shown that this image holds all of its content.
    """

    step: ClassVar[str] = "remove_file"
    why: str
    inode: int
    same_as: str = ""
    same_as_format: str = ""


@dataclass(frozen=True)
class RemoveDraft:
    """Delete an overlay that a dead run had begun, and that does not bear its name yet."""

    step: ClassVar[str] = "remove_draft"
    file: str


@dataclass(frozen=True)
class Repair:
    """Give back the clusters that a dead run had allocated in an image of ours."""

    step: ClassVar[str] = "repair"
    file: str


ImageStep = Union[
    CreateTag,
    DeleteTag,
    ApplyTag,
    NewOverlay,
    Rebase,
    CommitOverlay,
    RemoveOverlay,
    RemoveDraft,
    Repair,
]
_KINDS: Mapping[str, Any] = {kind.step: kind for kind in ImageStep.__args__}  # type: ignore[attr-defined]


@dataclass(frozen=True)
class ImagePlan:
    """What is to be done to one image, in order, and what to tell beside it."""

    path: str
    steps: tuple[ImageStep, ...] = ()
    notes: tuple[str, ...] = ()


def to_dict(step: ImageStep) -> dict[str, Any]:
    """A step as plain data, for the journal; :func:`from_dict` is its inverse."""
    return {"step": step.step, **asdict(step)}


def from_dict(data: Mapping[str, Any]) -> ImageStep:
    """The step that :func:`to_dict` made plain. Conflict for one that is not known here."""
    step: ImageStep = step_from(_KINDS, data)
    return step


def shown(path: str, step: ImageStep) -> dict[str, Any]:
    """A step as the returned ``plan`` shows it: ``{path, step, ...}``, nothing empty."""
    data = to_dict(step)
    data.pop("inode", None)
    if isinstance(step, NewOverlay):
        data["mode"] = f"{step.mode:04o}"
    return {"path": path, **{key: value for key, value in data.items() if not _empty(value)}}


def _empty(value: Any) -> bool:
    return value is None or value is False or value in ("", ())
