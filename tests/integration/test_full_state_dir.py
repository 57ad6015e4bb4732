# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on real VMs and images while the file system of the state directory is or becomes full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from full_stage import block, empty, leave, small
from image_story import Images, needs_root, qemu_img
from lab import VM
from lab.modules import start_module
from story import Modules, folder, world

HARNESS = Path(__file__).with_name("full_harness.py")
pytestmark = needs_root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small("ext4", tmp_path / "disk") as place:
        yield place


@pytest.fixture
def full(modules: Modules, disk: Path) -> Modules:
    modules.state_dir = disk / "state"
    return modules


def while_filling(
    modules: Modules, module: str, vm: VM, after: int, *, no_room: bool = True, **params: Any
) -> dict:
    """The result of a run for which the file system is full once it has written some records."""
    place = modules.state_dir.parent
    told = {"place": str(place), "after": after, "no_room": no_room}
    env = {"VMKEEP_FULL": json.dumps(told)}
    task = modules.params(vm, **params)
    result = start_module(module, task, env=env, runner=HARNESS).result()
    empty(place)
    return result


def unharmed(vm: VM) -> None:
    """Nothing that was acknowledged is lost, and the guest can write."""
    assert vm.active() and not vm.frozen() and vm.stalled() == []
    assert vm.lost_records() == []


def told(result: dict, modules: Modules) -> None:
    """The error names the directory and how many bytes it needs."""
    message = result["msg"]
    assert result["failed"] and "No space left on device" in message, result
    assert str(modules.state_dir) in message and " bytes" in message
    assert "Traceback" not in str(result)


def test_at_every_fill_a_snapshot_is_taken_or_nothing_is_touched(
    make_vm: Any, full: Modules, disk: Path
) -> None:
    vm = make_vm("filled", disks=2)
    vm.start_writer()
    before = world(vm)
    failures = 0
    for size in range(0, 40 * 1024, block(disk)):
        leave(disk, size)
        foreseen = full.attempt("vm_snapshot", vm, check=True, name="s1")
        result = full.attempt("vm_snapshot", vm, name="s1")
        if not result["failed"]:
            break
        failures += 1
        told(result, full)
        assert world(vm) == before
        assert not list(full.state_dir.glob("journal/*"))
        if foreseen["failed"]:
            assert foreseen["msg"] == result["msg"]
        empty(disk)
    assert failures > 3 and not result["failed"]
    unharmed(vm)
    assert result["vms"]["filled"]["snapshot"]["consistency"] == "filesystem"
    # What a run needs later it has taken before: full from the second record on, it goes on.
    result = while_filling(full, "vm_blockcommit", vm, 1, no_room=False)
    assert not result["failed"] and result["changed"], result
    unharmed(vm)


# Per story: how often records are written after the journal, at least.
STORIES: dict[str, tuple[str, dict, int]] = {
    "snapshot": ("vm_snapshot", {"name": "s1"}, 3),
    "commit": ("vm_blockcommit", {}, 3),
    "removal": ("vm_snapshot", {"name": "s0", "state": "absent"}, 3),
}


@pytest.mark.parametrize("story", STORIES)
def test_full_in_the_middle_of_a_run(story: str, make_vm: Any, full: Modules) -> None:
    module, params, least = STORIES[story]
    vm = make_vm("middle", disks=2)
    vm.start_writer()
    count = 0
    while True:
        count += 1
        if story != "snapshot":
            full.run("vm_snapshot", vm, name="s0")
        result = while_filling(full, module, vm, count, **params)
        if not result["failed"]:
            break
        told(result, full)
        assert vm.active() and not vm.frozen() and vm.lost_records() == [], count
        again = full.run(module, vm, **params)
        unharmed(vm)
        assert not full.run(module, vm, **params)["changed"], again
        tidied(full, vm)
    assert count > least


def tidied(modules: Modules, vm: VM) -> None:
    """No snapshot is left, and no file of one."""
    assert not list(modules.state_dir.glob("journal/*"))
    modules.run("vm_snapshot", vm, name="s0", state="absent")
    modules.run("vm_snapshot", vm, name="s1", state="absent")
    modules.run("vm_blockcommit", vm)
    assert len(list(folder(vm).glob("*.qcow2"))) == 2, sorted(folder(vm).iterdir())


def test_full_in_the_middle_of_a_way_back(make_vm: Any, full: Modules) -> None:
    """The VM runs on or is back already, and the next run gets there."""
    vm = make_vm("middle", disks=2)
    count = 0
    while True:
        count += 1
        full.run("vm_snapshot", vm, name="s0")
        vm.write("/mnt/vda/since", b"s0")
        result = while_filling(full, "vm_snapshot", vm, count, name="s0", state="reverted")
        if not result["failed"]:
            break
        told(result, full)
        assert vm.active(), count
        full.run("vm_snapshot", vm, name="s0", state="reverted")
        vm.wait_ready()
        assert "since" not in vm.run("ls /mnt/vda").split(), count
        tidied(full, vm)
    assert count > 5


def test_full_while_the_memory_is_saved(make_vm: Any, full: Modules) -> None:
    vm = make_vm("saved", disks=1)
    path = str(folder(vm) / "memory.save")
    count = 0
    while True:
        count += 1
        result = while_filling(full, "vm_memory", vm, count, state="saved", path=path)
        if not result["failed"]:
            break
        told(result, full)
        again = full.run("vm_memory", vm, state="saved", path=path)
        assert again["vms"]["saved"]["state"] == "saved", again
        assert not full.run("vm_memory", vm, state="saved", path=path)["changed"]
        full.run("vm_memory", vm, state="running", path=path)
        vm.wait_ready()
    assert count > 1 and not vm.active()


def test_a_group_of_which_one_journal_has_no_room(make_vm: Any, full: Modules) -> None:
    pair = [make_vm(name, disks=1) for name in ("one", "two")]
    before = [world(vm) for vm in pair]
    place = full.state_dir.parent
    env = {"VMKEEP_FULL": json.dumps({"place": str(place), "after": 1})}
    task = full.params(pair, name="s1", consistent_group=True)
    result = start_module("vm_snapshot", task, env=env, runner=HARNESS).result()
    told(result, full)
    assert [world(vm) for vm in pair] == before
    assert not list(full.state_dir.glob("journal/*"))
    assert not any(vm.frozen() for vm in pair)
    empty(place)
    assert full.run("vm_snapshot", pair, name="s1", consistent_group=True)["changed"]


def test_images_at_every_fill(images: Images, disk: Path, tmp_path: Path) -> None:
    images.state_dir = disk / "state"
    base, overlay = tmp_path / "base.qcow2", tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", base, "8M")
    for module, params, path in (
        ("qcow2_snapshot", {"name": "s1"}, base),
        ("qcow2_overlay", {"base": base}, overlay),
        ("qcow2_overlay", {"state": "committed"}, overlay),
    ):
        failures = 0
        for size in range(0, 40 * 1024, block(disk)):
            leave(disk, size)
            result = images.attempt(module, path, **params)
            empty(disk)
            assert result is not None
            if not result["failed"]:
                break
            failures += 1
            told(result, images)  # type: ignore[arg-type]
            assert images.journals() == []
        assert failures > 3 and result["changed"], result
