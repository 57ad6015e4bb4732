# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that came or went since a snapshot: going back brings those of then.

No image is removed for that. What was attached since is detached, and its image stays; what is
gone is attached again, on its point where the snapshot covers it, else with what its image holds.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from .._model.domain import Disk, Source, local_source
from .._model.hardware import OF_DISK
from .._model.problem import NotFound
from .._model.snapshot import Snapshot
from .._model.state import OFF, DiskState, VmState
from .._model.step import DefineAsOf, RestoreMemory, RevertInternal
from .snapshot_files import first_name, made_for

Placed = tuple[str, str, str]


@dataclass(frozen=True)
class Exchange:
    """How the disks of then take the place of those of now.

    ``placed`` are (target, image, format) of all disks on local images, ``attached``, ``media``
    and ``detached`` (target, image) of what changes: see :class:`DefineAsOf`.
    """

    placed: tuple[Placed, ...] = ()
    attached: tuple[tuple[str, str], ...] = ()
    media: tuple[tuple[str, str], ...] = ()
    detached: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def disks_then(found: Snapshot) -> tuple[Disk, ...]:
    """The disks that the VM gets by going back.

    Those of its definition of then, and those that were attached only as it ran: a snapshot may
    cover them, and what they held is to be there again.
    """
    before = found.before.disks if found.before else ()
    disks = list(found.later.disks if found.later else before)
    known = {disk.target for disk in disks}
    for disk in before:
        if disk.target not in known:
            disks.insert(_place(disks, disk.target), disk)
    return tuple(disks)


def _place(disks: list[Disk], target: str) -> int:
    """Where libvirt puts a disk: in order among those on the same bus."""
    same = [n for n, disk in enumerate(disks) if disk.target[:2] == target[:2]]
    above = [n for n in same if (len(disks[n].target), disks[n].target) > (len(target), target)]
    return above[0] if above else same[-1] + 1 if same else len(disks)


def exchanged(vm: VmState, found: Snapshot, new: Mapping[str, str]) -> Exchange:
    """What becomes of each disk; ``new`` are the overlays on the points, by target.

    Or, of an internal snapshot, the images that hold it.

    Raises NotFound where an image of then is gone.
    """
    then = disks_then(found)
    _check_there(vm, found, then, new)
    placed: list[Placed] = []
    attached: list[tuple[str, str]] = []
    media: list[tuple[str, str]] = []
    gone = dict(_gone(vm, then))
    notes = list(_beside_disks(vm, found))
    for disk in then:
        now = vm.disk(disk.target)
        if now is not None and not is_same(vm, now, disk) and now.disk.path:
            gone[disk.target] = now.disk.path
        if disk.target in new:
            placed.append((disk.target, new[disk.target], "qcow2"))
            if now is None or disk.target in gone:
                attached.append((disk.target, new[disk.target]))
        elif disk.source is None or not disk.source.local:
            continue
        elif not disk.writable:
            if now is None or now.disk.path != disk.path:
                media.append((disk.target, disk.path))
        elif now is not None and disk.target not in gone:
            placed.append((disk.target, now.disk.path, now.disk.format))
            notes.append(_as_it_is(vm, found, disk.target, now.disk.path))
        else:
            placed.append((disk.target, disk.path, disk.format))
            attached.append((disk.target, disk.path))
            notes.append(_as_it_is(vm, found, disk.target, disk.path))
    notes += [
        f"{vm.name}: disk {t} is detached; its image {path} stays" for t, path in gone.items()
    ]
    notes += [f"{vm.name}: disk {t} is attached again, with {path}" for t, path in attached]
    return Exchange(tuple(placed), tuple(attached), tuple(media), tuple(gone.items()), tuple(notes))


def _as_it_is(vm: VmState, found: Snapshot, target: str, path: str) -> str:
    left_out = f"disk {target} is not part of snapshot {found.name}"
    return f"{vm.name}: {left_out}, and keeps what {path} holds"


def _gone(vm: VmState, then: tuple[Disk, ...]) -> Iterator[tuple[str, str]]:
    """The disks of now, live and to come, that were not there: (target, image)."""
    known = {disk.target for disk in then}
    to_come = [disk for disk in (vm.config.disks if vm.config else ()) if not vm.disk(disk.target)]
    for disk in (*(state.disk for state in vm.disks), *to_come):
        if disk.target not in known and disk.source is not None:
            yield disk.target, str(disk.source)


def _beside_disks(vm: VmState, found: Snapshot) -> Iterator[str]:
    parts = rebuilt(vm, found)
    if parts:
        yield f"{vm.name}: its definition of then differs from that of now in {', '.join(parts)}"
    if found.mode == "external":
        yield from _only_live(vm, found)


def _only_live(vm: VmState, found: Snapshot) -> Iterator[str]:
    known = {disk.target for disk in found.later.disks} if found.later else set()
    for disk in found.before.disks if found.before and found.later else ():
        if disk.target not in known:
            yield (
                f"{vm.name}: disk {disk.target} was attached only until the VM stopped; it is in"
                " its definition now"
            )


def is_same(vm: VmState, now: DiskState, then: Disk) -> bool:
    """Whether a disk of now goes on with what the target was then, and was not exchanged.

    Their chains have an image in common, or once had one, or the one of then stood on the one of
    now, or they are overlays that followed each other and whose snapshot is gone. Where that of
    then is gone, there is nothing that could take the place of what the target has now: somebody
    has gone back to a snapshot below it.
    """
    if not (then.source and then.source.local and now.disk.source):
        return str(now.disk.source) == str(then.source)
    if now.disk.path in (then.path, *then.recorded) or now.depth_of(then.path) is not None:
        return True
    if then.path in vm.missing or _followed(vm, now.disk.path, then.path):
        return True
    below = {image.file.real for image in vm.chain_of(then.path)}
    return not (below | _stood_on(vm, then.target, then.path)).isdisjoint(
        {*now.real, *_stood_on(vm, then.target, now.disk.path)}
    )


def _followed(vm: VmState, path: str, other: str) -> bool:
    """Whether two images were made, one after the other, for one snapshot of ours."""
    made = {file for found in vm.snapshots if found.ours for file in found.made}
    return {path, other} <= made and first_name(path) == first_name(other)


def _stood_on(vm: VmState, target: str, path: str) -> set[str]:
    """What an overlay of a snapshot was put on, whatever was pulled into it since."""
    points = (each.image_before(target) for each in vm.snapshots if made_for(each, target, path))
    return {image.file.real for point in points for image in vm.chain_of(point)}


def differs(vm: VmState, found: Snapshot) -> bool:
    """Whether the VM, which is off, has other disks or media than it would have."""
    then = disks_then(found)
    if [disk.target for disk in then] != [disk.target for disk in vm.disks]:
        return True
    return any(
        not is_same(vm, now, disk) or (not disk.writable and now.disk.path != disk.path)
        for disk, now in zip(then, vm.disks)
    )


def rebuilt(vm: VmState, found: Snapshot) -> tuple[str, ...]:
    """What else of its definition is not as it was then, as libvirt calls the parts.

    Disks that came or went are not among them: see :func:`exchanged`.
    """
    now = vm.config or vm.live
    then = found.later or (found.before if found.state == OFF else None)
    if then is None or then.shape is None or now.shape is None:
        return ()
    differ = (Counter(then.shape) - Counter(now.shape)) + (Counter(now.shape) - Counter(then.shape))
    both = {part for part, _content in then.shape} & {part for part, _content in now.shape}
    parts = {part for part, _content in differ}
    return tuple(sorted(part for part in parts if part in both or not part.startswith(OF_DISK)))


def _check_there(
    vm: VmState, found: Snapshot, then: tuple[Disk, ...], new: Mapping[str, str]
) -> None:
    """The VM could not start without an image that its definition of then names."""
    live = found.before.disks if found.before and found.memory != "no" else ()
    for disk in (*then, *live):
        now = vm.disk(disk.target)
        stays = disk.writable and now is not None and is_same(vm, now, disk)
        if disk.path in vm.missing and disk.target not in new and not stays:
            raise NotFound(
                f"disk {disk.target} of VM {vm.name} was {disk.path} when snapshot {found.name} was"
                " taken, and that file is gone",
                wanted="every image that the VM had then",
                todo="bring it back to that place; or go back to another snapshot",
            )


def disks_after(vm: VmState, step: DefineAsOf) -> tuple[DiskState, ...]:
    """The disks of the VM, which is off, once it is defined so."""
    found = vm.snapshot(step.snapshot)
    if found is None or found.before is None:
        return vm.disks
    placed = {target: (image, image_format) for target, image, image_format in step.disks}
    return tuple(_after(vm, disk, placed) for disk in disks_then(found))


def disks_resumed(vm: VmState, step: RestoreMemory) -> tuple[DiskState, ...]:
    """The disks that the guest goes on with: those that it had, whatever the next start adds."""
    found = next((each for each in vm.snapshots if each.memory_file == step.file), None)
    if found is None or found.before is None:
        return vm.disks
    placed = {target: (image, image_format) for target, image, image_format in step.disks}
    return tuple(
        replace(_after(vm, disk, placed), persistent=now.persistent if now else "")
        for disk in found.before.disks
        for now in (vm.disk(disk.target),)
    )


def disks_inside(vm: VmState, step: RevertInternal) -> tuple[DiskState, ...]:
    """The disks of the VM once libvirt has brought it back to an internal snapshot."""
    found = vm.snapshot(step.name)
    if found is None or found.before is None:
        return vm.disks
    later = found.later or found.before
    runs = step.status != OFF
    placed = {disk.target: (disk.path, disk.format) for disk in found.before.disks}
    return tuple(
        _kept(vm, disk, placed, later.disk(disk.target) if runs else disk)
        for disk in (found.before if runs else later).disks
    )


def _kept(
    vm: VmState, disk: Disk, placed: Mapping[str, tuple[str, str]], later: Disk | None
) -> DiskState:
    now = vm.disk(disk.target)
    if now is not None and now.disk.path == disk.path:
        return now
    return replace(
        _after(vm, disk, placed if disk.writable else {}),
        persistent=later.path if later else "",
        unwritten=False,
    )


def _after(vm: VmState, disk: Disk, placed: Mapping[str, tuple[str, str]]) -> DiskState:
    image, image_format = placed.get(disk.target, ("", ""))
    if not image:
        now = vm.disk(disk.target)
        if now is not None and now.disk.path == disk.path:
            return now
        chain = vm.chain_of(disk.path) if disk.path else ()
        return DiskState(replace(disk, recorded=()), chain, disk.path)
    source: Source = local_source(image)
    moved = replace(disk, source=source, format=image_format, recorded=())
    chain = vm.chain_of(image)
    now = vm.disk(disk.target)
    unwritten = now.unwritten if now is not None and now.disk.path == image else bool(chain[1:])
    return DiskState(moved, chain, image, unwritten=unwritten)
