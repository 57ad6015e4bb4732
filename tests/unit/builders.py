# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small builders of the values that plans are made from.

Images are called by short words: the image ``s1`` of disk vda is ``at("vda", "s1")``, which is
also the overlay that a snapshot s1 of the VM gets. A word with a slash is a path as it stands.
``disk("vda", "s2 s1 base")`` is a disk that writes to s2, which stands on s1, and so on.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import (
    Definition,
    Disk,
    Source,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image import (
    Bitmap,
    File,
    Image,
    InternalSnapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    MEMORY,
    Snapshot,
    SnapshotDisk,
    proven_consistency,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import (
    DirectoryFact,
    DiskState,
    Facts,
    FileFact,
    VmState,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import Plan, Step
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import Needs

NAME, UUID = "db", "5762cac2-e406-495a-b4e9-a10624a3211b"
FOLDER = "/vms"
MIB = 1024 * 1024
GIB = 1024 * MIB


def at(target: str, word: str) -> str:
    """The path of an image."""
    return word if "/" in word else f"{FOLDER}/{NAME}.{target}.{word}.qcow2"


def paths(target: str, words: str) -> tuple[str, ...]:
    return tuple(at(target, word) for word in words.split())


def memory_of(name: str) -> str:
    """The memory file that a snapshot of the VM gets."""
    return f"{FOLDER}/{NAME}.memory.{name}.save"


def image(path: str, **values: Any) -> Image:
    """A qcow2 image; ``allocated`` bytes, names of ``internal`` snapshots, ``bitmaps``."""
    identity = (1, zlib.crc32(path.encode()))
    allocated = values.pop("allocated", MIB)
    internal = tuple(internal_snapshot(name) for name in values.pop("internal", ()))
    file = File(path, values.pop("real", path), allocated, allocated, identity)
    defaults = {"format": "qcow2", "format_source": "recorded", "virtual_size": GIB}
    return Image(file, **{**defaults, "snapshots": internal, **values})


def internal_snapshot(name: str) -> InternalSnapshot:
    return InternalSnapshot("1", name, 0, 0, 0, 0, 0, None, GIB)


def bitmap(name: str, *flags: str, granularity: int = 65536) -> Bitmap:
    return Bitmap(name, granularity, flags)


def disk(
    target: str = "vda",
    chain: str = "base",
    *,
    kind: str = "file",
    persistent: str | None = None,
    recorded: str = "",
    trouble: str = "",
    stacked: str | None = None,
    images: Mapping[str, Mapping[str, Any]] | None = None,
    **values: Any,
) -> DiskState:
    """A disk and its chain; ``persistent`` (by default the active image) and ``recorded``: words.

    ``stacked`` are the images that libvirt has put upon each other, by default those that are not
    called by a path. ``images``: word -> values of :func:`image`. With ``trouble`` the chain is
    unreadable. ``values`` are those of Disk.
    """
    words = chain.split()
    found = tuple(image(at(target, w), **(images or {}).get(w, {})) for w in words)
    files = paths(target, chain)
    source = Source(kind, files[0]) if files else None
    image_format = found[0].format if found else "raw"
    attributes = {"device": "disk", "source": source, "format": image_format, **values}
    attributes.setdefault("recorded", files[1:])
    return DiskState(
        Disk(target, **attributes),
        () if trouble else found,
        at(target, persistent) if persistent is not None else files[0] if files else "",
        paths(target, recorded),
        trouble,
        stacked=paths(target, " ".join(w for w in words if "/" not in w))
        if stacked is None
        else paths(target, stacked),
    )


def snapshot(
    name: str,
    on: Mapping[str, str] | None = None,
    *,
    parent: str = "",
    mode: str = "external",
    without: Iterable[str] = (),
    below: Mapping[str, str] | None = None,
    **values: Any,
) -> Snapshot:
    """A snapshot; ``on`` maps each disk to the image that it was taken of (default vda: base).

    Disks ``without`` are in the definition and not part of it; ``below``: what the definition
    records below an image. The overlays are called like the snapshot.
    """
    on = {"vda": "base"} if on is None else on
    before = _before(on, below or {})
    memory = values.pop("memory", "no")
    state = values.pop("state", "running" if memory != "no" else "disk-snapshot")
    return Snapshot(
        **{
            "name": name,
            "parent": parent,
            "state": state,
            "created": 100,
            "current": False,
            "description": "",
            "consistency": MEMORY if memory != "no" else proven_consistency(state, memory),
            "memory": memory,
            "memory_file": memory_of(name) if memory == "external" else "",
            "disks": _disks(name, mode, on, without),
            "before": before,
            "named": before.named,
            "xml": "",
            **values,
        }
    )


def _disks(
    name: str, mode: str, on: Iterable[str], without: Iterable[str]
) -> tuple[SnapshotDisk, ...]:
    entries = [
        SnapshotDisk(target, "external", at(target, name), "qcow2")
        if mode == "external"
        else SnapshotDisk(target, mode)
        for target in on
        if target not in without
    ]
    return (*entries, *(SnapshotDisk(target, "no") for target in without))


def _before(on: Mapping[str, str], below: Mapping[str, str]) -> Definition:
    return definition(
        Disk(
            target,
            "disk",
            Source("file", at(target, word)),
            "qcow2",
            recorded=paths(target, below.get(target, "")),
        )
        for target, word in on.items()
    )


def definition(disks: Iterable[Disk], *, agent: str | None = "connected") -> Definition:
    return Definition(NAME, UUID, True, tuple(disks), agent)


def vm(
    *disks: DiskState,
    snapshots: Iterable[Snapshot] = (),
    status: str = "running",
    persistent: bool = True,
    agent: str | None = "connected",
    missing: Iterable[str] = (),
) -> VmState:
    """A VM, by default one that runs with one disk of one image and a connected agent."""
    disks = disks or (disk(),)
    live = definition((state.disk for state in disks), agent=agent)
    return VmState(
        NAME, UUID, status, persistent, live, disks, tuple(snapshots), frozenset(missing)
    )


def stacked(*names: str, targets: str = "vda", status: str = "running", **values: Any) -> VmState:
    """A VM with external snapshots upon each other, of all its disks; the last is current.

    ``values`` are those of each snapshot.
    """
    words = ("base", *names)
    disks = [disk(target, " ".join(reversed(words))) for target in targets.split()]
    snapshots = [
        snapshot(
            name,
            dict.fromkeys(targets.split(), words[n]),
            parent=words[n] if n else "",
            below=dict.fromkeys(targets.split(), " ".join(reversed(words[:n]))),
            created=100 + n,
            current=name == names[-1],
            **values,
        )
        for n, name in enumerate(names)
    ]
    return vm(*disks, snapshots=snapshots, status=status)


def facts(
    needed: Needs,
    *,
    existing: Mapping[str, FileFact] | None = None,
    directories: Mapping[str, DirectoryFact] | None = None,
    **values: Any,
) -> Facts:
    """Facts that stand in nobody's way, but for what is said: nothing exists, all has room."""
    found = existing or {}
    places = directories or {}
    return Facts(
        {path: found.get(path, FileFact(path, "")) for path in needed.files},
        {path: places.get(path, DirectoryFact(path, 1 << 50)) for path in needed.directories},
        **values,
    )


def kinds(plan: Plan | Iterable[Step]) -> list[str]:
    """The names of a plan's steps."""
    return [step.step for step in (plan.steps if isinstance(plan, Plan) else plan)]


def of(kind: type[Any], plan: Plan | Iterable[Step]) -> list[Any]:
    """The steps of one kind."""
    steps = plan.steps if isinstance(plan, Plan) else plan
    return [step for step in steps if isinstance(step, kind)]
