# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a killed run left is brought in order by the next task on that VM, whatever it is."""

from __future__ import annotations

from lab import VM, wait_until
from lab.modules import start_module
from story import Modules, chain, plain, world

FILL = "dd if=/dev/urandom bs=1M count=8 conv=fsync of=/mnt/vda"


def kill_in_commit(modules: Modules, vm: VM) -> None:
    """A commit of some seconds, its run killed while the job is under way."""
    params = modules.params(vm, disks=["vda"], bandwidth=1)
    with start_module("vm_blockcommit", params) as run:
        wait_until(lambda: bool(vm.domain.blockJobInfo("vda")), 20, "the commit runs")
        run.kill()


def test_a_snapshot_finishes_the_commit_of_a_killed_run(modules: Modules, vm: VM) -> None:
    vm.start_writer(pause=0.5)  # slower than the commit, which has to catch up with it
    base = vm.source("vda")
    modules.run("vm_snapshot", vm, name="old")
    vm.run(f"{FILL}/big", timeout=60)
    digest = vm.sha256("/mnt/vda/big")
    kill_in_commit(modules, vm)
    assert (
        "a run is under way or was interrupted" in modules.run("vm_snapshot_info", vm)["notes"][0]
    )

    before = world(vm)
    foreseen = modules.run("vm_snapshot", vm, check=True, name="new")
    assert world(vm) == before
    done = modules.run("vm_snapshot", vm, name="new")
    assert plain(done["plan"]) == plain(foreseen["plan"])
    assert done["notes"] == ["db01: finished what an interrupted run had begun"]
    assert chain(vm.source("vda"))[1:] == [base]
    assert vm.sha256("/mnt/vda/big") == digest
    assert vm.lost_records() == []


def test_a_job_of_somebody_else_is_not_taken_for_that_of_the_killed_run(
    modules: Modules, vm: VM
) -> None:
    vm.run(f"{FILL}/base", timeout=60)
    modules.run("vm_snapshot", vm, name="old")
    vm.run(f"{FILL}/overlay", timeout=60)
    kill_in_commit(modules, vm)
    vm.domain.blockJobAbort("vda")
    vm.domain.blockPull("vda", 1)
    foreseen = modules.attempt("vm_snapshot", vm, check=True, name="new")
    assert foreseen["failed"]
    assert "a block job (pull) is running on disk vda of VM db01" in foreseen["msg"]
    assert vm.domain.blockJobInfo("vda")
    vm.domain.blockJobAbort("vda")
