# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_checkpoint on real guests: memory and disks go on from the same point, many times."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import VM
from lab.vm import wait_until
from story import COUNTER, folder, sources


def count(vm: VM) -> int:
    """What the counter in the guest has come to, the same in memory and on the disk."""
    in_memory, on_disk = map(int, vm.run("cat /run/count /mnt/vda/count").split())
    assert abs(in_memory - on_disk) <= 5, "memory and disk are not of one point"
    return in_memory


def counts_beyond(vm: VM, number: int) -> None:
    wait_until(lambda: count(vm) > number, 60, f"the counter comes beyond {number}")


@pytest.fixture
def counting(vm: VM) -> VM:
    """A guest in which a process counts in memory and on a disk."""
    vm.control().start(["sh", "-c", COUNTER], capture=False)
    wait_until(lambda: vm.run("cat /run/count || true").strip() != "", 20, "the counter counts")
    return vm


@pytest.mark.parametrize("live", [True, False], ids=["live", "paused"])
def test_restored_many_times(counting: VM, modules, live: bool) -> None:
    vm = counting
    result = modules.change("vm_checkpoint", vm, name="c1", live=live)
    point = result["vms"]["db01"]["checkpoint"]
    assert point["consistency"] == "memory" and Path(point["memory_file"]).exists()
    images = {disk["image"]: Path(disk["image"]).read_bytes() for disk in point["disks"].values()}
    reached = count(vm)
    for _time in range(3):
        counts_beyond(vm, reached + 40)
        vm.write("/mnt/vdb/later", b"given up")
        back = modules.run("vm_checkpoint", vm, name="c1", state="restored")
        assert back["changed"] and back["vms"]["db01"]["state"] == "running"
        vm.disconnect()
        vm.wait_ready()
        assert count(vm) < reached + 40
        assert vm.run("[ -e /mnt/vdb/later ] || echo gone").strip() == "gone"
    assert {path: Path(path).read_bytes() for path in images} == images
    assert modules.info(vm)["disagreements"] == []
    modules.change("vm_checkpoint", vm, name="c1", state="absent")
    counts_beyond(vm, 1)
    names = {path.name for path in folder(vm).iterdir() if path.suffix in (".qcow2", ".save")}
    assert names == {"vda.qcow2", "vdb.qcow2"}
    assert sources(vm) == {t: str(folder(vm) / f"{t}.qcow2") for t in ("vda", "vdb")}


def test_paused_and_off(counting: VM, modules) -> None:
    vm = counting
    modules.run("vm_checkpoint", vm, name="c1")
    modules.run("vm_checkpoint", vm, name="c1", state="restored", run_after="paused")
    assert modules.info(vm)["state"] == "paused"
    vm.domain.resume()
    vm.disconnect()
    counts_beyond(vm, count(vm))
    vm.destroy()
    modules.run("vm_checkpoint", vm, name="c1", state="restored")
    assert modules.info(vm)["state"] == "running"
    vm.disconnect()
    counts_beyond(vm, count(vm))


def test_what_would_destroy_it_is_refused(counting: VM, modules) -> None:
    vm = counting
    modules.run("vm_checkpoint", vm, name="c1")
    modules.run("vm_snapshot", vm, name="s2")
    for module, params in (
        ("vm_blockcommit", {}),
        ("vm_blockcommit", {"top": sources(vm)["vda"], "disks": ["vda"]}),
        ("vm_snapshot", {"name": "c1", "state": "absent"}),
        ("vm_snapshot", {"name": "c1", "state": "absent", "metadata_only": True}),
        ("vm_snapshot", {"name": "c1", "state": "reverted"}),
        ("vm_snapshot", {"name": "c1"}),
    ):
        assert "c1" in modules.refused(module, vm, **params)
    assert "is a snapshot" in modules.refused("vm_checkpoint", vm, name="s2", state="restored")
    # what is above it may go, and a revert elsewhere leaves it whole
    modules.change("vm_snapshot", vm, name="s2", state="absent")
    modules.run("vm_snapshot", vm, name="s3")
    modules.run("vm_snapshot", vm, name="s3", state="reverted")
    back = modules.run("vm_checkpoint", vm, name="c1", state="restored")
    assert back["vms"]["db01"]["state"] == "running"
    vm.disconnect()
    counts_beyond(vm, count(vm))
    found = modules.run("vm_checkpoint_info", vm)["vms"]["db01"]["checkpoints"]
    assert [entry["name"] for entry in found] == ["c1"] and found[0]["children"] == ["s3"]


def test_bad_input(vm: VM, modules) -> None:
    assert "no snapshot never" in modules.refused(
        "vm_checkpoint", vm, name="never", state="restored"
    )
    assert "run_after means nothing" in modules.refused(
        "vm_checkpoint", vm, name="c1", run_after="paused"
    )
    vm.destroy()
    assert "is off" in modules.refused("vm_checkpoint", vm, name="c1")
    assert not modules.run("vm_checkpoint", vm, name="c1", state="absent")["changed"]
