# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A libvirt domain and its disks, read from domain XML.

Follows https://libvirt.org/formatdomain.html.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .firmware import nvram_file, nvram_unnamed, tpm_folder, unkept
from .hardware import Shape, has_flash, keeping_memory, shape
from .xml_text import up_to_disks, xml_root, xml_text

AGENT_CHANNEL = "org.qemu.guest_agent.0"
# Keep the usual prefixes when a document is written again.
ET.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")
ET.register_namespace("libosinfo", "http://libosinfo.org/xmlns/libvirt/domain/1.0")

_PATH_ATTRIBUTE = {"file": "file", "block": "dev", "dir": "dir"}


@dataclass(frozen=True)
class Source:
    """Where a disk's data is: ``kind`` is libvirt's disk type, ``path`` only for file and block."""

    kind: str
    path: str = ""
    label: str = ""
    sliced: bool = False

    @property
    def local(self) -> bool:
        """Whether this is a path on this host that an image reader can open."""
        return self.kind in ("file", "block") and bool(self.path) and not self.sliced

    def __str__(self) -> str:
        return self.path or f"{self.kind} {self.label}".strip()


@dataclass(frozen=True)
class Mirror:
    """A two-phase job on a disk as the live XML shows it (``<mirror>``)."""

    job: str
    path: str
    ready: str

    @property
    def is_ready(self) -> bool:
        return self.ready == "yes"


@dataclass(frozen=True)
class Disk:
    """One disk of a domain definition.

    ``recorded`` are the images below the source as the definition lists them
    (``<backingStore>``), which may be out of date where it is not the live one. ``ended`` is False
    where that list does not say what its last image stands on. ``encrypted`` are those images, the
    source among them, that it tells QEMU to decrypt (``<encryption>``). A ``transient`` one is as
    before when the VM is off.
    """

    target: str
    device: str
    source: Source | None
    format: str
    readonly: bool = False
    shareable: bool = False
    mirror: Mirror | None = None
    recorded: tuple[str, ...] = ()
    ended: bool = True
    encrypted: tuple[str, ...] = ()
    transient: bool = False

    @property
    def stacked(self) -> tuple[str, ...]:
        """What libvirt has put upon each other by snapshots; a full list is somebody else's."""
        return () if self.ended else (self.path, *self.recorded)

    @property
    def writable(self) -> bool:
        """Whether a guest writes to it: what snapshots and backups are about."""
        return self.device in ("disk", "lun") and not self.readonly and self.source is not None

    @property
    def path(self) -> str:
        return self.source.path if self.source else ""


@dataclass(frozen=True)
class Definition:
    """One domain XML, live or inactive. ``agent`` is None without a channel, else its state.

    ``number`` is what libvirt gives to each start of a VM, '' while it is off. ``tpm`` is the
    folder of the state of its emulated TPM in libvirt's place for the VM, or an absolute path, ''
    without one. ``nvram_unnamed``: libvirt decides where that file is, and ``unkept`` are states
    that cannot be copied (see firmware.unkept). ``bars`` are devices that keep its memory from
    being written, ``flash`` and ``shape`` (None: not read) see hardware.
    """

    name: str
    uuid: str
    active: bool
    disks: tuple[Disk, ...]
    agent: str | None = None
    nvram: str = ""
    number: str = ""
    tpm: str = ""
    nvram_unnamed: bool = False
    unkept: tuple[tuple[str, str], ...] = ()
    bars: tuple[str, ...] = ()
    flash: bool = False
    shape: Shape | None = ()

    @property
    def named(self) -> frozenset[str]:
        """Every image that the definition names, as a source or below one."""
        return frozenset(path for disk in self.disks for path in (disk.path, *disk.recorded))

    def disk(self, target: str) -> Disk | None:
        return next((disk for disk in self.disks if disk.target == target), None)

    def moved(self, sources: Mapping[str, tuple[str, str]]) -> Definition:
        """What it will say after :func:`with_sources`."""
        return replace(self, disks=tuple(_moved(disk, sources) for disk in self.disks))


def _moved(disk: Disk, sources: Mapping[str, tuple[str, str]]) -> Disk:
    if disk.path and disk.path in sources:
        path, image_format = sources[disk.path]
        disk = replace(disk, source=local_source(path), format=image_format)
    elif not any(path in sources for path in disk.recorded):
        return disk
    return replace(disk, recorded=(), ended=True)


def local_source(path: str) -> Source:
    """A source on this host: what is below /dev is a block device, all else a file."""
    return Source("block" if path.startswith("/dev/") else "file", path)


def parse_domain(xml: str, *, brief: bool = False) -> Definition:
    """Read a domain XML as ``virDomainGetXMLDesc`` returns it; ``brief``: only up to its disks."""
    text = up_to_disks(xml, "</domain>") if brief else xml
    return domain_from_element(xml_root(text), brief=brief)


def domain_from_element(root: ET.Element, *, brief: bool = False) -> Definition:
    """The same from an element, such as the ``<domain>`` inside a snapshot."""
    return Definition(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        active=root.get("id") is not None,
        disks=tuple(_disk(node) for node in _devices(root, "disk")),
        agent=_agent(root),
        nvram=nvram_file(root),
        number=root.get("id", ""),
        tpm=tpm_folder(root),
        nvram_unnamed=nvram_unnamed(root),
        unkept=tuple(unkept(root)),
        bars=tuple(keeping_memory(root)),
        flash=has_flash(root),
        shape=None if brief else shape(root),
    )


def _disk(node: ET.Element) -> Disk:
    target, driver, below = node.find("target"), node.find("driver"), node.find("backingStore")
    return Disk(
        target=target.get("dev", "") if target is not None else "",
        device=node.get("device", "disk"),
        source=_source(node.find("source"), node.get("type", "")),
        format=driver.get("type", "raw") if driver is not None else "raw",
        readonly=node.find("readonly") is not None,
        shareable=node.find("shareable") is not None,
        mirror=_mirror(node.find("mirror")),
        recorded=() if below is None else tuple(_paths(below.iter("source"))),
        ended=below is None or [*below.iter("backingStore")][-1].find("source") is None,
        encrypted=tuple(_paths(_with_keys(node))),
        transient=node.find("transient") is not None,
    )


def _with_keys(disk: ET.Element) -> Iterator[ET.Element]:
    """The sources of images that QEMU decrypts; old definitions say it beside the source."""
    for layer in (disk, *disk.iterfind(".//backingStore")):
        if layer.find("encryption") is not None or layer.find("source/encryption") is not None:
            yield from layer.findall("source")


def _paths(sources: Iterable[ET.Element]) -> Iterator[str]:
    for source in sources:
        path = source.get("file") or source.get("dev")
        if path:
            yield path


def _source(node: ET.Element | None, kind: str) -> Source | None:
    if node is None or not node.attrib:
        return None
    path = node.get(_PATH_ATTRIBUTE[kind], "") if kind in _PATH_ATTRIBUTE else ""
    label = " ".join(
        f"{key}={node.get(key)}" for key in ("pool", "volume", "protocol", "name") if node.get(key)
    )
    return Source(kind, path, label, sliced=node.find("slices") is not None)


def _mirror(node: ET.Element | None) -> Mirror | None:
    if node is None:
        return None
    path = next(_paths(node.findall("source")), "")
    return Mirror(node.get("job", "copy"), path or node.get("file", ""), node.get("ready", ""))


def _agent(root: ET.Element) -> str | None:
    for channel in _devices(root, "channel"):
        target = channel.find("target")
        if target is not None and target.get("name") == AGENT_CHANNEL:
            return target.get("state", "disconnected")
    return None


def _devices(root: ET.Element, kind: str) -> list[ET.Element]:
    """The devices of a kind. A plain loop takes a third of the time of a path expression."""
    devices = root.find("devices")
    return [] if devices is None else [node for node in devices if node.tag == kind]


def with_sources(root: ET.Element, sources: Mapping[str, tuple[str, str]]) -> None:
    """Let the disks of a ``<domain>`` element name other images.

    ``sources`` maps each path that is to go to (new path, new format). Where it is a disk's
    source, the source moves; where it is recorded below one, the record (``<backingStore>``)
    is dropped, since libvirt would believe it and read the images no more.
    """
    for disk in root.iterfind("devices/disk"):
        _move_source(disk, sources)
        if any(path in sources for path in _paths(disk.iterfind("backingStore//source"))):
            _drop_record(disk)


def _drop_record(disk: ET.Element) -> None:
    for stale in disk.findall("backingStore"):
        disk.remove(stale)


def _move_source(disk: ET.Element, sources: Mapping[str, tuple[str, str]]) -> None:
    source = disk.find("source")
    kind = disk.get("type", "")
    old = source.get(_PATH_ATTRIBUTE.get(kind, ""), "") if source is not None else ""
    if old and old in sources:
        _move_to(disk, *sources[old])


def _move_to(disk: ET.Element, path: str, image_format: str) -> None:
    source = disk.find("source")
    if source is None:
        source = ET.SubElement(disk, "source")
    if disk.get("type", "") in _PATH_ATTRIBUTE:
        source.attrib.pop(_PATH_ATTRIBUTE[disk.get("type", "")], None)
    else:
        source.clear()  # a volume or a host is named in many ways
    new = local_source(path)
    disk.set("type", new.kind)
    source.set(_PATH_ATTRIBUTE[new.kind], path)
    for part in source.findall("slices"):
        source.remove(part)
    driver = disk.find("driver")
    if driver is None:
        driver = ET.SubElement(disk, "driver", {"name": "qemu"})
    driver.set("type", image_format)
    _drop_record(disk)


def place_disks(root: ET.Element, images: Mapping[str, tuple[str, str]]) -> None:
    """Let the disks of a ``<domain>`` element, by target, stand on (image, format), whatever was.

    No disk keeps a record of what is below it: it is out of date.
    """
    for disk in _devices(root, "disk"):
        target = disk.find("target")
        name = target.get("dev", "") if target is not None else ""
        if name in images:
            _move_to(disk, *images[name])
        _drop_record(disk)


def domain_with_sources(xml: str, sources: Mapping[str, tuple[str, str]]) -> str:
    """A domain XML with the disks moved as in :func:`with_sources`."""
    root = xml_root(xml)
    with_sources(root, sources)
    return xml_text(root)
