# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps that restore a VM.

A new file is a draft until all is ready: its name tells whose it is, so the next run finds it.
Then it gets its final name besides, by a hard link, which never takes the place of anything; once
libvirt has the definition the name of the draft goes. So what a dead run leaves has such a name.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .._model.backup import DOMAIN, TPM, StoredFile
from .._model.problem import Conflict, Problem, TimedOut
from .._model.restore import RestoreWish, Seen, draft_name
from .._model.restore_steps import OVERLAY
from .._model.step import (
    DefineRestored,
    ForgetCheckpoint,
    RestoreDisk,
    RestoreFile,
    Step,
    VerifyPoint,
)
from . import qemu_img
from .connection import call
from .digest_beside import Verification, written_out
from .durable import fsync_directory, make_directory
from .journal import Journal
from .libvirt_dep import libvirt
from .observe import Host
from .repository import path_of
from .restore_observe import files_read
from .stamp import stamp
from .uses import record_use
from .verify import record_bad


@dataclass
class Restoring:
    """A VM that is being restored.

    ``xml`` makes its definition from a step and the stamps of the new images, ``unusable`` the
    error for a restore point with a fault. ``deadline`` is of time.monotonic(). ``journal`` is
    there while the VM is off, if it was stopped.
    """

    host: Host
    wish: RestoreWish
    seen: Seen
    xml: Callable[[DefineRestored, dict[str, str]], str]
    unusable: Callable[[str], Problem]
    deadline: float
    verification: Verification | None = None
    stopped: bool = False
    defined: bool = False
    journal: Journal | None = None
    swapped: list[RestoreFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def draft(self, step: RestoreDisk | RestoreFile) -> str:
        what = step.target if isinstance(step, RestoreDisk) else step.role
        if what == TPM:
            what = os.path.basename(step.file)
        return os.path.join(os.path.dirname(step.file), draft_name(self.wish.uuid, what))

    @property
    def left(self) -> float:
        """Seconds until the deadline. Raises TimedOut."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise TimedOut(
                f"VM {self.wish.name} was not restored in time",
                wanted="an end before the deadline",
                todo="raise 'timeout'; nothing of the VM was changed",
            )
        return seconds


def begin(restoring: Restoring, steps: tuple[Step, ...]) -> None:
    """Start to hold against the manifests what the steps read."""
    verifying = [step for step in steps if isinstance(step, VerifyPoint)]
    if not verifying:
        return
    wish = restoring.wish
    directory = wish.stock.directory
    files: list[tuple[str, StoredFile]] = []
    restored = {os.path.basename(step.source) for step in steps if isinstance(step, RestoreFile)}
    for file in wish.point.files:
        if file.role == DOMAIN or file.name in restored:
            files.append((path_of(directory, wish.point, file.name), file))
    if not verifying[0].recorded:
        files.extend(_images(wish))
    restoring.verification = Verification(files)


def _images(wish: RestoreWish) -> Iterator[tuple[str, StoredFile]]:
    for path, (point, disk) in files_read(wish).items():
        file = point.file(disk.file)
        if file:
            yield path, file


def do_restore(step: Step, restoring: Restoring) -> bool:
    """Do a step that is about restoring; False for any other."""
    if isinstance(step, RestoreDisk):
        _restore_disk(step, restoring)
    elif isinstance(step, RestoreFile):
        _restore_file(step, restoring)
    elif isinstance(step, VerifyPoint):
        verify(restoring)
    elif isinstance(step, ForgetCheckpoint):
        _forget_checkpoint(step, restoring)
    else:
        return False
    return True


def _restore_disk(step: RestoreDisk, restoring: Restoring) -> None:
    seconds = restoring.left
    draft = restoring.draft(step)
    with _new_file(draft, _owner(step, restoring)) as descriptor:
        try:
            if step.how == OVERLAY:
                qemu_img.create_overlay(draft, step.source, "qcow2", step.size)
                restoring.notes += record_use(step.source, (draft, step.file))
            else:
                depth = _depth(step, restoring)
                with written_out(descriptor):
                    qemu_img.convert(
                        draft, step.format, step.source, "qcow2", depth=depth, timeout=seconds
                    )
        except Problem:
            # A fault of the image is better told by the file that has it.
            verify(restoring)
            raise
        os.fsync(descriptor)


def _depth(step: RestoreDisk, restoring: Restoring) -> int:
    """How many images its content is read from."""
    wish = restoring.wish
    return sum(1 for dummy in wish.stock.images(wish.point, step.target))


def _restore_file(step: RestoreFile, restoring: Restoring) -> None:
    draft = restoring.draft(step)
    if step.role == TPM:
        # libvirt gives both to the user of the TPM when the VM starts.
        make_directory(os.path.dirname(os.path.dirname(draft)), 0o711)
        make_directory(os.path.dirname(draft), 0o700)
    with _new_file(draft, _owner(step, restoring)) as descriptor:
        with open(step.source, "rb") as source, os.fdopen(os.dup(descriptor), "wb") as target:
            shutil.copyfileobj(source, target)
        os.fsync(descriptor)


@contextlib.contextmanager
def _new_file(path: str, owner: os.stat_result | None) -> Iterator[int]:
    """An empty file of ours, mode 0600; Conflict if the name is taken."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise Conflict(
            f"{path} has appeared in the meantime",
            wanted="to be the only one who restores this VM",
            todo="run the task again",
        ) from error
    try:
        if owner is not None and os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        yield descriptor
    finally:
        os.close(descriptor)


def _owner(step: RestoreDisk | RestoreFile, restoring: Restoring) -> os.stat_result | None:
    """That of the file which the VM has now, or had; else that of the directory."""
    for path in (*_former(step, restoring), os.path.dirname(step.file)):
        with contextlib.suppress(OSError):
            return os.stat(path)
    return None


def _former(step: RestoreDisk | RestoreFile, restoring: Restoring) -> Iterator[str]:
    vm = restoring.seen.vm
    if isinstance(step, RestoreFile):
        yield from (step.file,) if step.role == TPM else filter(None, (vm.live.nvram,))
        return
    disk, then = vm.disk(step.target), restoring.wish.point.disk(step.target)
    for path in (disk.disk.path if disk else "", then.source if then else ""):
        if path.startswith("/") and stat.S_ISREG(_mode(path)):
            yield path


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def verify(restoring: Restoring) -> None:
    """Wait until every byte was held against the manifests. Damaged naming what is wrong."""
    if restoring.verification is None:
        return
    trouble = restoring.verification.trouble(restoring.deadline)
    if trouble:
        for path, found in restoring.verification.troubles.items():
            record_bad(restoring.wish.stock, path, found)
        raise restoring.unusable(trouble)


def define(
    step: DefineRestored, made: tuple[RestoreDisk | RestoreFile, ...], restoring: Restoring
) -> None:
    """Give the new files their names and define the VM on them, or leave all as it was."""
    verify(restoring)
    for new in made:
        if isinstance(new, RestoreFile) and new.role == TPM:
            restoring.swapped.append(new)
            _swap(restoring.draft(new), new)
        else:
            _name(restoring.draft(new), new.file)
    stamps = {new.target: stamp(new.file) for new in made if isinstance(new, RestoreDisk)}
    xml = restoring.xml(step, stamps)
    call(f"VM {restoring.wish.name}: defining it", restoring.host.conn.defineXML, xml)
    restoring.defined = True
    for new in made:
        _remove(restoring.draft(new))


def _name(draft: str, final: str) -> None:
    try:
        os.link(draft, final, follow_symlinks=False)
    except FileExistsError as error:
        raise Conflict(
            f"{final} has appeared in the meantime",
            wanted="to give that name to a restored file",
            todo="run the task again, which chooses another name",
        ) from error
    fsync_directory(os.path.dirname(final))


def _former_of(step: RestoreFile) -> str:
    """Where the state of a TPM is kept that was replaced."""
    return f"{step.file}.before-{step.point}"


def _swap(draft: str, step: RestoreFile) -> None:
    """Take the place of a file that can have no other name; what was there is kept beside."""
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        os.link(step.file, _former_of(step), follow_symlinks=False)
    os.replace(draft, step.file)
    fsync_directory(os.path.dirname(step.file))


def _swap_back(step: RestoreFile) -> None:
    if os.path.lexists(_former_of(step)):
        os.replace(_former_of(step), step.file)
    else:
        _remove(step.file)


def give_up(made: tuple[RestoreDisk | RestoreFile, ...], restoring: Restoring) -> None:
    """Remove what nothing names: all that was made, where the VM is not defined on it."""
    for swapped in restoring.swapped:
        _swap_back(swapped)
    for new in made:
        draft = restoring.draft(new)
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(draft), os.lstat(new.file)):
                _remove(new.file)
        _remove(draft)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        fsync_directory(os.path.dirname(path))


def _forget_checkpoint(step: ForgetCheckpoint, restoring: Restoring) -> None:
    doing = f"VM {restoring.wish.name}: forgetting checkpoint {step.name}"
    dom = call(doing, restoring.host.conn.lookupByUUIDString, restoring.wish.uuid)
    found = call(doing, dom.checkpointLookupByName, step.name, 0)
    call(doing, found.delete, libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
