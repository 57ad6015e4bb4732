# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots as libvirt records them: values, XML, and the tree they form.

Follows https://libvirt.org/formatsnapshot.html. What libvirt's format has no place for
(the consistency of the point in time) stands in the last line of the description.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .domain import Definition, domain_from_element, up_to_disks, with_sources

OFFLINE, FILESYSTEM, MEMORY, CRASH = "offline", "filesystem", "memory", "crash"
_NOTE = re.compile(r"\s*^vmkeep: consistency=(offline|filesystem|memory|crash)\s*\Z", re.MULTILINE)


@dataclass(frozen=True)
class SnapshotDisk:
    """What a snapshot does with one disk: ``mode`` is no, internal, external or manual."""

    target: str
    mode: str
    file: str = ""
    format: str = ""


@dataclass(frozen=True)
class SnapshotSpec:
    """A snapshot to be taken. ``memory_file`` empty: no memory, or inside the image."""

    name: str
    description: str
    mode: str
    disks: tuple[SnapshotDisk, ...]
    memory_file: str = ""

    def to_xml(self, consistency: str) -> str:
        """The ``<domainsnapshot>`` that asks libvirt for this snapshot."""
        root = ET.Element("domainsnapshot")
        ET.SubElement(root, "name").text = self.name
        ET.SubElement(root, "description").text = noted(self.description, consistency)
        if self.memory_file:
            ET.SubElement(root, "memory", {"snapshot": "external", "file": self.memory_file})
        disks = ET.SubElement(root, "disks")
        for disk in self.disks:
            node = ET.SubElement(disks, "disk", {"name": disk.target, "snapshot": disk.mode})
            if disk.mode == "external":
                ET.SubElement(node, "driver", {"type": disk.format})
                ET.SubElement(node, "source", {"file": disk.file})
        return ET.tostring(root, encoding="unicode")


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that libvirt knows; ``ours`` if this collection took it.

    ``before`` is the domain as it was at that point, ``named`` every image that its recorded
    definitions, live and inactive, name.
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

    def image_before(self, target: str) -> str:
        """The image that holds this disk's content at that point, or ''."""
        disk = self.before.disk(target) if self.before else None
        return disk.path if disk else ""


def parse_snapshot(xml: str, *, current: bool = False, brief: bool = False) -> Snapshot:
    """Read a ``<domainsnapshot>`` as ``virDomainSnapshotGetXMLDesc`` returns it.

    ``brief`` leaves out what only the inactive definition names, and all devices but disks: most
    of the text.
    """
    text = _brief(xml) if brief else xml
    root = ET.fromstring(text)  # noqa: S314 - the daemon's own output
    state = root.findtext("state", "")
    memory = root.find("memory")
    memory_mode = memory.get("snapshot", "no") if memory is not None else "no"
    description, consistency = read_note(root.findtext("description", ""))
    before = [domain_from_element(node) for node in root.iterfind("domain")]
    others = [domain_from_element(node) for node in root.iterfind("inactiveDomain")]
    return Snapshot(
        name=root.findtext("name", ""),
        parent=root.findtext("parent/name", ""),
        state=state,
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


def noted(description: str, consistency: str) -> str:
    """The description as it is stored, with our note in its last line."""
    note = f"vmkeep: consistency={consistency}"
    return f"{description}\n\n{note}" if description else note


def read_note(stored: str) -> tuple[str, str]:
    """Split a stored description into the operator's text and the consistency ('' if none)."""
    match = _NOTE.search(stored)
    return (stored[: match.start()], match.group(1)) if match else (stored, "")


def rewritten(
    xml: str,
    sources: Mapping[str, tuple[str, str]],
    *,
    without: Iterable[str] = (),
    consistency: str = "",
) -> str:
    """A snapshot's XML after images were merged or its note was corrected.

    ``sources`` maps each image that is gone to (image, format) that holds its content now;
    the disks ``without`` are no longer part of the snapshot.
    """
    root = ET.fromstring(xml)  # noqa: S314 - the daemon's own output
    for tag in ("domain", "inactiveDomain"):
        node = root.find(tag)
        if node is not None:
            with_sources(node, sources)
    for disk in root.iterfind("disks/disk"):
        if disk.get("name", "") in without:
            disk.set("snapshot", "no")
            disk.attrib.pop("type", None)
            for child in list(disk):
                disk.remove(child)
    description = root.find("description")
    if consistency and description is not None:
        description.text = noted(read_note(description.text or "")[0], consistency)
    return ET.tostring(root, encoding="unicode")


def descendants(snapshots: Iterable[Snapshot], name: str) -> tuple[str, ...]:
    """``name`` and all that descend from it, parents before children."""
    children = _children(snapshots)
    found, todo = [], [name]
    while todo:
        found.append(todo.pop(0))
        todo.extend(snapshot.name for snapshot in children.get(found[-1], ()))
    return tuple(found)


def tree_text(snapshots: Iterable[Snapshot]) -> str:
    """The tree as ``virsh snapshot-list --tree`` draws it; the current one is marked."""
    children = _children(snapshots)
    roots = children.get("", [])
    lines = [line for root in roots for line in _branch(root, children, last=root is roots[-1])]
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")


def _children(snapshots: Iterable[Snapshot]) -> dict[str, list[Snapshot]]:
    listed = sorted(snapshots, key=lambda snapshot: (snapshot.created, snapshot.name))
    names = {snapshot.name for snapshot in listed}
    children: dict[str, list[Snapshot]] = {}
    for snapshot in listed:
        children.setdefault(snapshot.parent if snapshot.parent in names else "", []).append(
            snapshot
        )
    return children


def _branch(snapshot: Snapshot, children: Mapping[str, list[Snapshot]], *, last: bool) -> list[str]:
    """A snapshot and what is below it; a blank line follows the last leaf of a branch."""
    lines = [f"{snapshot.name} *" if snapshot.current else snapshot.name]
    below = children.get(snapshot.name, [])
    if not below:
        return [*lines, ""] if last else lines
    lines.append("  |")
    for child in below:
        first, *rest = _branch(child, children, last=child is below[-1])
        lines.append(f"  +- {first}")
        lines.extend(("    " if child is below[-1] else "  | ") + line for line in rest)
    return lines
