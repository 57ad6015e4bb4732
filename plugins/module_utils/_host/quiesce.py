# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezing a guest as far as a point in time asks for it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from .._model.guest_disks import points_on
from .._model.problem import Problem, Unreachable
from .connection import call
from .freeze import STATUS_SECONDS, Freeze, Guard, agent, frozen

if TYPE_CHECKING:
    from .._model.step import BackUp, TakeSnapshot
    from .libvirt_dep import Domain


@contextlib.contextmanager
def quiesced(
    dom: Domain,
    guard: Guard | None,
    step: TakeSnapshot | BackUp,
    notes: list[str],
    points: tuple[str, ...] = (),
) -> Iterator[Freeze | None]:
    """Frozen if the step asks for it; with 'preferred' a refusal of the agent is only noted.

    ``points`` are the mount points to freeze, none for all.
    """
    if step.quiesce == "never" or guard is None:
        yield None
        return
    freeze = None
    try:
        with contextlib.ExitStack() as stack:
            try:
                freeze = stack.enter_context(frozen(dom, guard, step.freeze_timeout, points))
            except Problem as problem:
                if step.quiesce == "required":
                    raise
                notes.append(f"not quiesced: {problem.found}")
            yield freeze
    finally:
        if freeze is not None and freeze.stuck:
            notes.append(
                "the guest may still be frozen: its agent does not thaw it, which is tried on for"
                " an hour (look at qemu-guest-agent in the guest, or run fsfreeze --unfreeze there)"
            )


def mount_points(dom: Domain, targets: Collection[str]) -> tuple[str, ...] | None:
    """The mount points of what lies on these disks of a running VM, sorted.

    None where not all file systems of the guest can be found on its disks without doubt.
    """
    try:
        answer = agent(dom, "guest-get-fsinfo", STATUS_SECONDS)
    except Unreachable:
        raise
    except Problem:
        return None
    return points_on(call(f"reading VM {dom.name()}", dom.XMLDesc, 0), answer, targets)


def points_now(dom: Domain, step: TakeSnapshot | BackUp) -> tuple[str, ...]:
    """The mount points to freeze for a step, none for all: what it names may be mounted elsewhere.

    What is not mounted any more is at rest.
    """
    return (mount_points(dom, step.taken) or ()) if step.mountpoints else ()
