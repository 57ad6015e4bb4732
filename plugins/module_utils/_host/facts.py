# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking up the facts that a plan is held against. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from .._model.image import Identity
from .._model.state import ImageUse, Job, VmState
from .._model.storage import stored_user
from .connection import call
from .files import directory_fact, file_fact, on_read_only
from .image_users import path_identity, standing_files
from .libvirt_dep import libvirt
from .monitor import ask_qemu, block_nodes
from .observe import Host
from .other_vms import needed_by_others
from .storage_users import storage_uses

if TYPE_CHECKING:
    from .libvirt_dep import Domain

__all__ = [
    "backup_checkpoints",
    "block_jobs",
    "directory_fact",
    "file_fact",
    "image_uses",
    "images_inactive",
    "memory_held",
    "memory_used",
    "memory_written",
    "on_read_only",
    "takes_inside_flash",
]

_NOTED_WITHIN, _POLL_SECONDS = 10.0, 0.05
_INSIDE_FLASH = 9_003_000
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
    """The names of libvirt's checkpoints, which incremental backups stand on, in order."""
    doing = f"VM {dom.name()}: listing its backup checkpoints"
    return tuple(sorted(found.getName() for found in call(doing, dom.listAllCheckpoints, 0)))


def memory_used(dom: Domain) -> int:
    """Bytes of the host's memory that QEMU holds: about what a running guest has ever touched."""
    found = call(f"VM {dom.name()}: asking for its memory", dom.memoryStats)
    return int(found.get("rss", 0)) * 1024


def memory_held(dom: Domain) -> tuple[str, ...]:
    """Why QEMU would not write the memory of a running VM now, in its words.

    What a guest has mounted by 9p is one reason, which no definition shows. Nothing where QEMU does
    not tell, as before version 6.0.
    """
    migration = ask_qemu(dom, "query-migrate") or {}
    return tuple(str(reason) for reason in migration.get("blocked-reasons", ()))


def memory_written(dom: Domain) -> bool:
    """Whether QEMU has written the memory of a paused VM, which has not run since."""
    return (ask_qemu(dom, "query-status") or {}).get("status") == "postmigrate"


def images_inactive(dom: Domain) -> bool:
    """Whether QEMU has let go of images of a paused VM; versions before 10 do not tell."""
    return any(node.get("active") is False for node in block_nodes(dom))


def image_uses(
    host: Host, vm: VmState, images: Sequence[str], removed: Sequence[str] = ()
) -> tuple[ImageUse, ...]:
    """Who else stands on these images: other VMs, snapshots of theirs and of storage, image files.

    The files of the directories of the images and of the active storage pools are looked at,
    at most 10,000 of them in each; not those of the VM itself, and not those to be ``removed``
    (merged images stand on each other, and may be in no chain any more).
    """
    wanted = {path_identity(path): path for path in images if os.path.exists(path)}
    if not wanted:
        return ()
    files = (file for disk in vm.disks for file in disk.files)
    own = {path_identity(file) for file in files if os.path.exists(file)}
    own.update(path_identity(path) for path in removed if os.path.exists(path))
    stored = list(storage_uses(host, wanted))
    own.update(path_identity(use.copy) for use in stored if os.path.exists(use.copy))
    found = [
        *_vm_uses(host, vm, wanted),
        *(ImageUse(wanted[use.image], stored_user(use.name, use.vm)) for use in stored),
        *_file_uses(host, wanted, own),
    ]
    return tuple(dict.fromkeys(found))


def dwellers(host: Host, vm: VmState, subvolumes: Sequence[str]) -> tuple[ImageUse, ...]:
    """The disks of other VMs that lie in these subvolumes."""
    found = [
        ImageUse(subvolume, needed.user)
        for needed in (needed_by_others(host, vm.uuid) if subvolumes else ())
        for subvolume in subvolumes
        if needed.disk and _lies_in(needed.files[:1], subvolume)
    ]
    return tuple(dict.fromkeys(found))


def _lies_in(files: Sequence[str], directory: str) -> bool:
    below = f"{directory.rstrip('/')}/"
    return any(os.path.realpath(path).startswith(below) for path in files)


def _vm_uses(host: Host, vm: VmState, wanted: dict[Identity, str]) -> Iterator[ImageUse]:
    for needed in needed_by_others(host, vm.uuid):
        for number, path in enumerate(needed.files):
            # It may have gone with its VM.
            with contextlib.suppress(FileNotFoundError):
                image = wanted.get(path_identity(path))
                if image:
                    yield ImageUse(image, needed.user, needed.writes and number == 0)


def _file_uses(host: Host, wanted: dict[Identity, str], own: set[Identity]) -> Iterator[ImageUse]:
    directories = {os.path.dirname(os.path.realpath(path)) for path in wanted.values()}
    for file in standing_files(directories.union(_pool_directories(host)), own, directories):
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


def takes_inside_flash(host: Host, vm: VmState) -> bool:
    """Whether libvirt takes internal snapshots of VMs with UEFI that are off.

    Nothing but its version tells: 9.0 refuses that, 9.3 mended what 9.2 allowed.
    """
    doing = f"VM {vm.name}: asking for the version of libvirt"
    return int(call(doing, host.conn.getLibVersion)) >= _INSIDE_FLASH
