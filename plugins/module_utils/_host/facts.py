# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking up the facts that a plan is held against. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from .._model.domain import Definition, parse_domain
from .._model.image import Identity
from .._model.state import ImageUse, Job, VmState
from .connection import call
from .files import directory_fact, file_fact
from .image_users import definition_chains, path_identity, standing_files
from .libvirt_dep import libvirt
from .observe import Host, read_snapshots

if TYPE_CHECKING:
    from .libvirt_dep import Domain

__all__ = [
    "backup_checkpoints",
    "block_jobs",
    "directory_fact",
    "file_fact",
    "image_uses",
    "memory_used",
]

_NOTED_WITHIN, _POLL_SECONDS = 10.0, 0.05
_JOB_KINDS = {1: "pull", 2: "copy", 3: "commit", 4: "active-commit", 5: "backup"}


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


def await_end_of_jobs(dom: Domain, targets: Iterable[str]) -> None:
    """Give libvirt a moment to take note of commits and pulls that have ended.

    QEMU writes the new chain into the images first. Until libvirt has heard of that, it lists the
    job and names the images that are gone. An active commit, which may follow, is another kind.
    """
    deadline = time.monotonic() + _NOTED_WITHIN
    for target in targets:
        doing = f"VM {dom.name()}, disk {target}: waiting for the end of its block job"
        while time.monotonic() < deadline:
            info = call(doing, dom.blockJobInfo, target, 0) or {}
            if _JOB_KINDS.get(info.get("type", 0)) not in ("commit", "pull"):
                break
            time.sleep(_POLL_SECONDS)


def backup_checkpoints(dom: Domain) -> tuple[str, ...]:
    """The names of libvirt's checkpoints, which incremental backups stand on."""
    doing = f"VM {dom.name()}: listing its backup checkpoints"
    return tuple(found.getName() for found in call(doing, dom.listAllCheckpoints, 0))


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
    wanted = {path_identity(path): path for path in images if os.path.exists(path)}
    if not wanted:
        return ()
    own = {path_identity(file) for disk in vm.disks for file in disk.files}
    own.update(path_identity(path) for path in removed if os.path.exists(path))
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


def _vm_uses(host: Host, vm: VmState, wanted: dict[Identity, str]) -> Iterator[ImageUse]:
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
                yield from _definition_uses(snapshot.before, user, wanted, writes_top=False)


def _definition_uses(
    definition: Definition,
    user: str,
    wanted: dict[Identity, str],
    *,
    writes_top: bool = True,
) -> Iterator[ImageUse]:
    for disk, files in definition_chains(definition):
        for path in files:
            image = wanted.get(path_identity(path))
            if image:
                writes = writes_top and path == disk.path and disk.writable
                yield ImageUse(image, f"disk {disk.target} of {user}", writes)


def _file_uses(host: Host, wanted: dict[Identity, str], own: set[Identity]) -> Iterator[ImageUse]:
    directories = {os.path.dirname(os.path.realpath(path)) for path in wanted.values()}
    for file in standing_files(directories.union(_pool_directories(host)), own):
        if file.base in wanted:
            yield ImageUse(wanted[file.base], f"image {file.path}")


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
