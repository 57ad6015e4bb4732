# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps save the memory of a VM, or let it run again.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .._model.names import in_shell
from .._model.problem import BadInput, Conflict, NotFound, Problem, Unsupported
from .._model.save import COMPLETE, PARTIAL, Save, Saves, changes, moved, unproven
from .._model.state import OFF, VmState
from .._model.step import (
    Plan,
    RemoveSave,
    RestoreSave,
    ResumeVm,
    SaveMemory,
    StartVm,
    Step,
)
from .barred import check_writes_memory, to_wake
from .encrypted import in_memory

_RUNNING = ("running", "blocked")


@dataclass(frozen=True)
class MemoryWish:
    """Whether the VM is to be off with its memory saved, or to run."""

    saved: bool


def plan_memory(wish: MemoryWish, vm: VmState) -> Plan:
    """The steps, none if it is so. Needs to know the saves of the VM (``vm.saves``)."""
    saves = vm.saves or Saves()
    if vm.status not in (*_RUNNING, "paused", OFF):
        raise Unsupported(
            f"VM {vm.name} is {vm.status}",
            wanted="a VM that is running, paused or off",
            todo=to_wake(vm),
        )
    if wish.saved:
        return _still_saved(vm, saves) if vm.off else _save(vm, saves)
    if vm.off:
        return _go_on(vm, saves)
    return Plan(vm.name, (ResumeVm(),) if vm.status == "paused" else ())


def _save(vm: VmState, saves: Saves) -> Plan:
    check_writes_memory(vm)
    disks = tuple(disk.target for disk in vm.writable)
    paused = vm.status == "paused"
    if saves.path:
        if saves.at is not None:
            raise _in_the_way(saves.at, vm)
        return Plan(vm.name, (SaveMemory(saves.path, False, disks, paused),), in_memory(vm))
    if not vm.persistent:
        raise BadInput(
            f"VM {vm.name} is transient: libvirt forgets it, and a managed save with it, when it is"
            " off",
            wanted="a managed save",
            todo="set the option 'path'",
        )
    return Plan(vm.name, (SaveMemory(saves.place, True, disks, paused),), in_memory(vm))


def _in_the_way(save: Save, vm: VmState) -> Conflict:
    what = {
        COMPLETE: f"the memory of VM {save.name}",
        PARTIAL: f"a part of the memory of VM {save.name}, from a save that did not end",
    }.get(save.kind, "no save")
    if save.of(vm.uuid) and save.kind == COMPLETE:
        what += ", which has run since"
    return Conflict(
        f"{save.file} exists already and is {what}",
        wanted=f"to save the memory of VM {vm.name} there",
        todo="move it away if it is not needed, or choose another 'path'",
    )


def _still_saved(vm: VmState, saves: Saves) -> Plan:
    """Nothing, if what is there can be gone on from; else an error that says why not."""
    if saves.managed and saves.path:
        raise _two(vm, saves)
    save = saves.managed or saves.at
    if save is None:
        where = f"; it is saved in {saves.elsewhere}" if saves.elsewhere else ""
        raise Unsupported(
            f"VM {vm.name} is off and has no memory to save{where}",
            wanted="a VM that runs, or one that is saved",
            todo=f"set 'path' to {saves.elsewhere}" if saves.elsewhere else "start it first",
        )
    return Plan(vm.name, notes=_usable(vm, save))


def _go_on(vm: VmState, saves: Saves) -> Plan:
    if saves.managed and saves.path:
        raise _two(vm, saves)
    save = saves.managed or saves.at
    if save is not None:
        notes = _usable(vm, save)
        managed = saves.managed is not None
        steps: tuple[Step, ...] = (RestoreSave(save.file, managed),)
        if not managed:
            steps = (*steps, RemoveSave(save.file, False, "the VM has gone on from it"))
        return Plan(vm.name, steps, notes)
    if saves.path:
        raise NotFound(
            f"{saves.path} does not exist, and VM {vm.name} is off",
            wanted="to let it go on from there",
            todo="correct 'path', or leave it out to boot the VM",
        )
    if saves.elsewhere:
        raise Conflict(
            f"VM {vm.name} is saved in {saves.elsewhere}, which it could not go on from once it has"
            " booted",
            wanted="to start it",
            todo=f"set 'path' to {saves.elsewhere}, or remove that file to boot the VM",
        )
    return Plan(vm.name, (StartVm(),))


def _two(vm: VmState, saves: Saves) -> Conflict:
    return Conflict(
        f"VM {vm.name} has a managed save: that is what it goes on from",
        wanted=f"to work with {saves.path}",
        todo="leave out 'path', or drop that memory (virsh managedsave-remove"
        f" {in_shell(vm.name)})",
    )


def _usable(vm: VmState, save: Save) -> tuple[str, ...]:
    """Raise the Problem that keeps the VM from going on from a save; else what there is to tell."""
    _check_kind(vm, save)
    done = [*changes(save), *_moved(vm, save)]
    if done:
        raise Conflict(
            f"VM {vm.name} cannot go on from {_called(save)}: {'; '.join(done)}. The guest would"
            " destroy its file systems",
            wanted="the disks as they were when its memory was saved",
            todo=f"bring them back, or give up that memory ({_dropping(vm, save)}) and boot the VM",
        )
    unsure = unproven(save)
    note = f"{vm.name}: nobody can see whether {unsure} changed since the save"
    return (note,) if unsure else ()


def _check_kind(vm: VmState, save: Save) -> None:
    if save.kind == COMPLETE and save.of(vm.uuid):
        return
    if save.kind == COMPLETE:
        raise Conflict(
            f"{_called(save)} is the memory of VM {save.name}",
            wanted=f"that of VM {vm.name} ({vm.uuid})",
            todo="correct 'path'",
        )
    if save.kind == PARTIAL:
        raise Problem(
            f"{_called(save)} is a part of the memory of VM {save.name}, from a save that did not"
            " end",
            wanted="a complete save",
            todo="remove it; that memory is lost",
        )
    # libvirt throws a managed save away that it cannot read, and boots.
    raise Problem(
        f"{_called(save)} is no save that VM {vm.name} could go on from: {save.trouble}",
        wanted="a complete save of libvirt's",
        todo=_dropping(vm, save) if save.file == "" else "correct 'path', or remove the file",
    )


def _moved(vm: VmState, save: Save) -> Iterator[str]:
    """One that is transient has no definition besides that of the save."""
    if vm.persistent:
        yield from moved(save, vm.paths)


def _called(save: Save) -> str:
    return save.file or "its managed save"


def _dropping(vm: VmState, save: Save) -> str:
    managed = vm.saves is not None and vm.saves.managed is save
    return f"virsh managedsave-remove {in_shell(vm.name)}" if managed else "remove the file"


def after_memory(vm: VmState, step: Step) -> VmState:
    """The VM after a step that saves or restores, unchanged by all others."""
    saves = vm.saves or Saves()
    if isinstance(step, SaveMemory):
        # With a time, since this one has a record.
        save = Save(step.file, COMPLETE, definition=vm.live, written=1)
        # libvirt forgets a transient VM, and with it these.
        known = vm.snapshots if vm.persistent else ()
        saves = _with(saves, save, managed=step.managed)
        return replace(vm, status=OFF, snapshots=known, saves=saves)
    if isinstance(step, RestoreSave):
        return replace(vm, status="running", saves=replace(saves, managed=None))
    if isinstance(step, RemoveSave):
        return replace(vm, saves=_with(saves, None, managed=step.managed))
    return vm


def _with(saves: Saves, save: Save | None, *, managed: bool) -> Saves:
    return replace(saves, managed=save) if managed else replace(saves, at=save)


def memory_lines(vm: VmState) -> Iterator[str]:
    """What a picture of the VM shows of it, where its saves were looked for."""
    if vm.saves is None:
        return
    save = vm.saves.managed or vm.saves.at
    complete = save is not None and save.kind == COMPLETE and save.of(vm.uuid)
    yield f"  state: {'saved' if vm.off and complete else vm.status}"
    if save is not None:
        yield f"  memory: {'managed save' if vm.saves.managed else save.file}"
