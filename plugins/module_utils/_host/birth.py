# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What time tells of another tool's snapshot of which nothing is recorded.

libvirt makes the overlay of a snapshot, and lets QEMU write to that from then on: what it stands on
rests from that moment. Nobody but QEMU can write to it as long as the VM runs, and QEMU does so
when a bitmap is removed, or when it merges: then the overlay does not stand there any more. So
what was written before this QEMU began, or while the VM is off, was written by somebody else.

The file system knows when a file came to be. Where it does not, of an overlay that is gone, of a
device, and of a time that has not come yet nothing is told.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Set

from .._model.problem import Problem
from .._model.snapshot import Snapshot
from .._model.stamp import SECOND, Seen
from .._model.state import VmState
from .program import Limits, run
from .qemu_process import started_at

# Between the overlays of a snapshot and the moment from which QEMU uses them.
SLACK = 2 * SECOND
_PATIENCE = 10


def seen_late(vm: VmState, stale: Set[tuple[str, str]]) -> tuple[Seen, ...]:
    """The images that other tools' snapshots stand on, and have no stamps of.

    One that was certainly written to since says so, of all others that is not known. Those are left
    out that a run of ours writes to.
    """
    until = _Until(vm)
    return tuple(
        seen
        for found in vm.snapshots
        if not found.ours
        for target, overlay in found.overlays.items()
        for seen in _late(vm, found, found.image_before(target), overlay, until)
        if (seen.snapshot, seen.image) not in stale
    )


class _Until:
    """The moment up to which others can have written to an image, in ns; looked up once."""

    def __init__(self, vm: VmState) -> None:
        self._vm = vm

    @functools.cached_property
    def moment(self) -> int:
        if self._vm.off:
            return time.time_ns()
        return int((started_at(self._vm.uuid) or 0) * SECOND)


def _late(vm: VmState, found: Snapshot, point: str, overlay: str, until: _Until) -> Iterator[Seen]:
    taken = found.created * SECOND
    known = {stamp.image for stamp in found.stamps}
    images = [image for image in vm.chain_of(point) if image.filename not in known]
    later = [image for image in images if image.file.time > taken + SLACK]
    suspects = [image for image in later if image.file.time < until.moment]
    born = birth(overlay) if suspects else 0
    rested = max(born, taken)
    for image in images:
        late = born and image in suspects and image.file.time > rested + SLACK
        written = True if late else None
        yield Seen(found.name, image.filename, written, rested, image.file.time, latest=True)


def birth(path: str) -> int:
    """When a file came to be, in ns; 0 where that is not known. Python does not tell."""
    if not os.path.isfile(path):
        return 0
    with contextlib.suppress(Problem, ValueError):
        answer = run(["stat", "--format=%.9W", "--", path], limits=Limits(), timeout=_PATIENCE)
        seconds, _dot, rest = answer.stdout.strip().partition(".")
        return int(seconds) * SECOND + int(rest)
    return 0
