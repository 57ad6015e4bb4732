# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overlays as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ._host.image_observe import observe_overlay, real_path
from ._host.owner import group_number, user_number
from ._image_operation import ImageOperation
from ._model.image_result import to_result
from ._model.image_state import ImageState
from ._model.problem import BadInput
from ._plan.image_overlay import plan_overlay
from ._plan.image_wish import OverlayWish

# Which options say something with each state.
_MEANINGFUL = {
    "present": ("base", "base_format", "rebase", "base_moved", "size", "mode", "owner", "group"),
    "committed": ("base", "base_format", "bandwidth"),
    "absent": (),
}
_MODE = re.compile(r"0?[0-7]{3}\Z")


def overlay_operation(params: Mapping[str, Any]) -> ImageOperation:
    """What the module qcow2_overlay is to do. Raises BadInput."""
    _check(params)
    base = params["base"] or ""
    if base:
        real_path(base)
    wish = OverlayWish(
        state=params["state"],
        base=base,
        base_format=params["base_format"] or "",
        rebase=params["rebase"],
        base_moved=params["base_moved"],
        size=params["size"],
        mode=_mode(params["mode"]),
        owner=user_number(params["owner"]),
        group=group_number(params["group"]),
        bandwidth=params["bandwidth"] or None,
        verify=params["verify"],
    )
    return ImageOperation(
        observe=lambda host, path: observe_overlay(host, path, base, wish.base_format),
        plan=lambda state: plan_overlay(wish, state),
        result=_result,
    )


def _check(params: Mapping[str, Any]) -> None:
    state = params["state"]
    if state == "present" and not params["base"]:
        raise BadInput(
            "state: present without 'base'", wanted="the image to stand on", todo="name it"
        )
    known = dict.fromkeys(option for options in _MEANINGFUL.values() for option in options)
    useless = [each for each in known if params[each] and each not in _MEANINGFUL[state]]
    if useless:
        raise BadInput(
            f"the options {', '.join(useless)} mean nothing with state: {state}",
            wanted="a task that says what it does",
            todo="remove them",
        )
    if params["rebase"] and params["base_moved"]:
        raise BadInput(
            "'rebase' and 'base_moved' were both given",
            wanted="one of them: whether the old base is still there",
            todo="drop one",
        )
    for option in ("size", "bandwidth"):
        if params[option] is not None and params[option] < 0:
            raise BadInput(f"{option} is {params[option]}", wanted="at least 0", todo="correct it")


def _mode(value: object) -> int:
    """Octal digits as a mode; 0600 if nothing is said. BadInput for anything else."""
    if value is None:
        return 0o600
    if not isinstance(value, str) or not _MODE.match(value):
        raise BadInput(
            f"mode is {value!r}",
            wanted="three or four octal digits, in quotes: '0640'",
            todo="correct it; without quotes YAML makes another number of it",
        )
    return int(value, 8)


def _result(state: ImageState) -> dict[str, Any]:
    return {"chain": [to_result(image) for image in state.chain]}
