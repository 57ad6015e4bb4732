# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a VM that is to be restored, and at the restore point. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from .._model.backup import DOMAIN, FULL, RestorePoint, StoredDisk
from .._model.domain import Definition
from .._model.image import Image
from .._model.problem import Conflict, Damaged
from .._model.restore import (
    ABSENT,
    Draft,
    Marker,
    Places,
    RestoreWish,
    Seen,
    StoredVm,
    draft_name,
    read_marker,
)
from .._model.state import VmState
from . import qemu_img
from .connection import NO_DOMAIN, call, code_of, problem_of
from .digest import stored_text
from .facts import backup_checkpoints
from .files import directory_fact
from .image_file import read_chain
from .libvirt_dep import libvirt
from .observe import Host, observe
from .repository import path_of
from .snapshots import XML_SECURE
from .stamp import stamp
from .tpm import tpm_home

if TYPE_CHECKING:
    from .libvirt_dep import Domain


def find_target(host: Host, wish: RestoreWish) -> Domain | None:
    """The VM that is to be restored, None where libvirt has none. Conflict if that is unclear."""
    domains = call("listing the VMs", host.conn.listAllDomains, 0)
    named = next((dom for dom in domains if dom.name() == wish.name), None)
    known = next((dom for dom in domains if dom.UUIDString() == wish.uuid), None)
    if named is not None and named.UUIDString() != wish.uuid:
        raise Conflict(
            f"there is a VM {wish.name} already, with the UUID {named.UUIDString()}",
            wanted=f"to restore {wish.point.id} of VM {wish.point.vm} under that name, with the"
            f" UUID {wish.uuid}",
            todo="choose another name ('as'), or rename or remove that VM",
        )
    if wish.clone and known is not None and named is None:
        raise Conflict(
            f"VM {known.name()} was restored as {wish.name} before",
            wanted=f"to restore {wish.point.id} of VM {wish.point.vm} as {wish.name}",
            todo="choose another name ('as'), or remove that VM",
        )
    return known


def look_at(host: Host, wish: RestoreWish, dom: Domain | None) -> Seen:
    """The VM as it is; one that libvirt does not know has no disks."""
    if dom is None:
        nothing = Definition(wish.name, wish.uuid, False, ())
        return Seen(VmState(wish.name, wish.uuid, ABSENT, False, nothing, (), ()))
    vm = observe(host, dom)
    doing = f"reading VM {vm.name}"
    xml = ""
    if vm.persistent:
        xml = call(doing, dom.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE | XML_SECURE)
    marker = read_marker(ET.fromstring(xml)) if xml else None  # noqa: S314 - the daemon's own output
    folders = [os.path.dirname(file) for _t, file, _s in marker.disks] if marker else []
    return Seen(
        vm=vm,
        xml=xml,
        marker=marker,
        written=frozenset(_written(vm, marker)) if marker else frozenset(),
        checkpoints=backup_checkpoints(dom),
        managed_save=vm.off and bool(call(doing, dom.hasManagedSaveImage, 0)),
        drafts=tuple(_drafts(wish.uuid, folders)),
        still_there=tuple(p for p in (marker.replaced if marker else ()) if os.path.exists(p)),
    )


def _written(vm: VmState, marker: Marker) -> Iterator[str]:
    """The targets that stand on another image than was restored, or on one that was written to."""
    for target, file, then in marker.disks:
        disk = vm.disk(target)
        if disk is None or disk.disk.path != file or not then or stamp(file) != then:
            yield target


def _drafts(uuid: str, folders: Iterable[str]) -> Iterator[Draft]:
    """What dead restores of this VM have left, each with the final name of the same file."""
    for folder in dict.fromkeys(folders):
        with contextlib.suppress(OSError):
            names = os.listdir(folder)
            for name in sorted(names):
                if name.startswith(draft_name(uuid, "")):
                    yield Draft(os.path.join(folder, name), _twin(folder, name, names))


def _twin(folder: str, draft: str, names: Sequence[str]) -> str:
    facts = os.lstat(os.path.join(folder, draft))
    if facts.st_nlink < 2:
        return ""
    for name in names:
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            if name != draft and os.path.samestat(os.lstat(path), facts):
                return path
    return ""


def look_at_places(
    host: Host, wish: RestoreWish, folders: Sequence[str], tpm: Sequence[str]
) -> Places:
    """What stands where new files are to be made, and the MAC addresses that are taken.

    ``tpm`` are names of files below the directory for the VM's TPM.
    """
    taken: set[str] = set()
    home = tpm_home(host, wish.uuid)
    tpm_folders = [os.path.dirname(os.path.join(home, name)) for name in tpm]
    for folder in folders:
        with contextlib.suppress(OSError):
            taken.update(os.path.join(folder, name) for name in os.listdir(folder))
    return Places(
        directories={folder: directory_fact(folder) for folder in folders},
        taken=frozenset(taken),
        drafts=tuple(_drafts(wish.uuid, [*folders, *tpm_folders])),
        macs=frozenset(_macs(host, wish.uuid)) if wish.clone else frozenset(),
        tpm=home,
    )


def _macs(host: Host, uuid: str) -> Iterator[str]:
    """The MAC addresses of all other VMs."""
    for dom in call("listing the VMs", host.conn.listAllDomains, 0):
        if dom.UUIDString() == uuid:
            continue
        try:
            root = ET.fromstring(dom.XMLDesc(0))  # noqa: S314 - the daemon's own output
        except ET.ParseError:
            continue  # the MAC addresses of one VM are no reason to leave another alone
        except libvirt.libvirtError as error:
            if code_of(error) != NO_DOMAIN:
                raise problem_of(error, "listing the VMs") from error
            continue
        for mac in root.iterfind("devices/interface/mac"):
            yield mac.get("address", "").lower()


def read_stored(wish: RestoreWish, *, measured: bool) -> StoredVm:
    """The definition and the chains of a point. Damaged where they are not as its manifests say.

    ``measured``: also how much a copy of each disk takes.
    """
    point, directory = wish.point, wish.stock.directory
    domain = point.of_role(DOMAIN)
    if domain is None:
        raise Damaged(f"restore point {point.id} of VM {point.vm} has no definition of the VM")
    definition = stored_text(path_of(directory, point, domain.name), domain)
    chains = {disk.target: _chain(wish, disk) for disk in wish.wanted}
    room = {
        target: qemu_img.measure(chain[0].filename, "qcow2", depth=len(chain)) if measured else 0
        for target, chain in chains.items()
    }
    return StoredVm(definition, chains, room)


def files_read(wish: RestoreWish) -> dict[str, tuple[RestorePoint, StoredDisk]]:
    """Every image that the disks are read from, by path."""
    return {
        image_path(wish, point, disk): (point, disk)
        for wanted in wish.wanted
        for point, disk in wish.stock.images(wish.point, wanted.target)
    }


def image_path(wish: RestoreWish, point: RestorePoint, disk: StoredDisk) -> str:
    """Where an image stands once no merge is left half done."""
    return os.path.join(wish.stock.directory, point.id, disk.file)


def _chain(wish: RestoreWish, wanted: StoredDisk) -> tuple[Image, ...]:
    """The chain of a disk, by our own reader, which opens nothing outside of the VM's folder."""
    images = list(wish.stock.images(wish.point, wanted.target))
    paths = [image_path(wish, point, disk) for point, disk in images]
    if not images or images[-1][1].type != FULL:
        raise Damaged(f"no full image of disk {wanted.target} is below {wish.point.id}")
    chain = read_chain(paths[0], format="qcow2", roots=[wish.stock.directory])
    complaint = _complaint(wish, chain, paths, wanted)
    if complaint:
        raise Damaged(complaint)
    return chain


def _complaint(
    wish: RestoreWish, chain: Sequence[Image], paths: Sequence[str], wanted: StoredDisk
) -> str:
    files = [image.file.real for image in chain]
    merging = any(point.id in wish.stock.staged for point in wish.stock.lineage(wish.point))
    if files != [os.path.realpath(path) for path in paths] and not merging:
        return f"{paths[0]} stands on {files[1:]}, which is not what the manifests say"
    if any(image.data_file or image.encrypted or image.format != "qcow2" for image in chain):
        return f"{paths[0]}, or an image that it stands on, is of a kind that no backup writes"
    if chain[0].virtual_size != wanted.virtual_size:
        return (
            f"{paths[0]} holds a disk of {chain[0].virtual_size} bytes, its manifest says"
            f" {wanted.virtual_size}"
        )
    return ""
