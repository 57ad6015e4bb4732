# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that bring libvirt's backup checkpoints out of the way of others, and whose they are.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

# The last part is there for a moment while a bitmap is removed that its record was lost of.
_OURS = re.compile(r"vmkeep-[0-9a-f]{8}-\d{8}T\d{6}Z(-[1-9]\d{0,3})?(-lost-[\w-]+)?\Z")
# What follows it in the description of one tells the start of the VM in which it was made.
STARTED = "; start "
_MARK = "checkpoints taken out: "


@dataclass(frozen=True)
class TakeOutCheckpoints:
    """Take libvirt's records of backup checkpoints out for a while; their bitmaps stay.

    The records are in the journal before that, see :func:`mark_of`.
    """

    step: ClassVar[str] = "take_out_checkpoints"
    names: tuple[str, ...]


@dataclass(frozen=True)
class PutBackCheckpoints:
    """Let libvirt know the backup checkpoints again that were taken out."""

    step: ClassVar[str] = "put_back_checkpoints"
    names: tuple[str, ...]


@dataclass(frozen=True)
class GiveUpCheckpoints:
    """Drop backup checkpoints of ours for good, so that the next restore point is a full one.

    A VM that is off keeps their bitmaps, which count for nothing then, but in ``images``.
    """

    step: ClassVar[str] = "give_up_checkpoints"
    names: tuple[str, ...]
    images: tuple[str, ...] = ()


def is_ours(name: str) -> bool:
    """Whether a checkpoint, or a bitmap, was made by this collection, for some repository."""
    return bool(_OURS.match(name))


def mark_of(records: Iterable[tuple[str, str]]) -> str:
    """The note in the journal that keeps what is taken out: (name, XML), each after its parent."""
    return _MARK + json.dumps([list(record) for record in records])


def taken_out(marks: Iterable[str]) -> dict[str, str]:
    """The XML by name that such notes keep, each after its parent; empty without one."""
    kept = (json.loads(mark[len(_MARK) :]) for mark in marks if mark.startswith(_MARK))
    return {name: xml for records in kept for name, xml in records}
