# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping files that are to go only if nothing uses them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import replace

from .._model.state import Facts, VmState
from .._model.step import Plan, RemoveFile, Step


def spared(plan: Plan, vm: VmState, facts: Facts) -> Plan:
    """The plan without the removal of what others use, and of all that such an image stands on.

    Where it is not known what it stands on, all that could go is kept.
    """
    users = {use.image: use.user for use in facts.uses}
    loose = {step.file for step in plan.steps if isinstance(step, RemoveFile) and step.spare}
    kept: dict[str, str] = {}
    for path in sorted(loose.intersection(users)):
        below = [image.filename for image in vm.chain_of(path)] or sorted(loose)
        kept.update((image, users[path]) for image in below if image in loose)
    steps = tuple(step for step in plan.steps if not _is_kept(step, kept))
    notes = [f"{vm.name}: {path} was kept, since {user} needs it" for path, user in kept.items()]
    return replace(plan, steps=steps, notes=(*plan.notes, *notes))


def _is_kept(step: Step, kept: dict[str, str]) -> bool:
    return isinstance(step, RemoveFile) and step.spare and step.file in kept
