# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logical volumes as ``lvs`` reports them.

Follows lvs(8), lvmreport(7): ``--reportformat json --binary --units b --nosuffix``.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .problem import Problem

FIELDS = (
    "vg_name", "lv_name", "lv_path", "lv_dm_path", "lv_kernel_major", "lv_kernel_minor",
    "lv_size", "segtype", "origin", "pool_lv", "data_percent", "metadata_percent", "lv_merging",
    "lv_snapshot_invalid", "lv_device_open", "lv_tags", "vg_free",
)  # fmt: skip
_TAG = "vmkeep."


@dataclass(frozen=True)
class Volume:
    """A logical volume; sizes in bytes.

    ``name`` is VG/LV, ``paths`` its lasting device nodes, ``number`` (major, minor) of the device,
    None where it is not active. ``origin`` and ``pool`` are VG/LV or ''. ``used`` is the percentage
    of a snapshot's space for changes, or of a pool's data or metadata, whichever is fuller.
    ``merging``: it is on its way into its origin, or something into it. ``free`` is what the
    volume group has left.
    """

    name: str
    paths: tuple[str, ...]
    number: tuple[int, int] | None
    size: int
    thin: bool
    origin: str = ""
    pool: str = ""
    used: float | None = None
    invalid: bool = False
    merging: bool = False
    is_open: bool = False
    tags: tuple[str, ...] = ()
    free: int = 0

    @property
    def mark(self) -> dict[str, str]:
        """What its tags say of it as a copy of ours, {} if it is none."""
        parts = [tag[len(_TAG) :].partition("=") for tag in self.tags if tag.startswith(_TAG)]
        return {key: value for key, _sign, value in parts}


def mark_tags(mark: Mapping[str, str]) -> tuple[str, ...]:
    """A copy's mark as tags of its logical volume."""
    return ("vmkeep", *(f"{_TAG}{key}={value}" for key, value in mark.items()))


def parse_volumes(text: str) -> tuple[Volume, ...]:
    """What ``lvs`` printed, of the FIELDS above; Problem if it is not that."""
    try:
        rows = [row for report in json.loads(text)["report"] for row in report["lv"]]
        # A volume of several segments has a row for each.
        found = {volume.name: volume for volume in map(_volume, rows)}
    except (ValueError, KeyError, TypeError) as error:
        raise Problem(f"lvs printed something else than was asked for: {error!r}") from error
    return tuple(found.values())


def _volume(row: Mapping[str, Any]) -> Volume:
    group = row["vg_name"]
    # What is hidden or in the middle of something is shown in brackets.
    name = row["lv_name"].strip("[]")
    major, minor = int(row["lv_kernel_major"]), int(row["lv_kernel_minor"])
    return Volume(
        name=f"{group}/{name}",
        paths=tuple(filter(None, (row["lv_path"], row["lv_dm_path"]))),
        number=(major, minor) if major >= 0 else None,
        size=int(row["lv_size"]),
        thin=row["segtype"] == "thin",
        origin=_named(group, row["origin"]),
        pool=_named(group, row["pool_lv"]),
        used=_most((row["data_percent"], row["metadata_percent"])),
        invalid=row["lv_snapshot_invalid"] == "1",
        merging=row["lv_merging"] == "1",
        is_open=row["lv_device_open"] == "1",
        tags=tuple(filter(None, row["lv_tags"].split(","))),
        free=int(row["vg_free"]),
    )


def _named(group: str, name: str) -> str:
    return f"{group}/{name.strip('[]')}" if name else ""


def _most(percentages: Iterable[str]) -> float | None:
    known = [float(text) for text in percentages if text]
    return max(known) if known else None
