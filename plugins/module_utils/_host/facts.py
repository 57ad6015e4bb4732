# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking up the facts that a plan is held against. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from .._model.domain import Definition, Disk, parse_domain
from .._model.image import identity_of
from .._model.problem import Problem
from .._model.state import DirectoryFact, FileFact, ImageUse, Job, VmState
from .connection import call
from .image_file import read_chain, read_image
from .libvirt_dep import libvirt
from .observe import Host, read_snapshots

if TYPE_CHECKING:
    from .libvirt_dep import Domain

_JOB_KINDS = {1: "pull", 2: "copy", 3: "commit", 4: "active-commit", 5: "backup"}
_MOST_FILES = 10_000


def file_fact(path: str) -> FileFact:
    """What stands at a path, symbolic links not followed."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return FileFact(path, "")
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "other")
    return FileFact(path, kind, status.st_size, identity_of(status))


def directory_fact(path: str) -> DirectoryFact:
    """Whether new files can be made in a directory, and how many bytes are free there."""
    if not os.path.isdir(path):
        missing = "does not exist" if not os.path.lexists(path) else "is not a directory"
        return DirectoryFact(path, 0, missing)
    space = os.statvfs(path)
    trouble = "" if os.access(path, os.W_OK | os.X_OK) else "is not writable"
    if space.f_flag & os.ST_RDONLY:
        trouble = "is on a read-only file system"
    return DirectoryFact(path, space.f_bavail * space.f_frsize, trouble)


def block_jobs(dom: Domain, vm: VmState, targets: Iterable[str]) -> tuple[Job, ...]:
    """The jobs on the named disks of a running VM, with what the live XML says of their base."""
    if vm.off:
        return ()
    jobs = []
    for target in dict.fromkeys(targets):
        doing = f"VM {vm.name}, disk {target}: asking for its block job"
        info = call(doing, dom.blockJobInfo, target, 0)
        disk = vm.live.disk(target)
        mirror = disk.mirror if disk else None
        if info:
            kind = _JOB_KINDS.get(info["type"], f"unknown ({info['type']})")
            base = mirror.path if mirror else ""
            jobs.append(Job(target, kind, base, bool(mirror and mirror.is_ready)))
    return tuple(jobs)


def memory_used(dom: Domain) -> int:
    """Bytes of the host's memory that QEMU holds: about what a running guest has ever touched."""
    found = call(f"VM {dom.name()}: asking for its memory", dom.memoryStats)
    return int(found.get("rss", 0)) * 1024


def image_uses(
    host: Host, vm: VmState, images: Sequence[str], removed: Sequence[str] = ()
) -> tuple[ImageUse, ...]:
    """Who else stands on these images: other VMs, their snapshots, image files beside them.

    The files of the directories of the images and of the active storage pools are looked at,
    at most 10,000 of them in each; not those of the VM itself, and not those to be ``removed``
    (merged images stand on each other, and may be in no chain any more).
    """
    wanted = {_identity(path): path for path in images if os.path.exists(path)}
    if not wanted:
        return ()
    own = {_identity(file) for disk in vm.disks for file in disk.files}
    own.update(_identity(path) for path in removed if os.path.exists(path))
    found = [*_vm_uses(host, vm, wanted), *_file_uses(host, wanted, own)]
    return tuple(dict.fromkeys(found))


def dwellers(host: Host, vm: VmState, subvolumes: Sequence[str]) -> tuple[ImageUse, ...]:
    """The disks of other VMs that lie in these subvolumes."""
    found = [
        ImageUse(subvolume, f"disk {disk.target} of VM {definition.name}")
        for definition in (_definitions_of_others(host, vm) if subvolumes else ())
        for disk in definition.disks
        for subvolume in subvolumes
        if disk.path and os.path.realpath(disk.path).startswith(f"{subvolume.rstrip('/')}/")
    ]
    return tuple(dict.fromkeys(found))


def _definitions_of_others(host: Host, vm: VmState) -> Iterator[Definition]:
    for dom in call("listing the VMs", host.conn.listAllDomains, 0):
        if dom.UUIDString() == vm.uuid:
            continue
        name = dom.name()
        yield parse_domain(call(f"reading VM {name}", dom.XMLDesc, 0))
        if call(f"reading VM {name}", dom.isPersistent):
            flags = libvirt.VIR_DOMAIN_XML_INACTIVE
            yield parse_domain(call(f"reading VM {name}", dom.XMLDesc, flags))


def _identity(path: str) -> tuple[int, int]:
    return identity_of(os.stat(path))


def _vm_uses(host: Host, vm: VmState, wanted: dict[tuple[int, int], str]) -> Iterator[ImageUse]:
    for dom in call("listing the VMs", host.conn.listAllDomains, 0):
        if dom.UUIDString() == vm.uuid:
            continue
        name = dom.name()
        definitions = [parse_domain(call(f"reading VM {name}", dom.XMLDesc, 0))]
        if call(f"reading VM {name}", dom.isPersistent):
            flags = libvirt.VIR_DOMAIN_XML_INACTIVE
            definitions.append(parse_domain(call(f"reading VM {name}", dom.XMLDesc, flags)))
        for definition in definitions:
            yield from _definition_uses(definition, f"VM {name}", wanted)
        for snapshot in read_snapshots(dom):
            if snapshot.before:
                user = f"snapshot {snapshot.name} of VM {name}"
                yield from _definition_uses(snapshot.before, user, wanted)


def _definition_uses(
    definition: Definition, user: str, wanted: dict[tuple[int, int], str]
) -> Iterator[ImageUse]:
    for disk in definition.disks:
        if not disk.source or not disk.source.local:
            continue
        for path in _chain_files(disk):
            image = wanted.get(_identity(path))
            if image:
                yield ImageUse(image, f"disk {disk.target} of {user}")


def _chain_files(disk: Disk) -> tuple[str, ...]:
    """What a disk stands on; of a chain that cannot be read, what the definition records."""
    try:
        return tuple(image.filename for image in read_chain(disk.path, format=disk.format))
    except Problem:
        return tuple(path for path in (disk.path, *disk.recorded) if os.path.exists(path))


def _file_uses(
    host: Host, wanted: dict[tuple[int, int], str], own: set[tuple[int, int]]
) -> Iterator[ImageUse]:
    directories = {os.path.dirname(os.path.realpath(path)) for path in wanted.values()}
    for directory in sorted(directories | set(_pool_directories(host))):
        for path in _regular_files(directory):
            try:
                identity = _identity(path)
                image = read_image(path, snapshots=False) if identity not in own else None
                base = image.full_backing_filename if image else None
                used = wanted.get(_identity(base)) if base and os.path.exists(base) else None
            except (Problem, OSError):
                continue
            if used:
                yield ImageUse(used, f"image {path}")


def _pool_directories(host: Host) -> Iterator[str]:
    """Where the active directory pools keep their volumes; pools are optional in libvirt."""
    try:
        pools = host.conn.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
        descriptions = [pool.XMLDesc(0) for pool in pools]
    except libvirt.libvirtError:
        return
    for description in descriptions:
        path = description.partition("<path>")[2].partition("</path>")[0]
        if os.path.isdir(path):
            yield os.path.realpath(path)


def _regular_files(directory: str) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            for count, entry in enumerate(entries):
                if count >= _MOST_FILES:
                    return
                if entry.is_file(follow_symlinks=False):
                    yield entry.path
    except OSError:
        return
