# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt or QEMU would refuse of a snapshot or a save, told before anything is touched.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Sequence

from .._model.image import Image
from .._model.names import in_shell
from .._model.problem import Conflict, Unsupported
from .._model.state import DiskState, Facts, VmState
from .._model.step import (
    CommitDisk,
    DefineAsOf,
    DeleteInternal,
    Plan,
    PullDisk,
    RevertInternal,
    RevertStorage,
    SnapshotStorage,
    TakeSnapshot,
)


def to_wake(vm: VmState, other: str = "wait until it is in one of these states") -> str:
    """What to do with a VM that is neither running nor paused nor off; ``other`` for all else."""
    return {
        "suspended": f"wake its guest up (virsh dompmwakeup {in_shell(vm.name)})",
        "crashed": f"switch it off (virsh destroy {in_shell(vm.name)})",
    }.get(vm.status, other)


def check_barred(plan: Plan, vm: VmState, facts: Facts) -> None:
    """Raise a Problem where the facts that were looked up tell of a refusal."""
    _check_held(vm, facts)
    _check_saved(plan, vm, facts)
    _check_flash(plan, vm, facts)


def check_writes_memory(vm: VmState) -> None:
    """Raise Unsupported where the memory of a running VM cannot be written."""
    if vm.live.bars:
        raise Unsupported(
            f"VM {vm.name} has {', '.join(vm.live.bars)}, with which its memory is not written",
            wanted="to write its memory",
            todo="take an external snapshot without memory, or do it while the VM is off",
        )


def _check_held(vm: VmState, facts: Facts) -> None:
    """Raise Unsupported where QEMU says that it would not write the memory as things are."""
    if facts.held:
        raise Unsupported(
            f"QEMU does not write the memory of VM {vm.name}: {'; '.join(facts.held)}",
            wanted="to write its memory",
            todo="take away what it names (unmount in the guest what is mounted by 9p), or take"
            " an external snapshot without memory",
        )


def check_transient(vm: VmState, disks: Sequence[DiskState], what: str = "a snapshot") -> None:
    """Raise Unsupported where a running VM was to get an overlay or a job on a transient disk."""
    found = [disk.target for disk in disks if disk.disk.transient]
    if found and not vm.off:
        raise Unsupported(
            f"disk {', '.join(found)} of VM {vm.name} is transient: what the guest writes to it"
            " goes when the VM is off",
            wanted=f"{what} of it, for which libvirt wants the VM to be off",
            todo="leave it out with the option 'disks'",
        )


def check_inside_all(vm: VmState) -> None:
    """Raise Unsupported where something could hold no internal snapshot, or not be left out.

    libvirt leaves none out to which a guest can write.
    """
    for disk in vm.disks:
        if disk.disk.device == "floppy" and disk.disk.source and not disk.disk.readonly:
            raise Unsupported(
                f"the floppy disk {disk.target} of VM {vm.name} can be written to",
                wanted="an internal snapshot, which leaves out no disk that can be written to",
                todo="take the floppy out, make it read-only, or use 'mode: external'",
            )
    if vm.live.flash and not vm.off:
        raise _flash(vm, "while it runs", "switch the VM off, or use")


def check_holds_snapshots(vm: VmState, disk: DiskState, top: Image) -> None:
    """Raise Unsupported where a qcow2 image can hold no internal snapshot."""
    if top.data_file or top.corrupt:
        has = "has a data file of its own" if top.data_file else "is marked as corrupt"
        raise Unsupported(
            f"image {top.filename} of VM {vm.name}, disk {disk.target}, {has}",
            wanted="an internal snapshot, which it cannot hold",
            todo="use 'mode: external'" if top.data_file else "repair it (qemu-img check -r)",
        )


def kind_of_place(disk: DiskState) -> str:
    """What a disk is on if that is no file or block device of this host, else ''."""
    source = disk.disk.source
    if source is not None and source.sliced:
        return f"slice of {source}"
    return "" if source is not None and source.local else f"{source} disk"


def wants_flash(plan: Plan, vm: VmState) -> bool:
    """Whether an internal snapshot of a VM is planned that is off and has such a firmware."""
    inside = (s for s in plan.steps if isinstance(s, TakeSnapshot) and s.spec.mode == "internal")
    return vm.off and vm.live.flash and any(inside)


def _check_flash(plan: Plan, vm: VmState, facts: Facts) -> None:
    """Raise Unsupported where this libvirt does not take that."""
    if wants_flash(plan, vm) and not facts.flash:
        raise _flash(vm, "with this version of libvirt", "use")


def _flash(vm: VmState, when: str, todo: str) -> Unsupported:
    return Unsupported(
        f"VM {vm.name} has a UEFI firmware whose variables are in a raw file, of which libvirt"
        f" takes no internal snapshot {when}",
        wanted="an internal snapshot",
        todo=f"{todo} 'mode: external'",
    )


def touches_disks(plan: Plan) -> bool:
    """Whether the memory of a saved VM could not go on, or would be of no use, after a plan."""
    touching = (
        CommitDisk,
        PullDisk,
        TakeSnapshot,
        DefineAsOf,
        DeleteInternal,
        RevertInternal,
        SnapshotStorage,
        RevertStorage,
    )
    return any(isinstance(step, touching) for step in plan.steps)


def _check_saved(plan: Plan, vm: VmState, facts: Facts) -> None:
    """Raise Conflict where the disks of a saved VM would change under its memory."""
    if not vm.off or not touches_disks(plan):
        return
    if facts.saved_to:
        raise Conflict(
            f"the memory of VM {vm.name} was saved to {facts.saved_to}, and continues on the disks"
            " as they are",
            wanted="a VM that is really off",
            todo=f"let it go on (vm_memory with state running and path {facts.saved_to}), or remove"
            " that file if the memory is not needed any more",
        )
    if facts.managed_save:
        raise Conflict(
            f"VM {vm.name} has a managed save: its memory continues on the disks as they are",
            wanted="a VM that is really off",
            todo="start it, or drop the saved memory (virsh managedsave-remove"
            f" {in_shell(vm.name)})",
        )
