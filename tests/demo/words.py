# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the demo writes what it shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lab.cache import REPOSITORY

MIB = 1024 * 1024


def shown(path: Path) -> str:
    """A path as one would type it in the checkout."""
    return os.path.relpath(path, REPOSITORY) if path.is_relative_to(REPOSITORY) else str(path)


def row(*cells: object) -> str:
    widths = (20, 12, 13, 14)
    return "".join(f"{cell!s:<{width}}" for cell, width in zip(cells, (*widths, 0)))


def version(number: int) -> str:
    """libvirt's way to write a version as a number, made readable."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def arrows(chain: list[str]) -> str:
    return " <- ".join(Path(image).name for image in reversed(chain))


def image(image: dict[str, Any]) -> str:
    size = f"{image['actual_size'] / MIB:.1f} MiB of {image['virtual_size'] / MIB:.0f} MiB"
    return f"  {Path(image['filename']).name:<30} {image['format']:<6} {size}"


def shape(step: dict[str, Any]) -> dict[str, Any]:
    """A step without the number of bytes, which grows as the guest writes."""
    return {key: value for key, value in step.items() if key != "bytes"}


def step(step: dict[str, Any]) -> str:
    """A step of a plan in words."""
    names = {key: Path(step[key]).name for key in ("file", "backing", "base") if key in step}
    if step["step"] == "create_overlay":
        return f"create {names['file']} on {names['backing']}"
    if step["step"] == "take_snapshot":
        return f"take {step['mode']} snapshot {step['name']} of {', '.join(step['disks'])}"
    if step["step"] == "commit":
        merged = ", ".join(Path(path).name for path in step["merged"])
        return f"merge {merged} into {names['base']}"
    if step["step"] == "remove_file":
        return f"delete {names['file']}"
    if step["step"] == "forget_snapshot":
        return f"remove the record of snapshot {step['name']}"
    return str(step["step"]).replace("_", " ")
