# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever one VM meets, the others of the task are done and returned; of a group none is done."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from isolation import MOST, Case, Injector, entries
from lab import VM, Lab
from story import Modules, world

S1 = {"name": "s1", "mode": "external"}
Task = tuple[str, dict[str, Any]]
TAKE: Task = ("vm_snapshot", S1)
DROP: Task = ("vm_snapshot", {"name": "s1", "state": "absent"})
# What is tried; what comes before it, and what takes it back.
CASES: dict[str, tuple[Task, Task | None, Task | None]] = {
    "snapshots": (("vm_snapshot_info", {}), None, None),
    "checkpoints": (("vm_checkpoint_info", {}), None, None),
    "take": (TAKE, None, DROP),
    "drop": (DROP, TAKE, TAKE),
    "back": (("vm_snapshot", {"name": "s1", "state": "reverted"}), TAKE, None),
    "commit": (("vm_blockcommit", {}), TAKE, TAKE),
    # The overlay into which it pulls stays, so its name is taken.
    "pull": (("vm_blockpull", {}), ("vm_snapshot", {**S1, "name": "p"}), None),
    "backup": (("vm_backup", {"repository": "REPOSITORY"}), None, None),
    "restore": (("vm_restore", {"repository": "REPOSITORY"}), None, None),
}


@pytest.fixture(scope="module")
def three(lab_session: Lab) -> Iterator[list[VM]]:
    machines = lab_session.many(3, paused=False)
    yield machines
    for machine in machines:
        lab_session.remove(machine)


@pytest.fixture
def steady(modules: Modules, three: list[VM]) -> Iterator[list[VM]]:
    """Three VMs without snapshots; they stay so."""
    yield three
    modules.run(*DROP[:1], three, **DROP[1])


@pytest.mark.parametrize("name", CASES)
def test_whatever_one_vm_meets(
    name: str, modules: Modules, steady: list[VM], tmp_path: Path
) -> None:
    (module, params), before, after = CASES[name]
    repository = tmp_path / "repository"
    repository.mkdir()
    params = {k: str(repository) if v == "REPOSITORY" else v for k, v in params.items()}

    numbers = itertools.count()

    def restore() -> None:
        if after:
            modules.run(after[0], steady, **after[1])
        if module == "vm_backup":
            shutil.rmtree(repository)
            repository.mkdir()
        if module == "vm_blockpull":  # the overlay stays, so the next one needs another name
            modules.run("vm_snapshot", steady, name=f"p{next(numbers)}", mode="external")
        if module == "vm_restore":
            for vm in steady:
                os.utime(vm.source("vda"))  # as if it had been written since

    if before:
        modules.run(before[0], steady, **before[1])
    if module == "vm_restore":
        modules.run("vm_backup", steady, repository=str(repository))
    given = modules.params(steady, **params)
    case = Case(module, given, entries(steady), "vms")
    Injector(case, tmp_path / "log", restore).try_all(MOST)
    if module == "vm_blockpull":
        modules.run(module, steady)


def test_whatever_one_of_a_group_meets(modules: Modules, steady: list[VM], tmp_path: Path) -> None:
    """All or none, and all say why; what comes when all is done undoes nothing."""
    given = modules.params(steady, **S1, consistent_group=True)
    case = Case("vm_snapshot", given, entries(steady), "vms")
    injector = Injector(case, tmp_path / "log", lambda: modules.run(DROP[0], steady, **DROP[1]))
    before = [world(vm) for vm in steady]
    failures = undone = 0
    for told, result in injector.results(16):
        assert "vms" in result, (told, result)
        found = result["vms"]
        failed = {name for name, entry in found.items() if entry.get("failed")}
        assert failed in (set(), set(found)) and len(found) == 3, (told, result)
        assert not failed or case.victim in result["msg"], (told, result)
        now = [world(vm) for vm in steady]
        assert now == before or all(found["snapshots"] == ["s1"] for found in now), told
        undone += bool(failed) and now == before
        failures += bool(failed)
    assert failures >= undone > 3
