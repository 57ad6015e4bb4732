# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recording with each snapshot what lets a later run know that an image below it was written.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from .._host.connection import call
from .._host.image_stamp import stamp_inside, stamp_of
from .._host.observe import Host, observe
from .._host.snapshots import redefine
from .._host.stamp_record import as_words, outdated, read_stamps, recorded, write_stamps
from .._host.work import Work, do
from .._model.problem import Problem, Unreachable
from .._model.snapshot import Snapshot
from .._model.stamp import Stamp, to_note
from .._model.state import VmState
from .._model.step import (
    CommitDisk,
    DeleteInternal,
    PullDisk,
    PutBackCheckpoints,
    RewriteSnapshot,
    Step,
    TakeOutCheckpoints,
    TakeSnapshot,
)
from .._plan.damage import damages, files_of, held
from .._plan.rechained import higher_point, other_bases

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain

_FREEZING = (TakeSnapshot, CommitDisk, PullDisk, RewriteSnapshot)


def sound_before(vm: VmState, steps: Sequence[Step]) -> set[tuple[str, str]]:
    """(snapshot, image) of each stamp that holds and that the steps make out of date.

    A merge writes to its base and, since that names another base then, to what stands above it.
    An internal snapshot is deleted from images below and beside, whose content stays. What somebody
    wrote to an image that is merged makes its base no better.
    """
    merges = [step for step in steps if isinstance(step, CommitDisk)]
    deleted = [step for step in steps if isinstance(step, DeleteInternal)]
    below = {path for s in deleted for path in (*s.beside, *(s.images if s.below else ()))}
    pairs: set[tuple[str, str]] = set()
    for found in vm.snapshots:
        looked_at = [seen for seen in vm.seen if seen.snapshot == found.name]
        bad = {seen.image for seen in looked_at if seen.written} | _rebased(vm, found)
        spoilt = {step.base for step in merges if bad.intersection(step.merged)}
        images = [vm.chain_of(path)[:1] for step in merges for path in (step.base, step.overlay)]
        own = {path for image in images for path, _format in files_of(image)} | below
        own -= bad | spoilt
        pairs |= {(found.name, seen.image) for seen in looked_at if seen.image in own}
    return pairs


def _rebased(vm: VmState, found: Snapshot) -> set[str]:
    """The images that stand on others than then: what was written to them before is not known."""
    parts = ((target, held(vm, found, target)) for target in (e.target for e in found.taken))
    return {
        other.image for target, images in parts for other in other_bases(vm, found, target, images)
    }


def note_others(host: Host, dom: Domain, vm: VmState) -> tuple[str, ...]:
    """Record how the images below other tools' snapshots look, before a run changes anything.

    A failure makes these no worse, so it is only told.
    """
    try:
        record = read_stamps(host.state_dir, vm.uuid)
        if all(record.knows(found) for found in vm.snapshots):
            return ()
        stamps = Stamps(vm, set(), loose=_has_checkpoints(dom, vm))
        known = [
            found if record.knows(found) else replace(found, stamps=stamps.of(found))
            for found in (*vm.snapshots, *vm.dropped)
        ]
        write_stamps(host.state_dir, vm.uuid, replace(recorded(known), sound=record.sound))
    except Unreachable:
        raise
    except Problem as problem:
        return (_unrecorded(vm, problem),)
    return ()


def _unrecorded(vm: VmState, problem: Problem) -> str:
    return (
        f"{vm.name}: it could not be recorded how the images below the snapshots look:"
        f" {problem.found}"
    )


def keep_stamps(work: Work) -> None:
    """Bring the stamps of all snapshots up to date, after the last step of a run.

    What the run wrote to, and was sound before, has a new stamp then; a stamp that does not hold
    stays. A failure is noted: it makes the snapshots no worse.
    """
    if not (work.resumed or any(_moves_stamps(step) for step in work.steps)):
        return
    state_dir, uuid = work.host.state_dir, work.vm.uuid
    record = read_stamps(state_dir, uuid)
    renewed = outdated(work.journal.content, record)
    try:
        record = recorded(_stamped(work, renewed))
    except Unreachable:
        raise
    except Problem as problem:
        record = replace(record, sound=tuple(as_words(renewed)))
        work.notes.append(_unrecorded(work.vm, problem))
    write_stamps(state_dir, uuid, record)


def _stamped(work: Work, renewed: Set[tuple[str, str]]) -> list[Snapshot]:
    """The snapshots with the stamps that they are to have; those of ours have them in libvirt."""
    vm = observe(replace(work.host, also=None, storage=False), work.dom)
    checkpoints = _has_checkpoints(work.dom, vm)
    stamps = Stamps(vm, renewed, loose=checkpoints)
    wanted = [replace(found, stamps=stamps.of(found)) for found in vm.snapshots]
    pairs = zip(vm.snapshots, wanted)
    changed = [now for then, now in pairs if now.ours and now.stamps != then.stamps]
    with _out_of_the_way(work) if changed and checkpoints and vm.off else nullcontext():
        for found in changed:
            redefine(work.dom, found.name, stamps=to_note(found.stamps))
    return [*wanted, *vm.dropped]


def _moves_stamps(step: Step) -> bool:
    if isinstance(step, DeleteInternal):
        return step.below or bool(step.beside)
    return isinstance(step, _FREEZING)


@contextmanager
def _out_of_the_way(work: Work) -> Iterator[None]:
    """libvirt corrects no snapshot of a VM that is off and has backup checkpoints.

    The journal has them meanwhile, so that the next run puts them back where this one dies.
    """
    do(TakeOutCheckpoints(()), work)
    try:
        yield
    finally:
        do(PutBackCheckpoints(()), work)


def _has_checkpoints(dom: Domain, vm: VmState) -> bool:
    """Whether QEMU has bitmaps that it writes to their images only when it ends."""
    doing = f"looking for backup checkpoints of VM {vm.name}"
    return bool(call(doing, dom.listAllCheckpoints, 0))


class Stamps:
    """The stamps that the snapshots of a VM are to have; each image is read once."""

    def __init__(self, vm: VmState, renewed: Set[tuple[str, str]], *, loose: bool) -> None:
        self._vm = vm
        self._renewed = renewed
        self._loose = loose
        holds = {(seen.snapshot, seen.image) for seen in vm.seen if seen.written is False}
        self._found: dict[str, Stamp | None] = {
            stamp.image: stamp
            for snapshot in vm.snapshots
            for stamp in snapshot.stamps
            if (snapshot.name, stamp.image) in holds and not stamp.inside
        }

    def of(self, snapshot: Snapshot) -> tuple[Stamp, ...]:
        """A snapshot that has suffered gets none for an image that it had none of."""
        if any(higher_point(self._vm, snapshot, entry.target) for entry in snapshot.taken):
            return snapshot.stamps
        known = {stamp.image: stamp for stamp in snapshot.stamps}
        whole = not any(damages(self._vm, snapshot))
        found: list[Stamp | None] = []
        memory = snapshot.memory_file
        if memory and (memory in known or whole):
            found.append(known.get(memory) or stamp_of(memory, "save"))
        for entry in snapshot.taken:
            point = snapshot.image_before(entry.target)
            inside = [] if entry.target in snapshot.overlays else [point]
            images = dict(files_of(held(self._vm, snapshot, entry.target)))
            for path in (*inside, *images):
                if path in known and (snapshot.name, path) not in self._renewed:
                    found.append(known[path])
                elif path in known or whole:
                    form = images.get(path)
                    found.append(
                        self._now(path, form) if form else stamp_inside(path, snapshot.name)
                    )
        return tuple(stamp for stamp in found if stamp is not None)

    def _now(self, path: str, form: str) -> Stamp | None:
        if path not in self._found:
            self._found[path] = stamp_of(path, form, loose=self._loose)
        return self._found[path]
