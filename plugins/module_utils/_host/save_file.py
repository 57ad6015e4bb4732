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
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Callable
from urllib.parse import urlsplit

from .._model.domain import Definition, Disk, parse_domain
from .._model.problem import Damaged, Problem
from .._model.save import (
    COMPLETE,
    FOREIGN,
    HEADER,
    LONGEST_TEXT,
    Save,
    SavedImage,
    Saves,
    changes,
    parse_save,
)
from .._model.state import VmState
from .connection import call
from .image_file import read_chain
from .record import read_record, remove_record, write_record

if TYPE_CHECKING:
    from .libvirt_dep import Domain
    from .observe import Host

_KIND = "save"
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def look_at_saves(path_of: Callable[[str], str]) -> Callable[[Host, Domain, VmState], VmState]:
    """What adds the saves of a VM to what was observed of it.

    ``path_of`` tells the file that was asked for by the name of the VM, '' for a managed save.
    """

    def look(host: Host, dom: Domain, vm: VmState) -> VmState:
        path = path_of(vm.name)
        place = managed_place(host, vm.name)
        managed = _managed(host, dom, vm, place) if vm.off else None
        at = read_save(host, vm.uuid, path) if path else None
        elsewhere = "" if path or managed or not vm.off else _elsewhere(host, vm.uuid)
        return replace(vm, saves=Saves(path, place, managed, at, elsewhere))

    return look


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


def read_save(host: Host, uuid: str, path: str) -> Save | None:
    """What stands at a path, None for nothing; what is no save says why in its ``trouble``."""
    try:
        descriptor = os.open(path, _OPEN)
    except (FileNotFoundError, NotADirectoryError):
        return None
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
    save = Save(path, kind, definition=definition)
    return _with_disks(host, uuid, save) if kind == COMPLETE else save


def _with_disks(host: Host, uuid: str, save: Save) -> Save:
    """The save with what its disks are now, and what we have recorded of them."""
    seen, unseen = _images(save.definition)
    save = replace(save, images=seen, unseen=unseen)
    if not save.file:
        return save
    facts = os.stat(save.file)
    record = read_record(host.state_dir, _KIND, uuid) or {}
    inode, size, written = record.get("file", (0, 0, 0))
    if inode == facts.st_ino and size > facts.st_size:
        trouble = f"it has {facts.st_size} bytes, {size} were written"
        return Save(save.file, FOREIGN, trouble, save.definition)
    ours = (inode, size, written) == (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    recorded = tuple(SavedImage(**entry) for entry in record["images"]) if ours else ()
    return replace(save, written=facts.st_mtime_ns, recorded=recorded)


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
    """An image file as it is now, None for what does not show whether it was written."""
    if not path:
        return None
    try:
        facts = os.stat(path)
    except OSError:
        return SavedImage(target, path, 0)
    if not stat.S_ISREG(facts.st_mode):
        return None
    return SavedImage(target, path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def _elsewhere(host: Host, uuid: str) -> str:
    """A file that we have saved the VM to and that it can still go on from, '' for none."""
    found = read_record(host.state_dir, _KIND, uuid) or {}
    path = str(found.get("path") or "")
    save = read_save(host, uuid, path) if path else None
    good = save and save.recorded and save.of(uuid) and not list(changes(save))
    return path if good else ""


def is_saved(host: Host, vm: VmState, file: str) -> bool:
    """Whether a VM that is off can go on from a file ('' for none)."""
    save = read_save(host, vm.uuid, file) if vm.off and file else None
    return save is not None and save.kind == COMPLETE and save.of(vm.uuid)


def record_save(host: Host, uuid: str, file: str, *, managed: bool) -> None:
    """Record what the disks are right after a save; nothing where its file is not known."""
    save = read_save(host, uuid, file) if file else None
    if save is None or save.kind != COMPLETE or list(changes(replace(save, recorded=()))):
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
