# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps make a snapshot present.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .._model.image import Image
from .._model.names import check_snapshot_name
from .._model.problem import BadInput, Conflict, Unsupported
from .._model.snapshot import CRASH, Snapshot, SnapshotDisk, SnapshotSpec
from .._model.state import DiskState, VmState
from .._model.step import CreateOverlay, Plan, TakeSnapshot
from .barred import (
    check_holds_snapshots,
    check_inside_all,
    check_transient,
    check_writes_memory,
    kind_of_place,
    to_wake,
)
from .commit import chosen
from .damage import damages
from .encrypted import check_inside, check_memory, check_overlay
from .snapshot_files import check_files, memory_file, overlay_file

_TAKEABLE = ("running", "paused", "shutoff")


@dataclass(frozen=True)
class SnapshotWish:
    """A snapshot that is to exist.

    ``memory`` None: whatever the mode implies. ``files`` maps disk targets to overlay files,
    ``disks`` empty means all writable disks. ``freeze_timeout`` and ``flush_timeout`` (see
    TakeSnapshot) are in seconds. ``live``: the guest runs while most of its memory is written.
    ``group``: others are to have the same point in time. ``kind``: see Snapshot.
    """

    name: str
    mode: str = "auto"
    memory: bool | None = None
    disks: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    directory: str = ""
    description: str | None = None
    quiesce: str = "preferred"
    freeze_timeout: int = 10
    flush_timeout: int = 0
    live: bool = True
    group: bool = False
    kind: str = ""

    def file_of(self, target: str) -> str:
        """The overlay file that was asked for, or ''."""
        return dict(self.files).get(target, "")


def plan_present(wish: SnapshotWish, vm: VmState) -> Plan:
    """The steps, none if the snapshot is there as asked; Conflict if it is there but differs."""
    existing = vm.snapshot(wish.name)
    if existing:
        differences = tuple(_differences(wish, vm, existing))
        if differences:
            raise Conflict(
                f"snapshot {wish.name} of VM {vm.name} exists but {'; '.join(differences)}",
                wanted="the snapshot as the task describes it",
                todo="choose another name, remove it first (state: absent), or correct the task",
            )
        return Plan(vm.name)
    check_snapshot_name(wish.name)
    if vm.status not in _TAKEABLE:
        raise Unsupported(
            f"VM {vm.name} is {vm.status}",
            wanted="a VM that is running, paused or off",
            todo=to_wake(vm),
        )
    disks = chosen(vm, wish.disks)
    if not disks:
        raise Unsupported(
            f"VM {vm.name} has no disk to take a snapshot of (CD-ROM, floppy and read-only disks"
            " are left out)",
            wanted="at least one writable disk",
        )
    _check_memory(wish, vm)
    return (_internal if wish.mode == "internal" else _external)(wish, vm, disks)


def _differences(wish: SnapshotWish, vm: VmState, found: Snapshot) -> Iterator[str]:
    if wish.kind != found.kind:
        yield f"is a {found.kind or 'snapshot'}, not a {wish.kind or 'snapshot'}"
    if wish.mode not in ("auto", found.mode):
        yield f"is {found.mode}, not {wish.mode}"
    if wish.memory is not None and wish.memory != (found.memory != "no"):
        yield "has no memory" if wish.memory else "includes the memory"
    covered = sorted(disk.target for disk in found.taken)
    if wish.disks and sorted(wish.disks) != covered:
        yield f"covers {', '.join(covered)}, not {', '.join(sorted(wish.disks))}"
    for target, file in wish.files:
        if found.overlays.get(target, file) != file:
            yield f"has {found.overlays[target]} as overlay of {target}, not {file}"
    if wish.description is not None and wish.description.strip() != found.description.strip():
        yield f"is described as {found.description!r}"
    if wish.quiesce == "required" and found.consistency == CRASH:
        yield "is only crash-consistent, not quiesced"
    yield from damages(vm, found)


def _check_memory(wish: SnapshotWish, vm: VmState) -> None:
    if wish.memory and vm.off:
        raise BadInput(
            f"VM {vm.name} is off and has no memory to keep",
            wanted="a snapshot with memory",
            todo="start the VM, or leave out 'memory'",
        )
    if wish.memory and wish.quiesce == "required":
        raise BadInput(
            f"a snapshot of VM {vm.name} with memory cannot be quiesced: the restored guest would"
            " wake up frozen",
            wanted="memory, or 'quiesce: required'",
            todo="drop one of them (a snapshot with memory is consistent without quiescing)",
        )
    if wish.mode == "internal" and not vm.off and wish.memory is False:
        raise BadInput(
            f"an internal snapshot of the running VM {vm.name} always includes its memory",
            wanted="mode internal without memory",
            todo="use 'mode: external', or leave out 'memory'",
        )
    if wish.mode == "internal" and not vm.off and wish.quiesce == "required":
        raise BadInput(
            f"an internal snapshot of the running VM {vm.name} includes its memory and cannot be"
            " quiesced",
            wanted="'quiesce: required'",
            todo="use 'mode: external', or leave out 'quiesce'",
        )


def _internal(wish: SnapshotWish, vm: VmState, disks: tuple[DiskState, ...]) -> Plan:
    """libvirt takes internal snapshots of all writable disks or of none."""
    check_inside_all(vm)
    for disk in vm.writable:
        _check_place(vm, disk, kind_of_place(disk))
        if disk.disk.format != "qcow2":
            raise Unsupported(
                f"disk {disk.target} of VM {vm.name} is {disk.disk.format} ({disk.disk.source})",
                wanted="an internal snapshot, which only qcow2 images can hold",
                todo="use 'mode: external', or convert the disk to qcow2",
            )
        check_inside(vm, disk)
        check_holds_snapshots(vm, disk, _top_of(vm, disk)[0])
        _check_not_held(wish, vm, disk)
    if not vm.off:
        check_writes_memory(vm)
        check_memory(vm, inside=True)
    left_out = [disk.target for disk in vm.writable if disk not in disks]
    if left_out:
        raise Unsupported(
            f"an internal snapshot of VM {vm.name} cannot leave out {', '.join(left_out)}",
            wanted=f"only {', '.join(disk.target for disk in disks)}",
            todo="leave out the option 'disks', or use 'mode: external'",
        )
    entries = tuple(
        SnapshotDisk(disk.target, "internal" if disk.disk.writable else "no")
        for disk in vm.disks
        if disk.disk.source or disk.disk.readonly  # an empty drive may not even be left out
    )
    more = _noted(wish, vm, memory=True)
    spec = SnapshotSpec(wish.name, wish.description or "", "internal", entries, more=more)
    step = TakeSnapshot(spec, (), "never", wish.freeze_timeout, _pauses(wish, vm, memory=True))
    return Plan(vm.name, (step,))


def _pauses(wish: SnapshotWish, vm: VmState, *, memory: bool) -> bool:
    """Whether the guest has to stand still, so that none of a group goes on before the others."""
    return wish.group and memory and vm.status == "running"


def _noted(wish: SnapshotWish, vm: VmState, *, memory: bool) -> tuple[tuple[str, str], ...]:
    """What is to be noted with the snapshot; libvirt will say that a paused VM was paused."""
    was = vm.status if _pauses(wish, vm, memory=memory) else ""
    return tuple((key, word) for key, word in (("kind", wish.kind), ("was", was)) if word)


def _check_not_held(wish: SnapshotWish, vm: VmState, disk: DiskState) -> None:
    """QEMU would write over it, or make a second one that cannot be told from the first.

    A name that is the id of another one would lead back to that.
    """
    held = [found.name for image in disk.chain[:1] for found in image.snapshots]
    if wish.name in held:
        raise Conflict(
            f"image {disk.disk.path} of VM {vm.name}, disk {disk.target}, holds an internal"
            f" snapshot {wish.name} that libvirt does not know",
            wanted="to take one of that name",
            todo="choose another name, or delete it if nobody needs it (qemu-img snapshot -d)",
        )
    if any(wish.name == found.id for image in disk.chain[:1] for found in image.snapshots):
        raise Conflict(
            f"{wish.name} is the id of an internal snapshot in {disk.disk.path} of VM {vm.name},"
            f" disk {disk.target}, and QEMU would go back to that",
            wanted="to take one of that name",
            todo="choose another name",
        )


def _external(wish: SnapshotWish, vm: VmState, disks: tuple[DiskState, ...]) -> Plan:
    if wish.memory:
        check_writes_memory(vm)
    for disk in disks:
        _check_place(vm, disk, kind_without_overlay(disk))
        check_overlay(vm, disk, wish.kind)
    check_transient(vm, disks)
    files = {disk.target: overlay_file(wish, vm, disk) for disk in disks}
    if wish.memory:
        check_memory(vm)
    memory = memory_file(wish, vm, disks) if wish.memory else ""
    check_files(vm, files, memory)
    overlays = tuple(_overlay(vm, disk, files[disk.target]) for disk in disks)
    entries = tuple(
        SnapshotDisk(disk.target, "external", files[disk.target], "qcow2")
        if disk.target in files
        else SnapshotDisk(disk.target, "no")
        for disk in vm.disks
    )
    more = _noted(wish, vm, memory=bool(memory))
    spec = SnapshotSpec(wish.name, wish.description or "", "external", entries, memory, more)
    pause = _pauses(wish, vm, memory=bool(memory))
    pace = ("live",) if wish.live and not pause else ()
    flags = ("atomic", "reuse_ext", *(pace if memory else ("disk_only",)))
    quiesce, note = ("never", "") if memory or vm.off else _quiesce(wish, vm)
    flush = wish.flush_timeout if quiesce != "never" else 0
    taking = TakeSnapshot(spec, flags, quiesce, wish.freeze_timeout, pause, flush)
    return Plan(vm.name, (*overlays, taking), (note,) if note else ())


def _quiesce(wish: SnapshotWish, vm: VmState) -> tuple[str, str]:
    """Whether to freeze, as far as the definition tells, and a note where it will not be."""
    if wish.quiesce == "never":
        return "never", ""
    if vm.status == "paused":
        why = "it is paused, and so is its guest agent"
    elif vm.live.agent is None:
        why = "it has no guest agent channel (org.qemu.guest_agent.0)"
    elif vm.live.agent != "connected":
        why = "no guest agent is connected to its channel"
    else:
        return wish.quiesce, ""
    if wish.quiesce == "required":
        raise Unsupported(
            f"VM {vm.name} cannot be quiesced: {why}",
            wanted="a quiesced snapshot ('quiesce: required')",
            todo="install and start qemu-guest-agent in the guest, or use 'quiesce: preferred'",
        )
    return "never", f"{vm.name}: not quiesced, {why}"


def _check_place(vm: VmState, disk: DiskState, kind: str) -> None:
    if kind:
        raise Unsupported(
            f"disk {disk.target} of VM {vm.name} is a {kind}",
            wanted="a file or block device of this host, for itself",
            todo="leave it out with the option 'disks' (of an external snapshot)",
        )


def _overlay(vm: VmState, disk: DiskState, file: str) -> CreateOverlay:
    top, size = _top_of(vm, disk)
    keep = tuple(
        (bitmap.name, bitmap.granularity)
        for bitmap in top.bitmaps
        if vm.off and bitmap.auto and not bitmap.inconsistent
    )
    return CreateOverlay(disk.target, file, disk.disk.path, disk.disk.format, size, keep)


def _top_of(vm: VmState, disk: DiskState) -> tuple[Image, int]:
    """The active image of a disk and its size in bytes; Unsupported where it cannot be read."""
    top = disk.chain[0] if disk.chain else None
    if top is None or top.virtual_size is None:
        why = disk.trouble or f"its format {disk.disk.format} is not known here"
        mend = "repair it" if disk.trouble else "convert it to qcow2 while the VM is off"
        raise Unsupported(
            f"the chain of disk {disk.target} of VM {vm.name} cannot be read: {why}",
            wanted="a chain of local qcow2 or raw images",
            todo=disk.denied or f"{mend}, or leave the disk out with the option 'disks'",
        )
    return top, top.virtual_size


def kind_without_overlay(disk: DiskState) -> str:
    """What kind of disk it is if no overlay can be put on it, else ''."""
    if disk.disk.shareable:
        return "shareable disk"
    return "LUN" if disk.disk.device == "lun" else kind_of_place(disk)
