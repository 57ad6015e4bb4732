# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at the restore points of a VM, and at libvirt's side of them. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import hashlib
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from .._model.backups import Backups
from .._model.problem import Problem, Unreachable, Unsupported
from .._model.state import VmState
from . import io_error
from . import repository as repositories
from .backup_bitmaps import in_qemu
from .checkpoints import start_of_checkpoint
from .connection import call, code_of
from .facts import backup_checkpoints
from .libvirt_dep import libvirt
from .save_file import memory_goes_on
from .stamp import start_of
from .tpm import nvram_place, tpm_files, tpm_place

if TYPE_CHECKING:
    from .libvirt_dep import Domain
    from .observe import Host

NO_BACKUP = 104


def look_at_backups(repository: str, now: datetime) -> Callable[[Host, Domain, VmState], VmState]:
    """How a VM is observed with its restore points in a repository. ``now`` is the time."""

    def look(host: Host, dom: Domain, vm: VmState) -> VmState:
        id = repositories.identity(repository)
        above = repositories.enclosing(repository)
        if above:
            raise Unsupported(
                f"the repository {repository} lies in another one, {above}",
                wanted="a directory that no other repository counts as its own",
                todo="correct the option 'repository'",
            )
        folder = repositories.folder_of(repository, vm.name, vm.uuid)
        stock = repositories.read_stock(repository, folder)
        stock.check_clear()
        place, variables = tpm_place(host, vm), nvram_place(host, vm)
        backups = Backups(
            repository_id=id or new_id(repository, now),
            stock=stock,
            now=now,
            checkpoints=backup_checkpoints(dom),
            job=None if vm.off else written_by_job(dom),
            saved=vm.off and memory_goes_on(host, dom, vm),
            new=not id,
            stopped=_stopped(dom, vm, repository),
            tpm=tpm_files(place),
            tpm_place=place,
            nvram=variables if os.path.lexists(variables) else "",
            nvram_place=variables,
        )
        lost, unsound = tuple(_bitmaps(dom, vm, backups)), _unsound(dom, vm, backups)
        return replace(vm, backups=replace(backups, bitmaps=lost, unsound=unsound))

    return look


def _stopped(dom: Domain, vm: VmState, repository: str) -> bool:
    """Whether an I/O error has paused it, for which its own images give no reason."""
    return vm.status == "paused" and io_error.stopped(dom) and io_error.has_room(vm, but=repository)


def _bitmaps(dom: Domain, vm: VmState, known: Backups) -> Iterator[tuple[str, str]]:
    """(target, name) of QEMU's bitmaps. It is asked only where libvirt lost what it should know."""
    last = next((point for point in reversed(known.stock.points) if point.checkpoint), None)
    if vm.off or last is None or last.checkpoint in known.checkpoints:
        return
    targets = {disk.disk.path: disk.target for disk in vm.writable}
    for held in in_qemu(dom):
        if held.image in targets:
            yield targets[held.image], held.name


def _unsound(dom: Domain, vm: VmState, known: Backups) -> str:
    """Why QEMU cannot use the bitmaps that the next increment would count by, though it seems so.

    A QEMU that dies writes none. And it lets go of those in images when it writes the memory of a
    VM that is paused, until that runs again; the overlays of then have theirs, so libvirt would
    take it that there were none before. It is asked only where either may be.
    """
    parent = known.tracked
    if parent is None or vm.off or parent.checkpoint not in known.checkpoints:
        return ""
    wanted = parent.checkpoint
    images = (image for disk in vm.writable for image in disk.chain)
    read = [image for image in images if any(each.name == wanted for each in image.bitmaps)]
    restarted = start_of_checkpoint(dom, wanted) != start_of(vm.live.number)
    asked = in_qemu(dom) if restarted or read else ()
    held = {os.path.realpath(each.image): each for each in asked if each.name == wanted}
    counting = {disk.target for disk in parent.disks if disk.tracked}
    active = [disk.chain[0] for disk in vm.writable if disk.chain and disk.target in counting]
    for image in (*(active if restarted else ()), *read):
        bitmap = held.get(os.path.realpath(image.filename))
        if bitmap is None and image in read and vm.status == "paused":
            return f"QEMU has not got that of {image.filename} before the VM runs again"
        if (bitmap is None and image in active) or (bitmap and bitmap.broken):
            return f"that of {image.filename} is lost, as when QEMU dies"
    return ""


def new_id(repository: str, now: datetime) -> str:
    """The id that a directory gets when it becomes a repository."""
    return hashlib.sha256(f"{repository} {now.isoformat()}".encode()).hexdigest()[:8]


def written_by_job(dom: Domain) -> tuple[str, ...] | None:
    """The files that a backup job of libvirt writes, None where there is no such job."""
    doing = f"VM {dom.name()}: looking for a backup job"
    try:
        xml = call(doing, dom.backupGetXMLDesc, 0)
    except Problem as problem:
        if code_of(problem.__cause__) == NO_BACKUP:
            return None
        raise
    targets = ET.fromstring(xml).iterfind("disks/disk/target")  # noqa: S314 - the daemon's own
    return tuple(target.get("file") or target.get("dev") or "" for target in targets)


def with_bitmaps_proved(dom: Domain, vm: VmState) -> VmState:
    """The VM with what libvirt says of the bitmaps that the next increment would need.

    libvirt looks at them only when a checkpoint is defined again, so this is not for check mode.
    """
    known = vm.backups
    if known is None or vm.off or known.tracked is None or known.job is not None or known.unsound:
        return vm
    name = known.tracked.checkpoint
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
    flags |= libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
    doing = f"VM {vm.name}: looking at the bitmaps of checkpoint {name}"
    try:
        found = call(doing, dom.checkpointLookupByName, name, 0)
        call(doing, dom.checkpointCreateXML, call(doing, found.getXMLDesc, 0), flags)
    except Unreachable:
        raise
    except Problem as problem:
        return replace(vm, backups=replace(known, unsound=str(problem.__cause__)))
    return vm
