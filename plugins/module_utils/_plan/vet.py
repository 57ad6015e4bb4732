# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holding a plan against facts that were looked up for it, before anything is touched.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile

from .._model.problem import Conflict, NotFound
from .._model.state import DirectoryFact, DiskState, Facts, FileFact, VmState
from .._model.step import (
    BackUp,
    CommitDisk,
    CreateOverlay,
    DefineAsOf,
    EndBackup,
    Plan,
    PullDisk,
    RemoveDebris,
    RemoveFile,
    ResumeVm,
    RevertInternal,
    SaveMemory,
    SetSource,
    Step,
    TakeSnapshot,
)
from .barred import check_barred, wants_flash
from .room import check_room
from .spare import spared
from .users import harmed, what_to_do_about
from .vet_agent import keeps_memory, part_of_disks, quiesced_if_possible, wants_agent
from .vet_backups import past_backups, wants_backups
from .vet_jobs import check_job, job_disks, refuse_job
from .vet_still import check_still, wants_stillness, writes_memory
from .vet_storage import (
    check_storage,
    clone_directories,
    given_up,
    new_things,
    subvolumes,
    without_leaving,
)
from .written import check_written, written_images


@dataclass(frozen=True)
class Needs:
    """What has to be looked up for a plan.

    ``files`` and ``directories`` by path, ``images`` whose users are to be found, those of them
    that will be ``removed`` and therefore count as no users, ``targets`` of disks that may have
    jobs, whether the guest agent answers, and how much ``memory`` the VM uses. ``clones`` are
    directories in which files have to share blocks, ``subvolumes`` are to hold no other VM;
    ``backups`` whether backup checkpoints matter, ``bitmaps`` whether what QEMU holds does.
    ``backup`` is a restore point that is to be made, ``debris`` are folders that go before that.
    ``flash``: see wants_flash. ``written``: see written_images. ``still``: see wants_stillness.
    ``kept``: whether memory that is in use is written.
    """

    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    agent: bool = False
    part: tuple[str, ...] = ()
    memory: bool = False
    clones: tuple[str, ...] = ()
    subvolumes: tuple[str, ...] = ()
    backups: bool = False
    bitmaps: bool = False
    backup: BackUp | None = None
    debris: tuple[str, ...] = ()
    flash: bool = False
    written: tuple[str, ...] = ()
    kept: bool = False
    still: bool = False


def needs(plan: Plan, vm: VmState) -> Needs:
    """The facts that :func:`settle` will want."""
    created = [step.file for step in plan.steps if isinstance(step, CreateOverlay)]
    created += [
        step.spec.memory_file
        for step in plan.steps
        if isinstance(step, TakeSnapshot) and step.spec.memory_file
    ]
    saves = [step for step in plan.steps if isinstance(step, SaveMemory)]
    created += [step.file for step in saves if step.file]
    removed = [step.file for step in plan.steps if isinstance(step, RemoveFile)]
    commits = [step for step in plan.steps if isinstance(step, CommitDisk)]
    pulls = [step for step in plan.steps if isinstance(step, PullDisk)]
    bases = [step.base for step in commits]
    merged = [path for step in commits for path in step.merged]
    written = [*bases, *(step.into for step in pulls)]
    read = [path for step in pulls for path in (*step.pulled, step.base) if path]
    return Needs(
        files=(*created, *removed, *(path for path in new_things(plan) if path.startswith("/"))),
        directories=tuple(sorted(_directories(plan, (*created, *written)))),
        images=tuple(
            dict.fromkeys((*bases, *merged, *read, *removed, *_points(plan), *given_up(plan)))
        ),
        removed=tuple(removed),
        targets=tuple(disk for step in plan.steps for disk in job_disks(step, vm)),
        agent=any(wants_agent(step, vm) for step in plan.steps),
        part=part_of_disks(plan, vm),
        memory=any(writes_memory(step) for step in plan.steps),
        clones=clone_directories(plan),
        subvolumes=subvolumes(plan),
        backups=wants_backups(plan, vm),
        bitmaps=not vm.off and any(isinstance(step, RevertInternal) for step in plan.steps),
        backup=next((step for step in plan.steps if isinstance(step, BackUp)), None),
        debris=tuple(step.path for step in plan.steps if isinstance(step, RemoveDebris)),
        flash=wants_flash(plan, vm),
        written=written_images(plan, vm),
        kept=any(keeps_memory(step, vm) for step in plan.steps),
        still=wants_stillness(plan, vm),
    )


def _directories(plan: Plan, files: Iterable[str]) -> set[str]:
    repositories = {step.repository for step in plan.steps if isinstance(step, BackUp)}
    return repositories | {posixpath.dirname(path) for path in files}


def _points(plan: Plan) -> list[str]:
    """The images of a snapshot that is gone back to."""
    placed = {image for s in plan.steps if isinstance(s, DefineAsOf) for _t, image, _f in s.disks}
    ways = [s for s in plan.steps if isinstance(s, (DefineAsOf, RevertInternal))]
    attached = [image for step in ways for _target, image in step.attached]
    made = [s.backing for s in plan.steps if isinstance(s, CreateOverlay) and s.file in placed]
    return [*made, *attached]


def settle(plan: Plan, vm: VmState, facts: Facts, ours: Iterable[str] = ()) -> Plan:
    """The plan with jobs of ours resumed; Conflict, NotFound or Unsupported if it cannot go.

    ``ours`` are files that an earlier run of ours left and that go before this plan starts.
    """
    if not plan.steps or all(isinstance(step, ResumeVm) for step in plan.steps):
        return plan
    facts = without_leaving(plan, facts)
    free = frozenset(path for step in plan.steps for path in _released(step, vm))
    steps = tuple(
        _settle_step(step, vm, _when_it_starts(step, plan, facts), frozenset(ours), free)
        for step in plan.steps
    )
    for path in given_up(plan):
        _check_users(path, "is to be replaced or removed", vm, facts)
    check_written(plan, vm, facts)
    check_storage(plan, vm, facts, frozenset(ours))
    check_still(plan, vm, facts)
    check_barred(plan, vm, facts)
    check_room(plan, vm, facts)
    gone_past = past_backups(spared(replace(plan, steps=steps), vm, facts), vm, facts)
    return quiesced_if_possible(gone_past, vm, facts)


def _when_it_starts(step: Step, plan: Plan, facts: Facts) -> Facts:
    """The facts for a step: of two merges of a disk the second starts when no job is left.

    And a backup when the one is over that a dead run had begun.
    """
    if isinstance(step, BackUp) and any(isinstance(other, EndBackup) for other in plan.steps):
        return replace(facts, jobs=tuple(job for job in facts.jobs if job.kind != "backup"))
    if not isinstance(step, CommitDisk):
        return facts
    before = takewhile(lambda other: other is not step, plan.steps)
    targets = {other.target for other in before if isinstance(other, CommitDisk)}
    return replace(facts, jobs=()) if step.target in targets else facts


def _released(step: Step, vm: VmState) -> tuple[str, ...]:
    """Images that nothing of the VM names any more after this step."""
    if isinstance(step, CommitDisk):
        return step.merged
    if isinstance(step, PullDisk):
        return step.pulled
    if isinstance(step, SetSource):
        return (*step.gone, *((step.old,) if step.old != step.new else ()))
    moved: list[str] = []
    if isinstance(step, DefineAsOf):
        moved = [target for target, _image, _format in step.disks]
    elif isinstance(step, RevertInternal):
        moved = [target for target, _image in step.attached]
    disks = [vm.disk(target) for target in moved]
    return tuple(path for disk in disks if disk for path in _named(disk))


def _settle_step(
    step: Step, vm: VmState, facts: Facts, ours: frozenset[str], free: frozenset[str]
) -> Step:
    if not isinstance(step, (CommitDisk, PullDisk)):
        for target in job_disks(step, vm):
            refuse_job(facts.job(target), vm)
    if isinstance(step, BackUp):
        _check_repository(facts.directories[step.repository], vm)
        return replace(step, bytes=sum(facts.rooms.values())) if facts.rooms else step
    if isinstance(step, CreateOverlay):
        _check_new_file(step.file, f"the overlay of disk {step.target}", vm, facts, ours)
        _check_writers(step.backing, vm, facts)
    elif isinstance(step, TakeSnapshot):
        if step.spec.memory_file:
            _check_new_file(step.spec.memory_file, "the memory file", vm, facts, ours)
    elif isinstance(step, (DefineAsOf, RevertInternal)):
        for target, path in step.attached:
            _check_users(path, f"is to be attached again as {target}", vm, facts)
    elif isinstance(step, SaveMemory) and not step.managed:
        _check_new_file(step.file, "the save file", vm, facts, ours)
    elif isinstance(step, CommitDisk):
        _check_users(step.base, "is to receive merged data", vm, facts, receives=True)
        for path in step.merged:
            _check_users(path, "is to be merged away", vm, facts)
        check_job(step, facts.job(step.target), vm)
    elif isinstance(step, PullDisk):
        for path in filter(None, (*step.pulled, step.base)):
            _check_writers(path, vm, facts)
        check_job(step, facts.job(step.target), vm)
    elif isinstance(step, RemoveFile) and not step.spare:
        _check_users(step.file, "is to be removed", vm, facts)
        _check_unneeded(facts.files[step.file], vm, free)
    return step


def _check_new_file(path: str, what: str, vm: VmState, facts: Facts, ours: frozenset[str]) -> None:
    if facts.files[path].kind and path not in ours:
        raise Conflict(
            f"{path} exists already ({facts.files[path].kind}, {facts.files[path].size} bytes)",
            wanted=f"to create it as {what} of VM {vm.name}",
            todo="move it away if it is not needed, or choose another name, 'directory' or 'file'",
        )
    directory = facts.directories[posixpath.dirname(path)]
    if directory.trouble:
        raise NotFound(
            f"the directory {directory.path} {directory.trouble}",
            wanted=f"to create {what} of VM {vm.name} there",
            todo="create it and make it writable, or choose another one",
        )


def _check_repository(directory: DirectoryFact, vm: VmState) -> None:
    if directory.trouble:
        raise NotFound(
            f"the repository {directory.path} {directory.trouble}",
            wanted=f"to make a restore point of VM {vm.name} there",
            todo="make it writable for this user, or choose another one",
        )


def _check_users(
    path: str, what: str, vm: VmState, facts: Facts, *, receives: bool = False
) -> None:
    users = [use.user for use in facts.uses if use.image == path]
    users = harmed(path, users, vm) if receives else users
    if users:
        raise Conflict(
            f"image {path} of VM {vm.name} {what} but is also used by {', '.join(users)}",
            wanted="an image that nothing else stands on",
            todo=what_to_do_about(users, vm),
        )


def _check_writers(path: str, vm: VmState, facts: Facts) -> None:
    """Others may stand on an image that is frozen; none may write to it."""
    writers = [use.user for use in facts.uses if use.image == path and use.writes]
    if writers:
        raise Conflict(
            f"image {path} of VM {vm.name} is to be kept as it is but is the active image of"
            f" {', '.join(writers)}",
            wanted="an image that nothing writes to",
            todo="detach it there; if the other VM has run since, this image has changed",
        )


def _check_unneeded(file: FileFact, vm: VmState, free: frozenset[str]) -> None:
    """No file is removed that the VM needs, whatever name it has, but by merging it first."""
    named = {path for disk in vm.disks for path in _named(disk)}
    images = [image for disk in vm.disks for image in disk.chain if image.filename not in free]
    in_use = [image.filename for image in images if image.identity == file.identity]
    if file.path not in free and (file.path in named or in_use):
        raise Conflict(
            f"image {file.path} is to be removed, but the definition of VM {vm.name} still names it"
            + "".join(f" (as {path})" for path in in_use if path != file.path),
            wanted="a file that nothing needs",
            todo="look at the chains (vm_snapshot_info) and mend what it reports first",
        )


def _named(disk: DiskState) -> tuple[str, ...]:
    """All that its chain and its definitions name; libvirt believes what they record."""
    return (disk.disk.path, disk.persistent, *disk.files, *disk.disk.recorded, *disk.recorded)
