# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing backup checkpoints out of the way of a plan, or refusing it before it begins.

libvirt 9.0 answers with error 84 to all that takes a snapshot or corrects the record of one while
the VM is off and has checkpoints, since only a QEMU that runs tells that it could. 11.3 allows some
of it, and no external snapshot. There the checkpoints are taken out and put back, of whoever they
are: the images keep their bitmaps, or hand them on, as they do while a VM runs.

Whoever goes back in time leaves what they count from. Those of this collection are given up then,
and the next restore point is a full one; with those of others the plan is refused.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from .._model.checkpoint_steps import is_ours, taken_out
from .._model.names import in_shell
from .._model.problem import Conflict
from .._model.state import Facts, VmState
from .._model.step import (
    CreateOverlay,
    DefineAsOf,
    DefineSnapshot,
    GiveUpCheckpoints,
    Plan,
    PutBackCheckpoints,
    RevertInternal,
    RevertStorage,
    RewriteSnapshot,
    Step,
    StopVm,
    TakeOutCheckpoints,
    TakeSnapshot,
)

_REFUSED = (DefineSnapshot, RewriteSnapshot, TakeSnapshot)
_BACK = (DefineAsOf, RevertInternal, RevertStorage)


def wants_backups(plan: Plan, vm: VmState) -> bool:
    """Whether backup checkpoints would be in the way of the plan."""
    return _first(plan, vm) is not None


def _first(plan: Plan, vm: VmState) -> int | None:
    """The place of the first step that they are in the way of."""
    off = vm.off
    for place, step in enumerate(plan.steps):
        if isinstance(step, _BACK) or (off and isinstance(step, _REFUSED)):
            return place
        off = off or isinstance(step, StopVm)
    return None


def past_backups(plan: Plan, vm: VmState, facts: Facts) -> Plan:
    """The plan with the steps that bring them out of its way; Conflict where that cannot be."""
    place = _first(plan, vm)
    if place is None:
        return plan
    if any(isinstance(step, _BACK) for step in plan.steps):
        return _giving_up(plan, vm, facts, place)
    if not facts.backups:
        return plan
    before, after = plan.steps[:place], plan.steps[place:]
    out, back = TakeOutCheckpoints(facts.backups), PutBackCheckpoints(facts.backups)
    return replace(plan, steps=(*before, out, *after, back))


def put_back(journal: Mapping[str, Any] | None) -> tuple[PutBackCheckpoints, ...]:
    """What puts those back that a dead run has taken out."""
    names = tuple(taken_out(journal.get("marks", ()))) if journal else ()
    return (PutBackCheckpoints(names),) if names else ()


def _giving_up(plan: Plan, vm: VmState, facts: Facts, place: int) -> Plan:
    backups = facts.backups
    ours = tuple(filter(is_ours, backups))
    images = tuple(dict.fromkeys(p for s in plan.steps for p in _emptied(s)))
    held = _bitmaps(vm, images, facts)
    if not all(isinstance(step, RevertStorage) for step in plan.steps):
        _check_foreign(vm, backups, held)
    unrecorded = [name for name in held if name not in backups]
    if not ours and not held:
        return plan
    stop = [StopVm()] if unrecorded and not vm.off else []
    before = (_without_ours(step) for step in plan.steps[:place])
    after = (_without_ours(step) for step in plan.steps[place:])
    steps = (*before, *stop, GiveUpCheckpoints(ours, images), *after)
    note = f"{vm.name}: its backup checkpoint is given up, so the next restore point is a full one"
    return replace(plan, steps=steps, notes=(*plan.notes, note) if ours else plan.notes)


def _emptied(step: Step) -> tuple[str, ...]:
    """The images that QEMU brings back only if they hold no bitmap."""
    return step.images if isinstance(step, RevertInternal) else ()


def _bitmaps(vm: VmState, images: Iterable[str], facts: Facts) -> dict[str, str]:
    """name -> image of the bitmaps in the tables of these images, or that QEMU will write there."""
    found: dict[str, str] = {}
    for path in images:
        for image in vm.chain_of(path)[:1]:
            names = (image.filename, image.file.real)
            coming = (bitmap for file, bitmap in facts.bitmaps if file in names)
            for name in (*(bitmap.name for bitmap in image.bitmaps), *coming):
                found.setdefault(name, image.filename)
    return found


def _without_ours(step: Step) -> Step:
    """What is kept of the present state needs no bitmap that is given up."""
    if not isinstance(step, CreateOverlay):
        return step
    kept = tuple(bitmap for bitmap in step.bitmaps if not is_ours(bitmap[0]))
    return replace(step, bitmaps=kept)


def _check_foreign(vm: VmState, backups: Iterable[str], held: Mapping[str, str]) -> None:
    foreign = sorted(name for name in {*backups, *held} if not is_ours(name))
    if foreign:
        raise Conflict(
            f"VM {vm.name} has backup checkpoints or bitmaps of somebody else"
            f" ({', '.join(foreign)}), which count what was written since then, and would not count"
            " what going back changes",
            wanted="to go back without making somebody's next backup wrong",
            todo="remove them with the program that made them, or by hand:"
            f" {'; '.join(_removing(vm, foreign, backups, held))}. Their next backup has to be a"
            " full one",
        )


def _removing(
    vm: VmState, foreign: Iterable[str], backups: Iterable[str], held: Mapping[str, str]
) -> Iterator[str]:
    """What removes them by hand: libvirt those that it knows, qemu-img what is in images only."""
    known = [name for name in foreign if name in backups]
    commands = [f"virsh checkpoint-delete {in_shell(vm.name)} {in_shell(name)}" for name in known]
    if commands:
        yield ("start the VM and run " if vm.off else "") + ", ".join(commands)
    others = [name for name in foreign if name not in backups]
    commands = [f"qemu-img bitmap --remove {in_shell(held[n])} {in_shell(n)}" for n in others]
    if commands:
        yield ("" if vm.off else "switch the VM off and run ") + ", ".join(commands)
