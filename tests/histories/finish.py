# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a history: every point is gone back to, and all is removed but the last content."""

from __future__ import annotations

from typing import Any

from . import images
from .advice import insist
from .judge import Fault, perform
from .model import OFF, RUNNING, SAVED, Model, is_checkpoint
from .stage import Stage


def finish(stage: Stage, model: Model) -> None:
    """Raises `Fault` where a point is lost, or something cannot be removed."""
    model = _back_to_stored(stage, _at_rest(stage, model))
    for name in sorted(model.points):
        if model.swapped and set(model.points[name].disks) != set(model.disks):
            continue
        after = "running" if model.points[name].memory is not None else "shutoff"
        back = "restore checkpoint" if is_checkpoint(name) else "go back"
        model = _answering(stage, _do(stage, model, back, name=name, run_after=after))
    for number in range(len(model.backups)):
        model = _do(stage, model, "restore beside", number=number, instant=False)
    for name in sorted(model.stored):
        model = _do(stage, model, "remove storage snapshot", name=name)
    model = _without_points(stage, model)
    if len(model.backups) > 1:
        model = _do(stage, model, "prune", keep_last=1)
    for target in stage.targets:  # below what nobody records may be a template
        chain = stage.chain(target)
        if chain[1:]:
            onto = {"target": target, "path": chain[-1]}
            model = insist(stage, model, "commit onto", onto)[1]
    deep = {target: stage.chain(target) for target in stage.targets}
    if any(len(chain) > 1 for chain in deep.values()):
        raise Fault(f"everything is removed, and images are left: {deep}")
    alone = set()
    for path in sorted(stage.said_to_stay(stage.unneeded())):
        if images.chain(path)[1:]:
            model = insist(stage, model, "remove image", {"path": path})[1]
        else:  # a file that people delete; no task takes an image that is no overlay
            alone.add(path)
    if (left := stage.unneeded() - alone) and not model.disturbed:
        raise Fault(f"everything is removed, and files are left: {sorted(left)}")
    if model.power == RUNNING:
        model = _do(stage, model, "shut down inside")


def _do(stage: Stage, model: Model, action: str, **params: Any) -> Model:
    return perform(stage, model, action, params)[1]


def _at_rest(stage: Stage, model: Model) -> Model:
    """Thawed and without saved memory or backup checkpoints of others."""
    if model.frozen:
        model = _do(stage, model, "thaw")
    if model.power == SAVED:
        file = {"file": model.saved_in} if model.saved_in else {}
        model = _do(stage, model, "let memory run", **file)
    if model.power == SAVED:  # refused
        model = _do(stage, model, "start saved")
    for name in sorted(model.kept):
        model = _do(stage, model, "throw a save away", file=name)
    model = _answering(stage, model)
    if model.bitmaps and model.power == OFF:
        model = _do(stage, model, "start")
    for name in sorted(model.bitmaps):
        model = _do(stage, model, "virsh checkpoint-delete", name=name)
    return model


def _back_to_stored(stage: Stage, model: Model) -> Model:
    """Look into all storage snapshots, and go back to those to which the machine can."""
    stage.look_stored(model)
    if model.stored and model.power != OFF:
        model = _do(stage, model, "cut the power")
    for name in sorted(model.stored):
        model = _do(stage, model, "go back to storage snapshot", name=name, of=[])
    return model


def _answering(stage: Stage, model: Model) -> Model:
    """With an agent that answers, and the truth."""
    if model.power == RUNNING and not model.agent:
        model = _do(stage, model, "wake the agent")
    if model.power == RUNNING and model.liar:
        model = _do(stage, model, "mend the agent")
    return model


def _without_points(stage: Stage, model: Model) -> Model:
    """Remove all points, in whatever order the refusals lead to."""
    while model.points:
        left = set(model.points)
        for name in sorted(left):
            if name in model.points:
                remove = "remove checkpoint" if is_checkpoint(name) else "remove"
                model = perform(stage, model, remove, {"name": name})[1]
        if set(model.points) == left:
            model = perform(stage, model, "insist on removing", {"name": sorted(left)[0]})[1]
    return _do(stage, model, "commit", depth=1)
