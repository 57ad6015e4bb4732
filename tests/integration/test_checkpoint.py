# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_checkpoint on real guests: memory and disks go on from the same point, many times."""

from __future__ import annotations

import itertools
import re
import signal
import threading
from pathlib import Path

import libvirt
import pytest
from kill_trials import Killer, Task, moments
from lab import VM
from lab.vm import wait_until
from story import count, count_beyond, folder, sources, start_counting


@pytest.fixture
def counting(vm: VM) -> VM:
    """A guest in which a process counts in memory and on a disk."""
    start_counting(vm)
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
        count_beyond(vm, reached + 40)
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
    count_beyond(vm, 1)
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
    count_beyond(vm, count(vm))
    vm.destroy()
    modules.run("vm_checkpoint", vm, name="c1", state="restored")
    assert modules.info(vm)["state"] == "running"
    vm.disconnect()
    count_beyond(vm, count(vm))


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
    count_beyond(vm, count(vm))
    found = modules.run("vm_checkpoint_info", vm)["vms"]["db01"]["checkpoints"]
    assert [entry["name"] for entry in found] == ["c1"] and found[0]["children"] == ["s3"]


def test_bad_input(vm: VM, modules) -> None:
    assert "no snapshot 'never'" in modules.refused(
        "vm_checkpoint", vm, name="never", state="restored"
    )
    assert "run_after means nothing" in modules.refused(
        "vm_checkpoint", vm, name="c1", run_after="paused"
    )
    vm.destroy()
    assert "is off" in modules.refused("vm_checkpoint", vm, name="c1")
    assert not modules.run("vm_checkpoint", vm, name="c1", state="absent")["changed"]


def test_the_memory_of_a_paused_vm_is_written_once(vm: VM, modules) -> None:
    modules.run("vm_snapshot", vm, name="s1")
    vm.domain.suspend()
    modules.change("vm_checkpoint", vm, name="c1")
    for module, params in (
        ("vm_checkpoint", {"name": "c2"}),
        ("vm_snapshot", {"name": "s2", "memory": True}),
        ("vm_memory", {"state": "saved"}),
    ):
        message = modules.refused(module, vm, **params)
        assert "does not write it twice" in message and "virsh resume db01;" in message
    # Nor does QEMU write to its images before that.
    for module, params in (
        ("vm_checkpoint", {"name": "c1", "state": "absent"}),
        ("vm_snapshot", {"name": "s1", "state": "absent"}),
    ):
        message = modules.refused(module, vm, **params)
        assert "has not run since" in message and "vm_memory with state running" in message
    assert not list(folder(vm).glob("*[cs]2*"))
    vm.domain.resume()
    vm.domain.suspend()
    modules.change("vm_checkpoint", vm, name="c2")


@pytest.mark.parametrize("how", ["written", "loaded"])
def test_what_qemu_does_for_a_paused_vm_check_mode_knows(vm: VM, modules, tmp_path, how) -> None:
    """Each version another part of it; QEMU 10 reads no image that it has let go of."""
    repository = tmp_path / "repository"
    repository.mkdir()
    vm.domain.suspend()
    modules.run("vm_snapshot", vm, name="c1", memory=True)
    if how == "loaded":
        modules.run("vm_snapshot", vm, name="c1", state="reverted", run_after="paused")
    for module, params in (
        ("vm_backup", {"repository": str(repository)}),
        ("vm_snapshot", {"name": "outside"}),
        ("vm_blockcommit", {"disks": ["vdb"]}),
        ("vm_snapshot", {"name": "inside", "mode": "internal"}),
        ("vm_checkpoint", {"name": "c2"}),
    ):
        foreseen = modules.attempt(module, vm, check=True, **params)
        done = modules.attempt(module, vm, **params)
        assert (done["failed"], done.get("msg")) == (foreseen["failed"], foreseen.get("msg"))
        assert not done["failed"] or "has not run since" in done["msg"], done["msg"]
    vm.domain.resume()
    modules.run("vm_backup", vm, repository=str(repository))
    modules.change("vm_snapshot", vm, name="running", mode="internal")


class Relay:
    """Hands a number from one guest to the next, and then the next number.

    At one point in time the first guest is at most one number ahead of the second.
    """

    def __init__(self, first: VM, second: VM) -> None:
        self._guests = (first, second)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        for number in itertools.count(1):
            for guest in self._guests:
                guest.run(f"echo {number} >/run/number", timeout=60)
            if self._stop.is_set():
                return


def numbers(guests: list[VM]) -> list[int]:
    for guest in guests:
        guest.disconnect()
    return [int(guest.run("cat /run/number")) for guest in guests]


def test_two_vms_have_one_point_in_time(make_vm, modules) -> None:
    guests = [make_vm("app01"), make_vm("db01", memory=320)]
    # More memory to write than the other has: alone it would be done later.
    guests[1].run("dd if=/dev/urandom of=/run/ballast bs=1M count=120", timeout=60)
    with Relay(*guests):
        wait_until(lambda: all(vm.run("cat /run/number || true") for vm in guests), 20, "numbers")
        result = modules.run("vm_checkpoint", guests, name="c1")
    taken = [step for step in result["plan"] if step["step"] == "take_snapshot"]
    assert [step["pause"] for step in taken] == [True, True]
    assert all(modules.info(vm)["state"] == "running" for vm in guests), "they run on"
    assert numbers(guests)[0] > 1
    for vm in guests:
        vm.run("echo 0 >/run/number; echo later >/mnt/vda/later; sync")
    back = modules.run("vm_checkpoint", guests, name="c1", state="restored")
    assert {entry["state"] for entry in back["vms"].values()} == {"running"}
    first, second = numbers(guests)
    assert first - second in (0, 1) and second > 0, (first, second)
    assert all(vm.run("[ -e /mnt/vda/later ] || echo gone").strip() == "gone" for vm in guests)
    modules.change("vm_checkpoint", guests, name="c1", state="absent")


def test_all_of_a_group_or_none(make_vm, modules) -> None:
    guests = [make_vm("app01"), make_vm("db01")]
    guests[1].destroy()
    message = modules.refused("vm_checkpoint", guests, name="c1")
    assert "is off" in message and "another VM of the consistent group" in message
    alone = modules.attempt("vm_checkpoint", guests, name="c1", consistent_group=False)
    assert "snapshot" not in alone["vms"]["db01"] and alone["vms"]["app01"]["checkpoint"]
    guests[1].start()
    assert "already has the snapshot" in modules.refused("vm_checkpoint", guests, name="c1")


def test_a_run_that_is_killed_leaves_no_vm_paused(make_vm, modules, tmp_path) -> None:
    guests = [make_vm("app01"), make_vm("db01")]
    killer = Killer(modules, tmp_path)
    task = Task("vm_checkpoint", tuple(guests), {"name": "c1"})
    assert not killer.run(task)["failed"]
    calls = re.compile(r"suspend|snapshotCreateXML|resume")
    settings = [each for each in moments(killer.points()) if calls.search(each["kill"])]
    assert len(settings) >= 4, settings
    for setting in settings:
        modules.run("vm_checkpoint", guests, name="c1", state="absent")
        status = killer.start(task, **setting).wait()
        if status == 0 and "delay" in setting:
            continue  # this time the call had ended before
        assert status == -signal.SIGKILL, setting
        over = "delay" in setting and not killer.journals()
        wait_until(lambda: all(runs(vm) for vm in guests), 20, f"both run after {setting}")
        again = modules.run("vm_checkpoint", guests, name="c1")
        assert over or any("interrupted run" in note for note in again["notes"]), setting
        assert all(runs(vm) for vm in guests)
        assert not killer.journals()
    for vm in guests:
        assert vm.lost_records() == [] and modules.info(vm)["disagreements"] == []


def runs(vm: VM) -> bool:
    return bool(vm.domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING)
