# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots as libvirt records them: values and XML; the tree they form is in tree.py.

Follows https://libvirt.org/formatsnapshot.html. What libvirt's format has no place for
(the consistency of the point in time, and more) stands in the last line of the description.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from .domain import Definition, domain_from_element, with_sources
from .stamp import Stamp, from_note
from .xml_text import up_to_disks, xml_root, xml_text

OFFLINE, FILESYSTEM, MEMORY, CRASH = "offline", "filesystem", "memory", "crash"
CHECKPOINT = "checkpoint"
_NOTE = re.compile(
    r"\s*^vmkeep: consistency=(offline|filesystem|memory|crash)((?: [a-z]+=[!-~]+)*)\s*\Z",
    re.MULTILINE,
)


@dataclass(frozen=True)
class SnapshotDisk:
    """What a snapshot does with one disk: ``mode`` is no, internal, external or manual."""

    target: str
    mode: str
    file: str = ""
    format: str = ""


@dataclass(frozen=True)
class SnapshotSpec:
    """A snapshot to be taken. ``memory_file`` empty: no memory, or inside the image.

    ``more`` is what else is to be noted with it (see ``noted``).
    """

    name: str
    description: str
    mode: str
    disks: tuple[SnapshotDisk, ...]
    memory_file: str = ""
    more: tuple[tuple[str, str], ...] = ()

    def to_xml(self, consistency: str) -> str:
        """The ``<domainsnapshot>`` that asks libvirt for this snapshot."""
        root = ET.Element("domainsnapshot")
        ET.SubElement(root, "name").text = self.name
        ET.SubElement(root, "description").text = noted(
            self.description, consistency, dict(self.more)
        )
        if self.memory_file:
            ET.SubElement(root, "memory", {"snapshot": "external", "file": self.memory_file})
        disks = ET.SubElement(root, "disks")
        for disk in self.disks:
            node = ET.SubElement(disks, "disk", {"name": disk.target, "snapshot": disk.mode})
            if disk.mode == "external":
                ET.SubElement(node, "driver", {"type": disk.format})
                ET.SubElement(node, "source", {"file": disk.file})
        return xml_text(root)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that libvirt knows; ``ours`` if this collection took it.

    ``before`` is the domain as it was at that point, ``named`` every image that its recorded
    definitions, live and inactive, name; ``later`` is the inactive one, where the VM ran and it was
    read. ``former`` are overlays that it made and that stood on
    its point until the VM was brought back to it. ``kind`` is checkpoint for one of
    vm_checkpoint, else ''. ``state`` is that of the VM before it was paused for it, if it was.
    ``stamps`` are of the images that it needs and that nothing is to write to any more.
    """

    name: str
    parent: str
    state: str
    created: int
    current: bool
    description: str
    consistency: str
    memory: str
    memory_file: str
    disks: tuple[SnapshotDisk, ...]
    before: Definition | None
    named: frozenset[str]
    xml: str
    ours: bool = True
    former: tuple[str, ...] = ()
    kind: str = ""
    stamps: tuple[Stamp, ...] = ()
    later: Definition | None = None

    @property
    def made(self) -> tuple[str, ...]:
        """Every overlay that it made."""
        return (*self.overlays.values(), *self.former)

    @property
    def mode(self) -> str:
        """external as soon as one disk or the memory is, else internal."""
        external = self.memory == "external" or any(d.mode == "external" for d in self.disks)
        return "external" if external else "internal"

    @property
    def taken(self) -> tuple[SnapshotDisk, ...]:
        """The disks that are part of it."""
        return tuple(disk for disk in self.disks if disk.mode != "no")

    @property
    def overlays(self) -> dict[str, str]:
        """target -> overlay file that was created by this snapshot."""
        return {d.target: d.file for d in self.disks if d.mode == "external"}

    @property
    def points(self) -> dict[str, str]:
        """target -> image that an external snapshot goes back to."""
        return {target: self.image_before(target) for target in self.overlays}

    def image_before(self, target: str) -> str:
        """The image that holds this disk's content at that point, or ''."""
        disk = self.before.disk(target) if self.before else None
        return disk.path if disk else ""


def oldest_first(snapshots: Iterable[Snapshot]) -> tuple[Snapshot, ...]:
    """libvirt lists snapshots in no order that means anything."""
    return tuple(sorted(snapshots, key=lambda found: (found.created, found.name)))


def parse_snapshot(xml: str, *, current: bool = False, brief: bool = False) -> Snapshot:
    """Read a ``<domainsnapshot>`` as ``virDomainSnapshotGetXMLDesc`` returns it.

    ``brief`` leaves out what only the inactive definition names, and all devices but disks: most
    of the text.
    """
    text = _brief(xml) if brief else xml
    root = xml_root(text)
    state = root.findtext("state", "")
    memory = root.find("memory")
    memory_mode = memory.get("snapshot", "no") if memory is not None else "no"
    stored = root.findtext("description", "")
    description, consistency = read_note(stored)
    more = read_more(stored)
    before = [domain_from_element(node, brief=brief) for node in root.iterfind("domain")]
    others = [domain_from_element(node) for node in root.iterfind("inactiveDomain")]
    return Snapshot(
        name=root.findtext("name", ""),
        parent=root.findtext("parent/name", ""),
        state=more.get("was", state),
        created=int(root.findtext("creationTime", "0")),
        current=current,
        description=description,
        consistency=consistency or proven_consistency(state, memory_mode),
        memory=memory_mode,
        memory_file=memory.get("file", "") if memory is not None else "",
        disks=tuple(_snapshot_disk(node) for node in root.iterfind("disks/disk")),
        before=before[0] if before else None,
        named=frozenset().union(*(definition.named for definition in (*before, *others))),
        xml=xml,
        ours=bool(consistency),
        former=tuple(unquote(path) for path in more.get("former", "").split(",") if path),
        kind=more.get("kind", ""),
        stamps=from_note(more.get("stamps", "")),
        later=others[0] if others else None,
    )


def _brief(xml: str) -> str:
    head, definition, _rest = xml.partition("<inactiveDomain")
    text = f"{head}</domainsnapshot>" if definition else xml
    return up_to_disks(text, "</domain></domainsnapshot>")


def _snapshot_disk(node: ET.Element) -> SnapshotDisk:
    source, driver = node.find("source"), node.find("driver")
    return SnapshotDisk(
        target=node.get("name", ""),
        mode=node.get("snapshot", "no"),
        file=(source.get("file") or source.get("dev") or "") if source is not None else "",
        format=driver.get("type", "") if driver is not None else "",
    )


def proven_consistency(state: str, memory: str) -> str:
    """What a snapshot without our note is worth; never guessed upward."""
    if memory != "no":
        return MEMORY
    return OFFLINE if state == "shutoff" else CRASH


def noted(description: str, consistency: str, more: Mapping[str, str] | None = None) -> str:
    """The description as it is stored, with our note in its last line.

    ``more`` are other words of the note, with values of plain characters.
    """
    words = "".join(f" {key}={value}" for key, value in (more or {}).items() if value)
    note = f"vmkeep: consistency={consistency}{words}"
    return f"{description}\n\n{note}" if description else note


def read_note(stored: str) -> tuple[str, str]:
    """Split a stored description into the operator's text and the consistency ('' if none)."""
    match = _NOTE.search(stored)
    return (stored[: match.start()], match.group(1)) if match else (stored, "")


def read_more(stored: str) -> dict[str, str]:
    """The other words of the note in a stored description."""
    match = _NOTE.search(stored)
    words = match.group(2).split() if match else []
    return dict(word.split("=", 1) for word in words)


def rewritten(
    xml: str,
    sources: Mapping[str, tuple[str, str]],
    *,
    without: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
    consistency: str = "",
    stamps: str | None = None,
    former: Iterable[str] = (),
) -> str:
    """A snapshot's XML after images were merged or its note was corrected.

    ``sources`` maps each image that is gone to (image, format) that holds its content now;
    the disks ``without`` are no longer part of the snapshot; ``files`` maps targets to the
    overlays that stand on its points now; ``stamps``, unless None, takes the place of those noted;
    ``former`` are noted as overlays of its own that do not stand there any more.
    """
    root = xml_root(xml)
    for tag in ("domain", "inactiveDomain"):
        node = root.find(tag)
        if node is not None:
            with_sources(node, sources)
    gone = list(former)
    for disk in root.iterfind("disks/disk"):
        gone.extend(_on_other_overlay(disk, files or {}))
        if disk.get("name", "") in without:
            disk.set("snapshot", "no")
            disk.attrib.pop("type", None)
            for child in list(disk):
                disk.remove(child)
    _renote(root.find("description"), consistency, gone, stamps)
    return xml_text(root)


def _on_other_overlay(disk: ET.Element, files: Mapping[str, str]) -> Iterator[str]:
    """Let a disk of a snapshot name the overlay that stands on its point now; yields the former."""
    source, name = disk.find("source"), disk.get("name", "")
    if source is not None and name in files and source.get("file", "") != files[name]:
        yield source.get("file", "")
        source.set("file", files[name])


def _renote(
    node: ET.Element | None, consistency: str, former: Sequence[str], stamps: str | None
) -> None:
    """Correct our note; a snapshot without one is somebody else's, and gets none."""
    stored = (node.text or "") if node is not None else ""
    text, known = read_note(stored)
    if node is None or not known:
        return
    more = read_more(stored)
    left = [*more.get("former", "").split(","), *(quote(path, safe="/") for path in former)]
    more["former"] = ",".join(path for path in left if path)
    more["stamps"] = more.get("stamps", "") if stamps is None else stamps
    node.text = noted(text, consistency or known, more)
