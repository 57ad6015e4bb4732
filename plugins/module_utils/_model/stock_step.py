# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps by which restore points of one VM are pruned.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Union


@dataclass(frozen=True)
class FinishMerge:
    """Give the merged images of a restore point their final names, which a dead run did not."""

    step: ClassVar[str] = "finish_merge"
    point: str


@dataclass(frozen=True)
class RemoveDebris:
    """Remove what a dead run left."""

    step: ClassVar[str] = "remove_debris"
    path: str


@dataclass(frozen=True)
class MergePoint:
    """Make a restore point full. ``merged`` are those that it is read from besides, newest first.

    ``room`` are the bytes that this takes at most.
    """

    step: ClassVar[str] = "merge_point"
    point: str
    merged: tuple[str, ...]
    room: int


@dataclass(frozen=True)
class RemovePoint:
    """Remove a restore point that nothing stands on; ``size`` is what its files take."""

    step: ClassVar[str] = "remove_point"
    point: str
    why: str
    size: int


StockStep = Union[FinishMerge, RemoveDebris, MergePoint, RemovePoint]


@dataclass(frozen=True)
class PrunePlan:
    """What is to be done, why each point is kept (id -> reasons), and why others go (id -> why)."""

    steps: tuple[StockStep, ...] = ()
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def merged(self) -> tuple[str, ...]:
        return tuple(step.point for step in self.steps if isinstance(step, MergePoint))


def shown(step: StockStep) -> dict[str, Any]:
    """A step as it is returned."""
    fields = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(step).items()}
    return {"step": step.step, **fields}
