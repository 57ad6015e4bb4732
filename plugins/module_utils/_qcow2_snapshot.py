# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Internal snapshots of images as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._host.image_observe import observe_tags
from ._image_operation import ImageOperation
from ._model.image_result import to_result
from ._model.image_state import ImageState
from ._model.names import check_snapshot_name
from ._model.problem import BadInput
from ._plan.image_snapshot import TagWish, plan_tags


def tag_operation(params: Mapping[str, Any]) -> ImageOperation:
    """What the module qcow2_snapshot is to do. Raises BadInput."""
    _check(params)
    wish = TagWish(
        state=params["state"],
        name=params["name"] or "",
        id=params["id"] or "",
        keep_current=params["keep_current"] or "",
    )
    return ImageOperation(
        observe=lambda host, path: observe_tags(host, path, wish.compared),
        plan=lambda state: plan_tags(wish, state),
        result=_result,
    )


def _check(params: Mapping[str, Any]) -> None:
    """A snapshot to be taken has a name from the allow-list; others are only looked up."""
    state = params["state"]
    if state == "present":
        check_snapshot_name(params["name"] or "")
    elif not (params["name"] or params["id"]):
        raise BadInput(
            f"neither 'name' nor 'id' is given with state: {state}",
            wanted="which snapshot is meant",
            todo="name it",
        )
    if params["keep_current"]:
        check_snapshot_name(params["keep_current"])
    useless = [
        option
        for option, sense in (("id", state != "present"), ("keep_current", state == "applied"))
        if params[option] and not sense
    ]
    if useless:
        raise BadInput(
            f"the options {', '.join(useless)} mean nothing with state: {state}",
            wanted="a task that says what it does",
            todo="remove them",
        )


def _result(state: ImageState) -> dict[str, Any]:
    return {"snapshots": to_result(state.image)["snapshots"] if state.image else []}
