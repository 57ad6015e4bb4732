# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our result beside what ``qemu-img info --output=json`` says."""

from __future__ import annotations

from typing import Any

# Where a field stands in our result, if not under its name with underscores.
RENAMED = {"dirty-flag": "dirty", "backing-filename-format": "backing_format"}
# What newer versions of qemu-img say besides: of the nodes that they open, not of the image.
NOT_OF_THE_IMAGE = {"children", "detached-header"}
# What qemu-img does not say.
OURS = {"format_source", "bitmaps_stale"}
OURS_OF_A_SNAPSHOT = {"disk_size"}


def snake(value: Any) -> Any:
    if isinstance(value, dict):
        said = {key: entry for key, entry in value.items() if key not in NOT_OF_THE_IMAGE}
        return {key.replace("-", "_"): snake(entry) for key, entry in said.items()}
    return [snake(entry) for entry in value] if isinstance(value, list) else value


def expected(said: dict[str, Any]) -> dict[str, Any]:
    """What qemu-img said, in the places where our result has it."""
    specific = said.pop("format-specific", {"data": {}})
    flat = {RENAMED.get(key, key): value for key, value in said.items()}
    if specific.get("type") == "luks":
        flat["encrypt"] = {"format": "luks", **specific["data"]}
    else:
        flat.update(specific["data"])
    return snake(flat)


def compare(ours: Any, theirs: Any, where: str = "image") -> None:
    """Equal, where they say something; nothing in ours, where they do not."""
    if isinstance(theirs, dict):
        for key, value in theirs.items():
            compare(ours[key], value, f"{where}.{key}")
        own = OURS if where == "image" else OURS_OF_A_SNAPSHOT if "snapshots" in where else set()
        for key in ours.keys() - theirs.keys() - own:
            assert not ours[key], f"{where}.{key}"
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            compare(*pair, f"{where}[{number}]")
    else:
        assert (type(ours), ours) == (type(theirs), theirs), where
