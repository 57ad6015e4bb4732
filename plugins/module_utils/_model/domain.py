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
    (``<backingStore>``), which may be out of date where it is not the live one.
    """

    target: str
    device: str
    source: Source | None
    format: str
    readonly: bool = False
    shareable: bool = False
    mirror: Mirror | None = None
    recorded: tuple[str, ...] = ()

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
    folder that the state of its emulated TPM has in libvirt's place for the VM, or by an absolute
    path; '' without such a device.
    """

    name: str
    uuid: str
    active: bool
    disks: tuple[Disk, ...]
    agent: str | None = None
    nvram: str = ""
    number: str = ""
    tpm: str = ""

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
        return replace(disk, source=local_source(path), format=image_format, recorded=())
    stale = any(path in sources for path in disk.recorded)
    return replace(disk, recorded=()) if stale else disk


def local_source(path: str) -> Source:
    """A source on this host: what is below /dev is a block device, all else a file."""
    return Source("block" if path.startswith("/dev/") else "file", path)


def parse_domain(xml: str, *, brief: bool = False) -> Definition:
    """Read a domain XML as ``virDomainGetXMLDesc`` returns it; ``brief``: only up to its disks."""
    text = up_to_disks(xml, "</domain>") if brief else xml
    return domain_from_element(ET.fromstring(text))  # noqa: S314 - the daemon's own output


def up_to_disks(xml: str, closing: str) -> str:
    """A document of libvirt's without what follows the disks of its domain: most of the text.

    libvirt writes them before all other devices. ``closing`` are the tags that are open behind
    ``<devices>``.
    """
    end = xml.rfind("</disk>", max(0, xml.find("<devices>")))
    return f"{xml[:end]}</disk></devices>{closing}" if end > xml.find("<devices>") > 0 else xml


def domain_from_element(root: ET.Element) -> Definition:
    """The same from an element, such as the ``<domain>`` inside a snapshot."""
    return Definition(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        active=root.get("id") is not None,
        disks=tuple(_disk(node) for node in _devices(root, "disk")),
        agent=_agent(root),
        nvram=root.findtext("os/nvram", ""),
        number=root.get("id", ""),
        tpm=tpm_folder(root),
    )


def tpm_folder(root: ET.Element, *, own: bool = False) -> str:
    """The folder of an emulated TPM's state, '' for none: see :class:`Definition`.

    With ``own`` libvirt's own, whatever the definition names.
    https://libvirt.org/formatdomain.html#tpm-device, whose ``source`` libvirt has since 10.10.
    """
    backend = root.find("devices/tpm/backend")
    if backend is None or backend.get("type") != "emulator":
        return ""
    source = backend.find("source")
    if source is not None and source.get("path") and not own:
        return source.get("path", "")
    return "tpm1.2" if backend.get("version") == "1.2" else "tpm2"


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
    )


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
    source = node.find("source")
    path = source.get("file") or source.get("dev") or "" if source is not None else ""
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
    if source is None or not old or old not in sources:
        return
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
    root = ET.fromstring(xml)  # noqa: S314 - the daemon's own output
    with_sources(root, sources)
    return ET.tostring(root, encoding="unicode")
