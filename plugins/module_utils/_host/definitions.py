# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMs as libvirt keeps them in files: what they need of images, also while they are off.

Whether a VM runs with an image is shown by QEMU's locks (see image_lock). These files tell of
those that are off, without the libvirt binding or a daemon, which need not be there. Never changes
anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from .._model.domain import Definition, parse_domain
from .._model.image_state import Standing
from .._model.reference import paths_named_in, shown
from .._model.snapshot import Snapshot, parse_snapshot
from .._model.xml_text import xml_root
from .image_file import read_chain
from .image_users import definition_chains, path_identity


class _Place(NamedTuple):
    """Where one libvirt keeps definitions, its storage pools, and what it knows beside them."""

    definitions: str
    pools: str
    state: str


def _places() -> tuple[_Place, ...]:
    """The system's libvirt, and that of the user's own session."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    session = os.path.join(home, "libvirt")
    return (
        _Place("/etc/libvirt/qemu", "/etc/libvirt/storage", "/var/lib/libvirt/qemu"),
        _Place(f"{session}/qemu", f"{session}/storage", f"{session}/qemu"),
    )


def defined_users() -> Iterator[Standing]:
    """What all defined VMs and their external snapshots need, disk by disk.

    A definition that cannot be understood needs all the images that it names.
    """
    for place in _places():
        for path in _xml_files(place.definitions):
            definition = _definition(path, *_version(path))
            try:
                users = list(_vm_users(definition, place.state)) if definition else None
            except Exception:
                users = None
            yield from _named_in(path) if users is None else users


def pool_directories() -> Iterator[str]:
    """Where directory pools keep their volumes."""
    for place in _places():
        for path in _xml_files(place.pools):
            target = _text(path).partition("<path>")[2].partition("</path>")[0]
            if os.path.isdir(target):
                yield os.path.realpath(target)


def passed_over() -> Iterator[str]:
    """What there is to say of definitions that cannot be read, or not be understood."""
    for place in _places():
        if os.path.isdir(place.definitions) and not os.access(place.definitions, os.R_OK):
            yield (
                f"VMs defined in {shown(place.definitions)} are not looked at: this user may not"
                " read it"
            )
        for path in _xml_files(place.definitions):
            why = _trouble(path)
            if why:
                yield f"the VM defined in {shown(path)} is not looked at: {why}"
            elif _definition(path, *_version(path)) is None:
                yield f"{shown(path)} cannot be understood; the images that it names are left alone"


def _trouble(path: str) -> str:
    """Why a file cannot be read, '' if it can, or is gone by now."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return ""


def _named_in(path: str) -> Iterator[Standing]:
    """All images that a text names, and what they stand on."""
    for named in paths_named_in(_text(path)):
        files: tuple[str, ...] = (named,)
        with contextlib.suppress(Exception):
            files = tuple(image.filename for image in read_chain(named))
        yield Standing(f"the VM defined in {shown(path)}", tuple(_identities(files)))


def _vm_users(vm: Definition, state: str) -> Iterator[Standing]:
    files = _xml_files(f"{state}/snapshot/{vm.name}")
    read = {path: _snapshot(path, *_version(path)) for path in files}
    snapshots = [found for found in read.values() if found]
    for path, found in read.items():
        yield from () if found or _is_checkpoint(_text(path)) else _named_in(path)
    saved = os.path.exists(f"{state}/save/{vm.name}.save")
    for disk, chain in definition_chains(vm):
        images = _identities(chain)
        yield Standing(
            f"disk {disk.target} of VM {vm.name}",
            tuple(filter(None, images[1:])),
            images[0] if images else None,
            vm=True,
            saved=saved,
            tags=frozenset(_tags(snapshots, disk.target)),
        )
    for snapshot in snapshots:
        user = f"snapshot {snapshot.name} of VM {vm.name}"
        for disk, chain in definition_chains(snapshot.before) if snapshot.before else ():
            images = _identities(chain)
            if disk.target in snapshot.overlays:
                yield Standing(user, tuple(images))
            elif _is_inside(snapshot, disk.target) and images:
                yield Standing(user, (), images[0], tags=frozenset([snapshot.name]))


def _tags(snapshots: Iterable[Snapshot], target: str) -> Iterator[str]:
    """The internal snapshots that libvirt has recorded for a disk."""
    return (snapshot.name for snapshot in snapshots if _is_inside(snapshot, target))


def _is_inside(snapshot: Snapshot, target: str) -> bool:
    return any(disk.target == target and disk.mode == "internal" for disk in snapshot.disks)


def _is_checkpoint(text: str) -> bool:
    """A checkpoint needs no image as it is. libvirt leaves it here when its VM is renamed."""
    try:
        return xml_root(text).tag == "domaincheckpoint"
    except (ET.ParseError, ValueError):  # also where it is no text
        return False


def _identities(chain: Iterable[str]) -> list[tuple[int, int]]:
    return [path_identity(path) for path in chain if os.path.exists(path)]


def _xml_files(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [f"{directory}/{name}" for name in names if name.endswith(".xml")]


def _version(path: str) -> tuple[int, int]:
    """What changes when a file does."""
    try:
        facts = os.stat(path)
    except OSError:
        return (0, 0)
    return (facts.st_mtime_ns, facts.st_ino)


@lru_cache(maxsize=4096)
def _definition(path: str, *_version: int) -> Definition | None:
    try:
        found = parse_domain(_text(path))
        return found if found.name else None
    except Exception:
        return None


@lru_cache(maxsize=4096)
def _snapshot(path: str, *_version: int) -> Snapshot | None:
    try:
        found = parse_snapshot(_text(path), brief=True)
        return found if found.name else None
    except Exception:
        return None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
