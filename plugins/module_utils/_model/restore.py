# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be restored, what of it is there already, and the mark that tells so.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import uuid as uuid_module
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field

from .backup import RestorePoint, StoredDisk
from .image import Image
from .state import DirectoryFact, VmState
from .stock import Stock

NAMESPACE = "https://github.com/vmkeep/vmkeep.libvirt/restored"
ABSENT = "absent"
"""The status of a VM that libvirt does not know."""
CHECKPOINT_PREFIX = "vmkeep-"
_FAMILY = uuid_module.UUID("5ef4fb5b-60b8-4b24-9e0e-0f6d4a6a54b3")
ET.register_namespace("vmkeep", NAMESPACE)


@dataclass(frozen=True)
class Marker:
    """What the definition of a VM says of the restore point that its disks come from.

    ``repository`` is the id of the repository, ``vm`` the UUID that it knows the VM by, ``digest``
    that of the manifest. ``disks`` are (target, file, stamp), where the stamp is another one once
    the file was written to. ``replaced`` are files that the VM had, ``checkpoints`` those that went
    out of date with them.
    """

    repository: str
    vm: str
    point: str
    digest: str
    disks: tuple[tuple[str, str, str], ...] = ()
    replaced: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()

    def of(self, repository: str, point: RestorePoint) -> bool:
        """Whether it names this point, as it is now or was before a merge."""
        same = (self.repository, self.vm, self.point) == (repository, point.uuid, point.id)
        return same and self.digest in (point.digest, *point.formerly)

    @property
    def files(self) -> dict[str, str]:
        """target -> file."""
        return {target: file for target, file, _stamp in self.disks}


@dataclass(frozen=True)
class RestoreWish:
    """What a task wants of one VM.

    ``repository`` is the id of it, ``asked`` what named the point. ``name`` and ``uuid`` are those
    of the VM that is to be as ``point`` has it; ``clone``: it is another VM than the one that was
    backed up. ``disks`` empty means all of the point, ``directory`` '' beside the images that the
    disks had.
    """

    stock: Stock
    repository: str
    point: RestorePoint
    asked: str
    name: str
    uuid: str
    clone: bool = False
    disks: tuple[str, ...] = ()
    directory: str = ""
    start: bool = False
    instant: bool = False
    force: bool = False
    networks: bool = True
    delete_replaced: bool = False

    @property
    def wanted(self) -> tuple[StoredDisk, ...]:
        """The disks of the point that are asked for."""
        return tuple(d for d in self.point.disks if not self.disks or d.target in self.disks)


@dataclass(frozen=True)
class Draft:
    """A file that a dead restore left; ``final`` is its second name, '' if it has none."""

    path: str
    final: str = ""


@dataclass(frozen=True)
class Seen:
    """The VM that is to be restored, as it is. ``xml`` is its persistent definition.

    ``written`` are the targets whose image is not the one that the marker names, or was written to
    since. ``drafts`` are those of this VM beside its images, ``still_there`` the files that the
    marker names as replaced and that exist.
    """

    vm: VmState
    xml: str = ""
    marker: Marker | None = None
    written: frozenset[str] = frozenset()
    checkpoints: tuple[str, ...] = ()
    managed_save: bool = False
    drafts: tuple[Draft, ...] = ()
    still_there: tuple[str, ...] = ()

    @property
    def absent(self) -> bool:
        return self.vm.status == ABSENT


@dataclass(frozen=True)
class StoredVm:
    """What was read of a restore point, images by our own reader.

    ``definition`` is its domain XML, ``chains`` by target (newest image first), ``room`` the bytes
    that a copy of each disk takes.
    """

    definition: str
    chains: Mapping[str, tuple[Image, ...]]
    room: Mapping[str, int]


@dataclass(frozen=True)
class Places:
    """What stands where new files are to be made. ``macs`` are those of all VMs, in lower case.

    ``tpm`` is the directory in which libvirt keeps the state of the VM's emulated TPM.
    """

    directories: Mapping[str, DirectoryFact] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()
    drafts: tuple[Draft, ...] = ()
    macs: frozenset[str] = frozenset()
    tpm: str = ""


def clone_uuid(repository: str, name: str) -> str:
    """The UUID of a VM that is restored under another name, so that the next run finds it."""
    return str(uuid_module.uuid5(_FAMILY, f"{repository}/{name}"))


def draft_name(uuid: str, what: str) -> str:
    """The name of a file while it is made: found again by whoever restores the same VM."""
    return f".vmkeep-restore.{uuid}.{what}"


def read_marker(domain: ET.Element) -> Marker | None:
    """The marker in a ``<domain>`` element."""
    node = domain.find(f"metadata/{{{NAMESPACE}}}restored")
    if node is None:
        return None
    disks = (
        (entry.get("target", ""), entry.get("file", ""), entry.get("stamp", ""))
        for entry in node.iterfind(f"{{{NAMESPACE}}}disk")
    )
    return Marker(
        repository=node.get("repository", ""),
        vm=node.get("vm", ""),
        point=node.get("point", ""),
        digest=node.get("digest", ""),
        disks=tuple(disks),
        replaced=_listed(node, "replaced", "file"),
        checkpoints=_listed(node, "stale", "checkpoint"),
    )


def _listed(node: ET.Element, tag: str, attribute: str) -> tuple[str, ...]:
    return tuple(entry.get(attribute, "") for entry in node.iterfind(f"{{{NAMESPACE}}}{tag}"))


def place_marker(domain: ET.Element, marker: Marker) -> None:
    """Let a ``<domain>`` element carry the marker, in place of any other."""
    metadata = domain.find("metadata")
    if metadata is None:
        metadata = ET.SubElement(domain, "metadata")
    for old in metadata.findall(f"{{{NAMESPACE}}}restored"):
        metadata.remove(old)
    facts = {"repository": marker.repository, "vm": marker.vm}
    facts.update(point=marker.point, digest=marker.digest)
    node = ET.SubElement(metadata, f"{{{NAMESPACE}}}restored", facts)
    for target, file, stamp in marker.disks:
        values = {"target": target, "file": file, "stamp": stamp}
        ET.SubElement(node, f"{{{NAMESPACE}}}disk", values)
    for file in marker.replaced:
        ET.SubElement(node, f"{{{NAMESPACE}}}replaced", {"file": file})
    for name in marker.checkpoints:
        ET.SubElement(node, f"{{{NAMESPACE}}}stale", {"checkpoint": name})
