# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever one VM meets, others are done: memory, guests that answer, storage, clones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from isolation import MOST, Case, Injector, entries
from lab import VM, Disk, Lab
from story import Modules

# Each of these tasks takes long.
LESS = MOST * 3 // 8
Task = tuple[str, dict[str, Any]]
SAVE: Task = ("vm_memory", {"state": "saved"})
GO_ON: Task = ("vm_memory", {"state": "running"})
TAKE: Task = ("vm_checkpoint", {"name": "c1", "consistent_group": False})
DROP: Task = ("vm_checkpoint", {"name": "c1", "state": "absent", "consistent_group": False})
# What is tried; what comes before it, and what takes it back.
OF_MEMORY: dict[str, tuple[Task, Task | None, Task | None]] = {
    "save": (SAVE, None, GO_ON),
    "go on": (GO_ON, SAVE, SAVE),
    "take": (TAKE, None, DROP),
    "back": (
        ("vm_checkpoint", {"name": "c1", "state": "restored", "consistent_group": False}),
        TAKE,
        None,
    ),
    "drop": (DROP, TAKE, TAKE),
}
FREEZE: Task = ("vm_freeze", {"state": "frozen", "deadline": 60})
THAW: Task = ("vm_freeze", {"state": "thawed"})
OF_GUESTS: dict[str, tuple[Task, Task | None, Task | None]] = {
    "freeze": (FREEZE, None, THAW),
    "thaw": (THAW, FREEZE, FREEZE),
    "program": (("vm_guest_exec", {"command": ["true"], "wait": 5}), None, None),
    "quiet": (("vm_snapshot", {"name": "s1", "quiesce": "required"}), None,
              ("vm_snapshot", {"name": "s1", "state": "absent"})),
}  # fmt: skip
SNAPSHOT = ("vm_storage_snapshot", {"name": "s1"})
OF_STORAGE = {
    "take": (SNAPSHOT, None, ("vm_storage_snapshot", {"name": "s1", "state": "absent"})),
    "back": (("vm_storage_snapshot", {"name": "s1", "state": "reverted"}), SNAPSHOT, None),
    "drop": (("vm_storage_snapshot", {"name": "s1", "state": "absent"}), SNAPSHOT, SNAPSHOT),
}


def try_all(
    plan: tuple[Task, Task | None, Task | None],
    modules: Modules,
    machines: list[VM],
    log: Path,
) -> None:
    (module, params), before, after = plan
    if before:
        modules.run(before[0], machines, **before[1])

    def restore() -> None:
        if after:
            modules.run(after[0], machines, **after[1])
        for vm in machines:
            os.utime(vm.source("vda"))  # as if it had been written

    case = Case(module, modules.params(machines, **params), entries(machines), "vms")
    Injector(case, log, restore).try_all(LESS)


def removed(lab: Lab, machines: list[VM]) -> Iterator[list[VM]]:
    yield machines
    for machine in machines:
        lab.remove(machine)


@pytest.fixture
def paused(lab_session: Lab) -> Iterator[list[VM]]:
    """They go on in these tests, and with no system on them they keep a processor busy."""
    yield from removed(lab_session, lab_session.many(3))


@pytest.fixture(scope="module")
def guests(lab_session: Lab) -> Iterator[list[VM]]:
    machines = [lab_session.vm(name, disks=1) for name in ("alice", "bruno", "clara")]
    yield from removed(lab_session, machines)


@pytest.mark.parametrize("name", OF_MEMORY)
def test_memory(name: str, modules: Modules, paused: list[VM], tmp_path: Path) -> None:
    modules.run(*GO_ON[:1], paused, **GO_ON[1])
    try_all(OF_MEMORY[name], modules, paused, tmp_path / "log")
    modules.run(*GO_ON[:1], paused, **GO_ON[1])
    modules.run(*DROP[:1], paused, **DROP[1])


@pytest.mark.parametrize("name", OF_GUESTS)
def test_guests(name: str, modules: Modules, guests: list[VM], tmp_path: Path) -> None:
    try_all(OF_GUESTS[name], modules, guests, tmp_path / "log")
    modules.run(*THAW[:1], guests, **THAW[1])
    assert not any(vm.frozen() or vm.stalled() for vm in guests)


@pytest.mark.parametrize("name", OF_STORAGE)
def test_storage(name: str, modules: Modules, stored_vm: Callable[..., VM], tmp_path: Path) -> None:
    spec = [Disk(size=1, content="blank")]
    machines = [stored_vm("xfs", name, spec, running=False) for name in ("ceres", "juno", "vesta")]
    try_all(OF_STORAGE[name], modules, machines, tmp_path / "log")


def test_clones(modules: Modules, lab_session: Lab, tmp_path: Path) -> None:
    """They are made one by one, and taken away together."""
    origin = lab_session.vm("origin", [Disk(size=1, content="blank")], running=False, memory=32)
    repository = tmp_path / "repository"
    repository.mkdir()
    modules.run("vm_backup", origin, repository=str(repository))
    names = ("castor", "orion", "pollux")

    def restore() -> None:
        for name in names:
            modules.run("vm_restore", origin, repository=str(repository), **{"as": name})

    restore()
    uuids = {name: lab_session.connection.lookupByName(name).UUIDString() for name in names}
    given = {**modules.params(origin), "vm": list(names)}
    found = {name: [name, uuid] for name, uuid in uuids.items()}
    Injector(Case("vm_discard", given, found, "vms"), tmp_path / "log", restore).try_all(LESS)
    modules.run("vm_discard", origin, vm=list(names))
    lab_session.remove(origin)
    shutil.rmtree(repository)
