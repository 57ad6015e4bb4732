# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at saves, and the record of what the disks were when one was made.

The record, ``STATE_DIR/save/UUID.json``, belongs to one file, by inode, size and time.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Callable
from urllib.parse import urlsplit

from .._model.domain import Definition, Disk, parse_domain
from .._model.plain import Unfit, built
from .._model.problem import Damaged, Denied, Problem
from .._model.save import (
    COMPLETE,
    FOREIGN,
    HEADER,
    LONGEST_TEXT,
    Save,
    SavedImage,
    Saves,
    changes,
    moved,
    parse_save,
)
from .._model.save_steps import SaveMemory
from .._model.state import VmState
from .connection import call
from .durable import denied
from .image_file import read_chain
from .record import of_another_version, read_record, remove_record, write_record

if TYPE_CHECKING:
    from .libvirt_dep import Domain
    from .observe import Host

_KIND = "save"


@dataclass(frozen=True)
class _Record:
    """``path`` of a save, '' for a managed one; its ``file`` by inode, size and time in ns."""

    path: str = ""
    file: tuple[int, int, int] = (0, 0, 0)
    images: tuple[SavedImage, ...] = ()
    version: str = ""


_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def look_at_saves(path_of: Callable[[str], str]) -> Callable[[Host, Domain, VmState], VmState]:
    """What adds the saves of a VM to what was observed of it.

    ``path_of`` tells the file that was asked for by the name of the VM, '' for a managed save.
    """

    def look(host: Host, dom: Domain, vm: VmState) -> VmState:
        path = path_of(vm.name)
        _check_allowed(vm)
        place = managed_place(host, vm.name)
        managed = _managed(host, dom, vm, place) if vm.off else None
        at = read_save(host, vm.uuid, path) if path else None
        elsewhere = "" if path or managed or not vm.off else saved_elsewhere(host, vm)
        return replace(vm, saves=Saves(path, place, managed, at, elsewhere))

    return look


def _check_allowed(vm: VmState) -> None:
    """Raise Denied where this user could not tell later what became of the disks since a save."""
    for disk in vm.writable if not vm.off else ():
        for path in disk.files or (disk.disk.path,):
            _image(disk.target, path)


def managed_place(host: Host, name: str) -> str:
    """Where libvirt keeps the managed save of a VM, '' if there is no such directory."""
    directory = "/var/lib/libvirt/qemu/save"
    if urlsplit(host.uri).path == "/session":
        base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        directory = os.path.join(base, "libvirt/qemu/save")
    return os.path.join(directory, f"{name}.save") if os.path.isdir(directory) else ""


def _managed(host: Host, dom: Domain, vm: VmState, place: str) -> Save | None:
    """The managed save as libvirt reads it, which decides what becomes of it at the next start."""
    doing = f"VM {vm.name}: reading its managed save"
    if not call(doing, dom.hasManagedSaveImage, 0):
        return None
    file = place if os.path.lexists(place) else ""
    try:
        definition = parse_domain(call(doing, dom.managedSaveGetXMLDesc, 0))
    except Problem as problem:
        return Save(file, FOREIGN, problem.found)
    return _with_disks(host, vm.uuid, Save(file, COMPLETE, definition=definition))


def unfit_memory(uuid: str, path: str) -> str:
    """Why a VM could not go on from a file, '' where nothing shows that; libvirt may read more."""
    try:
        save = _at(path)
    except Denied:
        return ""
    if save is None or save.trouble:
        return save.trouble if save else ""
    if save.kind != COMPLETE:
        return "it was not written to its end"
    return "" if save.of(uuid) else f"it is of VM {save.name}"


def read_save(host: Host, uuid: str, path: str) -> Save | None:
    """What stands at a path, None for nothing; what is no save says why in its ``trouble``."""
    save = _at(path)
    return _with_disks(host, uuid, save) if save and save.kind == COMPLETE else save


def _at(path: str) -> Save | None:
    """The same, without a look at its disks."""
    try:
        descriptor = os.open(path, _OPEN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise denied(path, error, "to look at the save there") from error
    except OSError as error:
        return Save(path, FOREIGN, f"it cannot be opened: {error.strerror}")
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        return Save(path, FOREIGN, "it is not a regular file")
    with open(descriptor, "rb") as file:
        try:
            kind, definition = parse_save(file.read(HEADER + LONGEST_TEXT), facts.st_size)
        except Damaged as problem:
            return Save(path, FOREIGN, problem.found)
    return Save(path, kind, definition=definition)


def _with_disks(host: Host, uuid: str, save: Save) -> Save:
    """The save with what its disks are now, and what we have recorded of them."""
    seen, unseen = _images(save.definition)
    save = replace(save, images=seen, unseen=unseen)
    if not save.file:
        return save
    facts = os.stat(save.file)
    record = _recorded(host, uuid)
    inode, size, written = record.file
    if inode == facts.st_ino and size > facts.st_size:
        trouble = f"it has {facts.st_size} bytes, {size} were written"
        return Save(save.file, FOREIGN, trouble, save.definition)
    ours = (inode, size, written) == (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    recorded = record.images if ours else ()
    return replace(save, written=facts.st_mtime_ns, recorded=recorded)


def _recorded(host: Host, uuid: str) -> _Record:
    """What is recorded, an empty record if nothing is.

    Raises Conflict for one of another version: without it nobody would know of a save elsewhere.
    """
    content = read_record(host.state_dir, _KIND, uuid)
    try:
        record: _Record = _Record() if content is None else built(_Record, content)
        return record
    except Unfit as error:
        raise of_another_version(host.state_dir, _KIND, uuid, str(error), content) from error


def _images(definition: Definition | None) -> tuple[tuple[SavedImage, ...], tuple[str, ...]]:
    """All images of the disks that a guest writes to, and the disks that cannot be looked at."""
    seen: list[SavedImage] = []
    unseen: list[str] = []
    for disk in definition.disks if definition else ():
        if not disk.writable:
            continue
        for path in _chain(disk):
            image = _image(disk.target, path)
            if image:
                seen.append(image)
            else:
                unseen.append(disk.target)
    return tuple(seen), tuple(dict.fromkeys(unseen))


def _chain(disk: Disk) -> tuple[str, ...]:
    """What a disk stands on; of what cannot be read only the first name, '' where it has none."""
    try:
        if disk.source and disk.source.local:
            return tuple(image.filename for image in read_chain(disk.path, format=disk.format))
    except Problem:
        pass
    return (disk.path,)


def _image(target: str, path: str) -> SavedImage | None:
    """An image file as it is now, None for what does not show whether it was written.

    Raises Denied.
    """
    if not path:
        return None
    try:
        facts = os.stat(path)
    except PermissionError as error:
        raise denied(path, error, "to know what becomes of it after the save") from error
    except OSError:
        return SavedImage(target, path, 0)
    if not stat.S_ISREG(facts.st_mode):
        return None
    return SavedImage(target, path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def saved_elsewhere(host: Host, vm: VmState) -> str:
    """A file that we have saved the VM to and that it can still go on from, '' for none."""
    path = _recorded(host, vm.uuid).path
    save = read_save(host, vm.uuid, path) if path else None
    if save is None or not save.recorded or not save.of(vm.uuid):
        return ""
    changed = [*changes(save), *(moved(save, vm.paths) if vm.persistent else ())]
    return "" if changed else path


def memory_goes_on(host: Host, dom: Domain, vm: VmState) -> bool:
    """Whether the memory of a VM that is off is saved, so that its disks are not at rest."""
    doing = f"VM {dom.name()}: looking for its managed save"
    managed = bool(call(doing, dom.hasManagedSaveImage, 0))
    return managed or bool(saved_elsewhere(host, vm))


def look_for_rest(host: Host, dom: Domain, vm: VmState) -> VmState:
    """The VM; an image that a saved guest goes on with does not count as one that it left alone."""
    if not (vm.off and any(disk.unwritten for disk in vm.disks) and memory_goes_on(host, dom, vm)):
        return vm
    return replace(vm, disks=tuple(replace(disk, unwritten=False) for disk in vm.disks))


def is_saved(host: Host, vm: VmState, made: SaveMemory | None) -> bool:
    """Whether a VM that is off can go on from what was to be saved (None for nothing)."""
    if made is None or not vm.off:
        return False
    save = save_at(host, vm, made.file)
    return save is not None and save.kind == COMPLETE and save.of(vm.uuid)


def save_at(host: Host, vm: VmState, file: str) -> Save | None:
    """The save in a file; without one the managed save, of which only libvirt knows the place."""
    if file:
        return read_save(host, vm.uuid, file)
    doing = f"VM {vm.name}: looking for its managed save"
    return _managed(host, call(doing, host.conn.lookupByUUIDString, vm.uuid), vm, "")


def record_save(host: Host, uuid: str, file: str, *, managed: bool) -> None:
    """Record what the disks are right after a save; nothing where its file is not known.

    Nor where one was written since. A time that is still to come does not tell that.
    """
    save = read_save(host, uuid, file) if file else None
    if save is None or save.kind != COMPLETE:
        return
    past = tuple(image for image in save.images if image.written <= time.time_ns())
    if list(changes(replace(save, images=past, recorded=()))):
        return
    facts = os.stat(file)
    content = {
        "path": "" if managed else file,
        "file": [facts.st_ino, facts.st_size, facts.st_mtime_ns],
        "images": [asdict(image) for image in save.images],
    }
    write_record(host.state_dir, _KIND, uuid, content)


def forget_save(host: Host, uuid: str) -> None:
    """Remove the record: the VM has gone on."""
    remove_record(host.state_dir, _KIND, uuid)
