# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holding a plan for an image against facts that were looked up for it, before it is touched.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .._model.image_state import ImageFacts, ImageState
from .._model.image_step import (
    ApplyTag,
    CommitOverlay,
    CreateTag,
    DeleteTag,
    ImagePlan,
    ImageStep,
    NewOverlay,
    Rebase,
    RemoveDraft,
    RemoveOverlay,
    Repair,
)
from .._model.problem import Busy, Conflict, NotFound, Unsupported
from .._model.reference import shown

ROOM = 4 * 1024 * 1024
"""Bytes that an empty overlay, or the tables of a snapshot, need at least."""


@dataclass(frozen=True)
class ImageNeeds:
    """What has to be looked up for a plan, all by path.

    ``written`` and ``removed`` are images that change or go, ``stood_on`` those that a new
    overlay will need as they are, ``directories`` those that must have room.
    """

    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    stood_on: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.written, *self.removed, *self.stood_on)))


def needs(plan: ImagePlan, state: ImageState) -> ImageNeeds:
    """The facts that :func:`vet` will want."""
    written: list[str] = []
    removed: list[str] = []
    stood_on: list[str] = []
    for step in plan.steps:
        if isinstance(step, (NewOverlay, Rebase)):
            stood_on.extend(image.file.real for image in (*state.wanted, *state.chain[1:]))
        if isinstance(step, (CreateTag, DeleteTag, ApplyTag, Rebase)):
            written.append(state.real)
        elif isinstance(step, CommitOverlay):
            written.extend((step.base, state.real))
        elif isinstance(step, RemoveOverlay):
            removed.append(state.real)
        elif isinstance(step, Repair):
            written.append(step.file)
    grown = [*written, *([state.real] if _creates(plan) else [])]
    return ImageNeeds(
        tuple(dict.fromkeys(written)),
        tuple(dict.fromkeys(removed)),
        tuple(dict.fromkeys(stood_on)),
        tuple(dict.fromkeys(posixpath.dirname(path) for path in (*grown, *removed))),
    )


def _creates(plan: ImagePlan) -> bool:
    return any(isinstance(step, NewOverlay) for step in plan.steps)


def vet(plan: ImagePlan, state: ImageState, facts: ImageFacts) -> ImagePlan:
    """The plan with what the facts add to its notes; raises Busy, Conflict, NotFound, Unsupported.

    Nobody may use what is written or removed, nobody else may stand on it, and nobody may write
    to what a new overlay will stand on.
    """
    wanted = needs(plan, state)
    if facts.missing and not all(isinstance(step, RemoveDraft) for step in plan.steps):
        raise Unsupported(
            f"{facts.missing} cannot be found",
            wanted=f"to change {shown(state.path)} with it",
            todo="install qemu-utils (or qemu-img) and util-linux",
        )
    for path in (*wanted.written, *wanted.removed):
        _check_free(path, facts)
    for path, repository in facts.stocked.items():
        raise Conflict(
            f"{shown(path)} lies in the repository {shown(repository)}",
            wanted="to leave restore points as they are",
            todo="work on another image; vm_backup_prune removes restore points",
        )
    for path in wanted.stood_on:
        _check_still(path, facts)
    for path in (*wanted.removed, *(() if _keeps_content(plan) else wanted.written)):
        _check_unneeded(path, state, facts)
    for path in wanted.removed:
        _check_unnamed(path, plan, facts)
        _check_untold(path, facts)
    for step in plan.steps:
        _check_vms(step, state, facts)
    _check_places(plan, wanted, state, facts)
    notes = (*plan.notes, *facts.notes, *_vm_notes(wanted, state, facts))
    return replace(plan, notes=tuple(dict.fromkeys(notes)))


def _keeps_content(plan: ImagePlan) -> bool:
    """Whether all that stands on the images finds what it found before."""
    return all(isinstance(step, (DeleteTag, Repair, RemoveDraft)) for step in plan.steps)


def _check_free(path: str, facts: ImageFacts) -> None:
    user = facts.users.get(path)
    if user:
        raise Busy(
            f"{shown(path)} is in use by {user}",
            wanted="an image that nothing uses",
            todo="shut that VM down, or use the modules for VMs (vm_snapshot, vm_blockcommit)",
        )
    _check_unclaimed(path, facts)
    blocked = facts.blocked.get(path)
    if blocked:
        raise Unsupported(
            f"{shown(path)} cannot be written: {blocked}",
            wanted="a file and a file system that can be changed",
            todo="make it writable, or run the task as the user who owns it ('become')",
        )


def _check_still(path: str, facts: ImageFacts) -> None:
    writer = facts.writers.get(path)
    if writer:
        raise Busy(
            f"{shown(path)} is written to by {writer}",
            wanted="a base that does not change under its overlays",
            todo="shut that VM down, or take a snapshot of it (vm_snapshot)",
        )
    _check_unclaimed(path, facts)


def _check_unclaimed(path: str, facts: ImageFacts) -> None:
    claim = facts.claims.get(path)
    if claim:
        raise Busy(
            f"{shown(path)} is half way through a merge: {claim}",
            wanted="an image that is whole by itself",
            todo="run the task for that overlay again, which finishes it",
        )
    if path in facts.unknown:
        raise Conflict(
            f"{shown(path)} may be half way through something: {facts.unknown[path]}",
            wanted="an image that is whole by itself",
            todo="finish that run with the version of the collection that began it",
        )


def _check_unneeded(path: str, state: ImageState, facts: ImageFacts) -> None:
    """Nobody else stands on the image.

    Of a base that is written to, the overlay whose content it gets is no other, and whoever
    stands on that is found there; but a VM that has the base as its own disk is.
    """
    image = facts.identities.get(path)
    overlay = facts.identities.get(state.real)
    users = []
    for user in facts.standing:
        if path == state.real:
            needed = image in user.images
        else:
            own = user.disk == image and user.vm
            needed = own or (image in user.images and overlay not in (user.disk, *user.images))
        users.extend([user.user] if needed else [])
    if users:
        raise Conflict(
            f"{shown(path)} is needed as it is by {_listed(users)}",
            wanted="an image that nothing else stands on",
            todo="merge or remove what stands on it first, or work on that instead",
        )


def _check_unnamed(path: str, plan: ImagePlan, facts: ImageFacts) -> None:
    image = facts.identities.get(path)
    vms = [user.user for user in facts.standing if user.vm and user.disk == image]
    if vms:
        bases = [step.base for step in plan.steps if isinstance(step, CommitOverlay)]
        how = f" (with 'disks' and 'base: {bases[0]}')" if bases else ""
        raise Conflict(
            f"{shown(path)} is {_listed(vms)}",
            wanted="an image that no definition names, since it is to be removed",
            todo=f"merge it with vm_blockcommit{how}, which corrects the definition, or detach it"
            " first",
        )


def _check_untold(path: str, facts: ImageFacts) -> None:
    """No internal snapshot in an image that goes is one which libvirt has a record of."""
    image = facts.identities.get(path)
    users = [user.user for user in facts.standing if user.tags and user.disk == image]
    if users:
        raise Conflict(
            f"{shown(path)} holds {_listed(users)}",
            wanted="an image without a snapshot that libvirt has a record of",
            todo="remove that first (vm_snapshot with 'state: absent')",
        )


def _check_vms(step: ImageStep, state: ImageState, facts: ImageFacts) -> None:
    """What would break a VM that is off: other content under its memory, a record of nothing."""
    image = facts.identities.get(state.real)
    for user in facts.standing:
        if isinstance(step, ApplyTag) and user.vm and user.disk == image and user.saved:
            raise Conflict(
                f"{shown(state.path)} is {user.user}, whose memory is saved and continues on it",
                wanted="to go back to another content",
                todo="start that VM, or drop the saved memory (virsh managedsave-remove)",
            )
        told = user.tags if image in (user.disk, *user.images) else ()
        if isinstance(step, DeleteTag) and step.name in told:
            raise Conflict(
                f"snapshot {shown(step.name)} of {shown(state.path)} is recorded for {user.user}",
                wanted="to delete it without leaving that record behind",
                todo="use vm_snapshot with 'state: absent'",
            )


def _check_places(
    plan: ImagePlan, wanted: ImageNeeds, state: ImageState, facts: ImageFacts
) -> None:
    for path in wanted.directories:
        directory = facts.directories[path]
        renames = _creates(plan) or any(posixpath.dirname(file) == path for file in wanted.removed)
        if directory.trouble and renames:
            raise NotFound(
                f"the directory {shown(path)} {directory.trouble}",
                wanted=f"to create or remove {shown(state.path)} there",
                todo="create it and make it writable, or correct the path",
            )
        least = _growth(plan, path, state)
        if not path.startswith("/dev") and directory.free < least:
            raise Unsupported(
                f"{shown(path)} has {directory.free} bytes free",
                wanted=f"at least {least} bytes for {shown(state.path)}",
                todo="free space there",
            )


def _growth(plan: ImagePlan, directory: str, state: ImageState) -> int:
    """How many bytes the plan needs in a directory at least."""
    least = 0
    for step in plan.steps:
        if isinstance(step, CommitOverlay) and posixpath.dirname(step.base) == directory:
            held = state.chain[1].actual_size if len(state.chain) > 1 else 0
            least += max(ROOM, step.bytes - held)
        elif isinstance(step, (CreateTag, ApplyTag, NewOverlay, Rebase)):
            least += ROOM if posixpath.dirname(state.real) == directory else 0
    return least


def _vm_notes(wanted: ImageNeeds, state: ImageState, facts: ImageFacts) -> Iterable[str]:
    """VMs that are off and name an image: they may be started at any time."""
    for path in (*wanted.written, *wanted.stood_on):
        for user in facts.standing:
            if user.vm and user.disk == facts.identities.get(path):
                what = "now stands on" if path in wanted.stood_on else "changed"
                yield f"{state.path}: {shown(path)}, which it {what}, is {user.user}"


def _listed(users: list[str]) -> str:
    """The first of them for a message."""
    return ", ".join(users[:5]) + (f" and {len(users) - 5} others" if len(users) > 5 else "")
