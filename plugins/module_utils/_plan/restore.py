# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be done so that a VM, or some of its disks, are what they were at a restore point.

New images are made beside the present ones and verified; then one definition names all of them. So
nothing of the VM changes before that, and nothing that it had is written to.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from .._model.backup import NVRAM, TPM, StoredDisk
from .._model.problem import Busy
from .._model.restore import CHECKPOINT_PREFIX, Places, RestoreWish, Seen, StoredVm
from .._model.restore_steps import COPY, OVERLAY
from .._model.restored_xml import stored_domain
from .._model.state import VmState
from .._model.step import (
    DefineRestored,
    ForgetCheckpoint,
    Plan,
    RemoveFile,
    RestoreDisk,
    RestoreFile,
    StartVm,
    Step,
    StopVm,
    VerifyPoint,
)
from .._model.stock import LATEST
from .predict import predict
from .pull import PullWish, plan_pull
from .restore_checks import check_places, check_present, check_target
from .restore_places import final_path, nvram_place, tpm_files, wanted_places
from .restore_predict import after_definition


def is_done(wish: RestoreWish, seen: Seen) -> bool:
    """Whether the VM comes from this point already, as far as can be told.

    One that runs does; one that is off only while nothing was written to its images, but for a VM
    under another name, which is made once.
    """
    marker = seen.marker
    if marker is None or not marker.of(wish.repository, wish.point):
        return False
    targets = {disk.target for disk in wish.wanted}
    if not targets <= set(marker.files):
        return False
    if wish.clone or not seen.vm.off:
        return True
    loose = set() if wish.instant else set(_on_repository(wish, seen.vm))
    return not targets & (seen.written | loose)


def plan_restore(wish: RestoreWish, seen: Seen, stored: StoredVm | None, places: Places) -> Plan:
    """The steps; ``stored`` is None where :func:`is_done`. Raises Problem."""
    if stored is None:
        restoring, vm = _left_over(seen), seen.vm
    else:
        restoring = _restoring(wish, seen, stored, places)
        vm = after_definition(wish, seen, stored, restoring, places)
    steps: list[Step] = [*_drafts(seen, places), *restoring]
    if wish.start and vm.off:
        steps.append(StartVm())
        vm = predict(vm, Plan(vm.name, (StartVm(),)))
    pulls = _pulls(wish, vm)
    steps.extend(pulls.steps)
    if wish.delete_replaced:
        vm = predict(vm, pulls)
        steps.extend(_removals(wish, seen, restoring, vm))
    return Plan(wish.name, tuple(steps), (*_notes(wish, seen, restoring), *pulls.notes))


def foreseen(
    wish: RestoreWish, seen: Seen, stored: StoredVm | None, places: Places, plan: Plan
) -> VmState:
    """The VM as it will be after the plan."""
    defining = any(isinstance(step, DefineRestored) for step in plan.steps)
    vm = seen.vm
    if stored is not None and defining:
        vm = after_definition(wish, seen, stored, plan.steps, places)
    before = (RestoreDisk, RestoreFile, VerifyPoint, StopVm, DefineRestored, ForgetCheckpoint)
    later = tuple(step for step in plan.steps if not isinstance(step, before))
    return predict(vm, Plan(plan.vm, later))


def _restoring(wish: RestoreWish, seen: Seen, stored: StoredVm, places: Places) -> tuple[Step, ...]:
    check_target(wish, seen)
    stored_domain(stored.definition, wish.point.id)
    wanted = wanted_places(wish, seen)
    disks = [_disk(wish, disk, stored, final_path(wanted[disk.target], places))
             for disk in wish.wanted]  # fmt: skip
    files = [RestoreFile(NVRAM, final_path(place, places), wish.point.id, source)
             for place, source in nvram_place(wish, seen, stored)]  # fmt: skip
    check_places(wish, disks, files, stored, places)
    files += [
        RestoreFile(TPM, posixpath.join(places.tpm, name), wish.point.id, source)
        for name, source in tpm_files(wish, seen, stored)
    ]
    check_present(wish, seen)
    nvram = next((step.file for step in files if step.role == NVRAM), "")
    defining = DefineRestored(
        point=wish.point.id,
        disks=tuple((step.target, step.file, step.format) for step in disks),
        new=seen.absent,
        nvram=nvram,
        replaced=tuple(dict.fromkeys(_replaced(wish, seen, nvram))),
        checkpoints=_stale(seen),
    )
    stopping = [StopVm()] if not (seen.absent or seen.vm.off) else []
    forgetting = [ForgetCheckpoint(name) for name in defining.checkpoints]
    return (*disks, *files, _verification(wish), *stopping, defining, *forgetting)


def _disk(wish: RestoreWish, disk: StoredDisk, stored: StoredVm, file: str) -> RestoreDisk:
    return RestoreDisk(
        target=disk.target,
        file=file,
        format=format_of(wish, disk),
        point=wish.point.id,
        source=stored.chains[disk.target][0].filename,
        how=OVERLAY if wish.instant else COPY,
        size=disk.virtual_size,
        bytes=0 if wish.instant else stored.room.get(disk.target, 0),
    )


def format_of(wish: RestoreWish, disk: StoredDisk) -> str:
    """That of the disk, as far as it is one that a copy can have."""
    return disk.format if disk.format == "raw" and not wish.instant else "qcow2"


def _verification(wish: RestoreWish) -> VerifyPoint:
    """Reading all takes as long as copying, so an overlay goes by the record, if there is one."""
    point, stock = wish.point, wish.stock
    files = {
        (each.id, disk.file): each.file(disk.file)
        for wanted in wish.wanted
        for each, disk in stock.images(point, wanted.target)
    }
    size = sum(file.size for file in files.values() if file)
    if wish.instant and stock.is_verified(point):
        return VerifyPoint(point.id, size, stock.verified[point.id].at)
    return VerifyPoint(point.id, size)


def _stale(seen: Seen) -> tuple[str, ...]:
    return tuple(name for name in seen.checkpoints if name.startswith(CHECKPOINT_PREFIX))


def _replaced(wish: RestoreWish, seen: Seen, nvram: str) -> Iterator[str]:
    """The files that it has now, and those that it had when this point was restored before."""
    if seen.marker and seen.marker.of(wish.repository, wish.point):
        yield from seen.still_there
    for wanted in wish.wanted:
        disk = seen.vm.disk(wanted.target)
        source = disk.disk.source if disk else None
        if source and source.kind == "file" and source.path:
            yield source.path
    if nvram and seen.vm.live.nvram:
        yield seen.vm.live.nvram


def _left_over(seen: Seen) -> tuple[Step, ...]:
    """What a run that died after the definition has left to do."""
    stale = seen.marker.checkpoints if seen.marker else ()
    return tuple(ForgetCheckpoint(name) for name in stale if name in seen.checkpoints)


def _drafts(seen: Seen, places: Places) -> Iterator[RemoveFile]:
    """What a run that died has left: a draft, and its final name where nothing names that yet."""
    named = {*seen.vm.live.named, seen.vm.live.nvram}
    for draft in dict.fromkeys((*seen.drafts, *places.drafts)):
        why = "left by a restore that was interrupted"
        if draft.final and draft.final not in named:
            yield RemoveFile(draft.final, why)
        yield RemoveFile(draft.path, why)


def _on_repository(wish: RestoreWish, vm: VmState) -> Iterator[str]:
    """The targets whose images stand on what is in the repository."""
    below = posixpath.join(wish.stock.directory, "")
    for disk in vm.disks:
        if any(path.startswith(below) for path in disk.files[1:]):
            yield disk.target


def _pulls(wish: RestoreWish, vm: VmState) -> Plan:
    """While the VM runs its images are made to stand for themselves."""
    targets = tuple(_on_repository(wish, vm))
    if not targets or vm.off or (wish.instant and not wish.start):
        return Plan(vm.name)
    if vm.status not in ("running", "blocked"):
        raise Busy(
            f"VM {vm.name} is {vm.status}",
            wanted="a VM that runs, so that what it stands on can be pulled in",
            todo="let it go on (vm_memory with state running)",
        )
    return plan_pull(PullWish(targets, delete_merged=False), vm)


def pull_plan(wish: RestoreWish, vm: VmState) -> Plan:
    """The same for a VM as it is."""
    return _pulls(wish, vm)


def _removals(
    wish: RestoreWish, seen: Seen, restoring: tuple[Step, ...], after: VmState
) -> Iterator[RemoveFile]:
    replaced = seen.still_there
    for step in restoring:
        if isinstance(step, DefineRestored):
            replaced = step.replaced
    needed = {*after.live.named, *(path for disk in after.disks for path in disk.files)}
    for path in replaced:
        if path not in needed and not seen.vm.snapshots:
            yield RemoveFile(path, f"replaced by restore point {wish.point.id}", spare=True)


def _notes(wish: RestoreWish, seen: Seen, restoring: tuple[Step, ...]) -> Iterator[str]:
    defining = [step for step in restoring if isinstance(step, DefineRestored)]
    if wish.instant and defining and wish.stock.is_verified(wish.point):
        at = wish.stock.verified[wish.point.id].at
        yield f"{wish.name}: {wish.point.id} was verified {at}, and is not read again"
    if wish.asked == LATEST:
        for text in wish.stock.passed_over(wish.point, wish.disks):
            yield f"{wish.name}: {text}"
    if defining:
        yield from _notes_of_restoring(wish, seen)
    elif not seen.absent and (not seen.vm.off or seen.written):
        first = "remove that VM" if wish.clone else "switch it off"
        yield (
            f"{wish.name}: it was restored from {wish.point.id} before, and has run or was written"
            f" to since; that was left alone. To have it as it was then once more, {first} first"
        )
    if wish.instant and not wish.start and (defining or set(_on_repository(wish, seen.vm))):
        yield (
            f"{wish.name}: its images stand on the repository until vm_blockpull has pulled it in;"
            " until then vm_backup_prune keeps that restore point, and nothing of it may be moved"
        )


def _notes_of_restoring(wish: RestoreWish, seen: Seen) -> Iterator[str]:
    for target, why in wish.point.left_out:
        yield f"{wish.name}: disk {target} is not in restore point {wish.point.id}: {why}"
    if seen.vm.snapshots:
        yield (
            f"{wish.name}: its snapshots stay on record and go back to the images that it had"
            + ("; nothing was removed" if wish.delete_replaced else "")
        )
    others = [name for name in seen.checkpoints if name not in _stale(seen)]
    if others:
        yield (
            f"{wish.name}: checkpoints of other tools were left alone, and say nothing of the new"
            f" images: {', '.join(others)}"
        )
