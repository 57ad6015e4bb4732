# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_blockpull on real guests: whole and partial, running and off.

Scenarios 22 and 23 of tp-libvirt's backing chain tests are among what is refused.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest
from kill_stage import Stage, grow
from kill_stage import overlay as staged
from kill_trials import THAWED_WITHIN, Killer, Task
from lab import VM, Disk, wait_until
from lab.modules import start_module
from story import Modules, chain, folder, name_relatively, plain, qemu_img, sources, world
from test_snapshot_absent import assert_kept, overlay, take

RANDOM = "dd if=/dev/urandom bs=1M count=2 conv=fsync of=/mnt/vda"
FILL = "dd if=/dev/urandom bs=1M count=8 conv=fsync of=/mnt/vda"


def digests(vm: VM) -> dict[str, str]:
    """What each disk holds as a whole, as the guest reads it. From now on it only reads."""
    vm.run("for disk in /mnt/*; do mount -o remount,ro $disk; done; sync")
    vm.run("echo 3 >/proc/sys/vm/drop_caches")
    return {target: vm.sha256(f"/dev/{target}") for target in vm.disks}


def on_the_host(vm: VM) -> dict[str, str]:
    """The same of a machine that is off, from its images."""
    return {target: raw(vm.source(target, inactive=True)) for target in vm.disks}


def raw(image: str) -> str:
    copy = Path(f"/dev/shm/vmkeep-{os.getpid()}.pull")
    convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, str(copy)]
    subprocess.run(convert, check=True, capture_output=True)
    try:
        return hashlib.sha256(copy.read_bytes()).hexdigest()
    finally:
        copy.unlink()


def sound(vm: VM, modules: Modules) -> None:
    """Definitions, images and snapshots say the same, and no image has errors."""
    assert sources(vm) == sources(vm, inactive=True)
    assert modules.info(vm)["disagreements"] == []
    for inactive in (False, True):
        for disk in vm.xml(inactive=inactive).iterfind("devices/disk"):
            named = [node.get("file") for node in disk.iterfind("backingStore//source")]
            below = chain(disk.find("source").get("file"))[1:]
            assert named == below or (not named and (inactive or not vm.active()))
    if not vm.active():
        for path in sources(vm).values():
            assert not qemu_img("check", path).get("corruptions")


def cut_off(vm: VM) -> None:
    """QEMU is gone without a chance to write anything, as with a power cut of the host."""
    os.kill(vm.qemu_pid(), signal.SIGKILL)
    wait_until(lambda: not vm.active(), 20, "libvirt notices")
    vm.disconnect()


# --- whole and partial, running and off ---


def test_whole_chains_while_the_guest_writes(vm: VM, modules: Modules) -> None:
    bases = sources(vm)
    vm.start_writer()
    take(modules, vm, "s1", "s2")
    result = modules.change("vm_blockpull", vm)
    entry = result["vms"]["db01"]
    assert entry["snapshots_removed"] == ["s1", "s2"]
    for target, base in bases.items():
        active = overlay(vm, target, "s2")
        disk = entry["disks"][target]
        assert disk["after"] == [active] == chain(active)
        assert disk["before"] == [active, overlay(vm, target, "s1"), base]
        assert disk["merged"] == disk["before"][1:] and disk["bytes"] > 0
        assert not os.path.exists(overlay(vm, target, "s1")), "made by s1, needed by nobody"
        assert os.path.exists(base), "it was not ours to remove"
    sound(vm, modules)
    # Nothing that the module has called done may still be in QEMU's memory only.
    cut_off(vm)
    vm.start()
    assert vm.lost_records() == []
    assert_kept(vm, "s1", "s2")


def test_what_is_pulled_is_on_the_disk(vm: VM, modules: Modules) -> None:
    """The guest does nothing that would make QEMU write it."""
    take(modules, vm, "s1", "s2")
    before = digests(vm)
    modules.run("vm_blockpull", vm)
    cut_off(vm)
    assert on_the_host(vm) == before


def test_down_to_a_base_in_the_middle(vm: VM, modules: Modules) -> None:
    """s2 goes back to what is the base now, so it is kept, and can still be gone back to."""
    first = sources(vm)["vda"]
    take(modules, vm, "s1", "s2", "s3")
    base, active = overlay(vm, "vda", "s1"), overlay(vm, "vda", "s3")
    lower = Path(base).read_bytes(), Path(first).read_bytes()
    result = modules.change("vm_blockpull", vm, disks=["vda"], base=base)
    assert chain(active) == [active, base, first]
    assert result["vms"]["db01"]["disks"]["vda"]["merged"] == [overlay(vm, "vda", "s2")]
    assert (Path(base).read_bytes(), Path(first).read_bytes()) == lower
    assert len(chain(sources(vm)["vdb"])) == 4
    # s3 still is a snapshot of vdb, and s2 has the active image for its overlay.
    found = {s["name"]: s["disks"] for s in modules.info(vm)["snapshots"]}
    assert list(found["s3"]) == ["vdb"] and found["s2"]["vda"]["file"] == active
    assert not os.path.exists(overlay(vm, "vda", "s2"))
    sound(vm, modules)
    assert_kept(vm, "s1", "s2", "s3")
    modules.run("vm_snapshot", vm, name="s2", state="reverted")
    vm.wait_ready()
    assert_kept(vm, "s1")
    assert vm.run("ls /mnt/vda /mnt/vdb | grep since || true").split() == ["since-s1"] * 2


def test_max_depth_keeps_the_lowest(vm: VM, modules: Modules) -> None:
    bases = sources(vm)
    take(modules, vm, "s1", "s2", "s3")
    modules.change("vm_blockpull", vm, max_depth=2)
    for target, base in bases.items():
        assert chain(sources(vm)[target]) == [overlay(vm, target, "s3"), base]
    assert modules.info(vm)["tree"].split() == ["s1", "*"]
    sound(vm, modules)
    assert_kept(vm, "s1", "s2", "s3")
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    assert sources(vm) == bases
    assert_kept(vm, "s1", "s2", "s3")


@pytest.mark.parametrize("bandwidth", [0, 50])
def test_a_vm_that_is_off(vm: VM, modules: Modules, bandwidth: int) -> None:
    bases = sources(vm)
    take(modules, vm, "s1", "s2", "s3")
    vm.shutdown()
    before = on_the_host(vm)
    modules.change("vm_blockpull", vm, disks=["vda"], max_depth=3, bandwidth=bandwidth)
    active = overlay(vm, "vda", "s3")
    assert chain(active) == [active, overlay(vm, "vda", "s1"), bases["vda"]]
    assert on_the_host(vm) == before
    sound(vm, modules)
    modules.change("vm_blockpull", vm, bandwidth=bandwidth)
    assert [chain(path) for path in sources(vm, inactive=True).values()] == [
        [overlay(vm, target, "s3")] for target in bases
    ]
    assert world(vm)["snapshots"] == [] and on_the_host(vm) == before
    sound(vm, modules)
    vm.start()
    assert_kept(vm, "s1", "s2", "s3")


def test_a_definition_that_lists_the_chain(vm: VM, modules: Modules) -> None:
    """libvirt would believe it, and open images that are none of the chain any more."""
    take(modules, vm, "s1", "s2")
    vm.shutdown()
    domain = _listing_chains(vm)
    for live in (False, True):
        vm.lab.connection.defineXML(ET.tostring(domain, encoding="unicode"))
        if live:
            vm.start()
        modules.change("vm_blockpull", vm, max_depth=1 if live else 2)
        sound(vm, modules)
        domain = vm.xml(inactive=True)
    assert_kept(vm, "s1", "s2")


def test_relative_names_where_the_definition_lists_full_ones(vm: VM, modules: Modules) -> None:
    take(modules, vm, "s1", "s2")
    vm.shutdown()
    chains = {target: chain(path) for target, path in sources(vm, inactive=True).items()}
    for files in chains.values():
        name_relatively(files)
    vm.lab.connection.defineXML(ET.tostring(_listing_chains(vm), encoding="unicode"))
    vm.start()
    modules.change("vm_blockpull", vm, max_depth=2)
    for active, _overlay, base in chains.values():
        assert chain(active) == [active, base]
        assert qemu_img("info", "-U", active)["backing-filename"] == os.path.basename(base)
    sound(vm, modules)
    assert_kept(vm, "s1", "s2")


def _listing_chains(vm: VM) -> ET.Element:
    """The persistent definition with the chain of each disk in it."""
    domain = vm.xml(inactive=True)
    for disk in domain.iterfind("devices/disk"):
        for old in disk.findall("backingStore"):
            disk.remove(old)
        disk.append(_backing_store(chain(disk.find("source").get("file"))[1:]))
    return domain


def _backing_store(files: list[str]) -> ET.Element:
    store = ET.Element("backingStore", {"type": "file"} if files else {})
    if files:
        ET.SubElement(store, "format", type="qcow2")
        ET.SubElement(store, "source", file=files[0])
        store.append(_backing_store(files[1:]))
    return store


def test_a_definition_that_names_an_image_below(vm: VM, modules: Modules) -> None:
    bases = sources(vm)
    take(modules, vm, "s1", "s2")
    domain = vm.xml(inactive=True)
    domain.find("devices/disk/source").set("file", overlay(vm, "vda", "s1"))
    vm.lab.connection.defineXML(ET.tostring(domain, encoding="unicode"))
    modules.change("vm_blockpull", vm, max_depth=2)
    assert sources(vm, inactive=True)["vda"] == overlay(vm, "vda", "s2")
    assert chain(sources(vm)["vda"])[1:] == [bases["vda"]]
    sound(vm, modules)


def test_a_transient_vm(make_vm, modules: Modules) -> None:
    vm = make_vm("passing", disks=[Disk(layers=3)], transient=True)
    before = digests(vm)
    active = sources(vm)["vda"]
    modules.change("vm_blockpull", vm)
    assert chain(active) == [active] and digests(vm) == before


# --- several VMs on one template ---


def test_clones_of_a_template(make_vm, modules: Modules, tmp_path: Path) -> None:
    template = str(tmp_path / "template.qcow2")
    donor = make_vm("donor", disks=1, running=False)
    subprocess.run(
        ["qemu-img", "convert", "-O", "qcow2", donor.disks["vda"].path, template], check=True
    )
    clones = [make_vm(name, disks=[Disk(backing=template)]) for name in ("c1", "c2")]
    for clone in clones:
        take(modules, clone, "s1")
    untouched = Path(template).read_bytes()
    facts = os.stat(template)

    result = modules.change("vm_blockpull", clones, base=template)
    for clone in clones:
        assert chain(sources(clone)["vda"]) == [overlay(clone, "vda", "s1"), template]
        assert result["vms"][clone.name]["snapshots_removed"] == ["s1"]
        assert Path(clone.disks["vda"].path).exists(), "it was made by no snapshot"
    modules.change("vm_blockpull", clones[0])
    assert chain(sources(clones[0])["vda"]) == [overlay(clones[0], "vda", "s1")]
    assert Path(template).read_bytes() == untouched
    assert os.stat(template).st_mtime_ns == facts.st_mtime_ns
    for clone in clones:
        assert_kept(clone, "s1")
    one_fails = modules.attempt("vm_blockpull", clones, base=template)
    assert one_fails["failed"] and "c2" in one_fails["vms"]
    assert f"{template} is not in the chain of disk vda of VM c1" in one_fails["vms"]["c1"]["msg"]


def test_what_something_else_stands_on_is_kept(vm: VM, modules: Modules) -> None:
    """A clone of a snapshot that somebody made by hand: s2 and all below it stay."""
    take(modules, vm, "s1", "s2", "s3")
    clone = str(folder(vm) / "clone.qcow2")
    below = overlay(vm, "vda", "s2")
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, clone]
    subprocess.run(command, check=True)
    content = raw(clone)
    result = modules.change("vm_blockpull", vm)
    assert result["notes"] == [
        f"db01: {overlay(vm, 'vda', name)} was kept, since image {clone} needs it"
        for name in ("s2", "s1")
    ]
    assert raw(clone) == content and len(chain(clone)) == 4
    assert not os.path.exists(overlay(vm, "vdb", "s2"))


def test_pulled_files_can_be_kept(vm: VM, modules: Modules) -> None:
    take(modules, vm, "s1", "s2")
    modules.change("vm_blockpull", vm, delete_merged=False)
    assert os.path.exists(overlay(vm, "vda", "s1")) and world(vm)["snapshots"] == []


# --- bitmaps of backup checkpoints ---


@pytest.mark.parametrize("running", [True, False])
def test_backup_checkpoints_stay_whole(vm: VM, modules: Modules, running: bool) -> None:
    """What was written since the checkpoint is still known: libvirt takes the bitmaps for sound."""
    vm.domain.checkpointCreateXML("<domaincheckpoint><name>c1</name></domaincheckpoint>")
    take(modules, vm, "s1", "s2")
    wrote = "dd if=/dev/urandom bs=64k count=4 conv=fsync,notrunc of=/mnt/vda/between"
    vm.run(wrote)
    take(modules, vm, "s3")
    dirty = _dirty(vm)
    if not running:
        vm.shutdown()
    modules.change("vm_blockpull", vm, max_depth=2 if running else 1)
    if not running:
        vm.start()
    assert _dirty(vm) >= dirty > 0
    _check_checkpoint(vm)


@pytest.mark.parametrize("module", ["vm_blockcommit", "vm_blockpull"])
def test_backup_checkpoints_of_a_disk_that_has_grown(vm: VM, modules: Modules, module: str) -> None:
    """QEMU merges only bitmaps of one size."""
    vm.domain.checkpointCreateXML("<domaincheckpoint><name>c1</name></domaincheckpoint>")
    take(modules, vm, "s1")
    vm.run("dd if=/dev/urandom bs=64k count=4 conv=fsync,notrunc of=/mnt/vda/between")
    take(modules, vm, "s2")
    dirty = _dirty(vm)
    size = vm.domain.blockInfo("vda")[0]
    vm.domain.blockResize("vda", size + (1 << 20), libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    vm.run(f"dd if=/dev/urandom bs=64k count=4 seek={size >> 16} conv=fsync,notrunc of=/dev/vda")
    vm.shutdown()
    modules.change(module, vm, max_depth=1)
    vm.start()
    assert _dirty(vm) >= dirty + (4 << 16) > 4 << 16
    _check_checkpoint(vm)


def _check_checkpoint(vm: VM) -> None:
    """libvirt takes its bitmaps for sound."""
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
    validate = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
    checkpoint = ET.fromstring(vm.domain.checkpointLookupByName("c1").getXMLDesc())
    vm.domain.checkpointCreateXML(ET.tostring(checkpoint, encoding="unicode"), flags | validate)


def _dirty(vm: VM) -> int:
    """How much of vda libvirt counts as written since the checkpoint, in bytes."""
    found = vm.domain.checkpointLookupByName("c1")
    root = ET.fromstring(found.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE))
    return int(root.find("disks/disk[@name='vda']").get("size"))


# --- what is refused ---


def test_a_base_that_cannot_be(vm: VM, modules: Modules) -> None:
    """tp-libvirt 22."""
    take(modules, vm, "s1")
    active, base = chain(sources(vm)["vda"])
    for path, said in (
        (active, f"base {active} is the active image of disk vda of VM db01"),
        ("/nowhere/x.qcow2", "image /nowhere/x.qcow2 is not in the chain of disk vda of VM db01"),
        ("x.qcow2", "base is x.qcow2"),
    ):
        assert said in modules.refused("vm_blockpull", vm, disks=["vda"], base=path)
    assert "has no disk vdx" in modules.refused("vm_blockpull", vm, disks=["vdx"])
    assert "bandwidth is -1" in modules.refused("vm_blockpull", vm, bandwidth=-1)
    assert "max_depth is 0" in modules.refused("vm_blockpull", vm, max_depth=0)
    both = modules.refused("vm_blockpull", vm, disks=["vda"], max_depth=2, base=base)
    assert "'max_depth' and 'base' were both given" in both
    assert not modules.run("vm_blockpull", vm, disks=["vda"], base=base)["changed"]


def test_checkpoints_and_internal_snapshots(vm: VM, modules: Modules) -> None:
    take(modules, vm, "s1")
    modules.run("vm_checkpoint", vm, name="kept")
    take(modules, vm, "s2")
    message = modules.refused("vm_blockpull", vm)
    assert "checkpoint kept of VM db01 needs" in message and "state absent" in message
    assert "checkpoint kept" in modules.refused("vm_blockpull", vm, max_depth=3)
    modules.run("vm_checkpoint", vm, name="kept", state="absent")
    vm.shutdown()
    subprocess.run(["qemu-img", "snapshot", "-c", "inside", sources(vm)["vdb"]], check=True)
    message = modules.refused("vm_blockpull", vm)
    assert f"{sources(vm)['vdb']} of VM db01, disk vdb, holds internal snapshots: inside" in message


def test_a_snapshot_of_another_tool(vm: VM, modules: Modules) -> None:
    bases = sources(vm)
    virsh = ["virsh", "-q", "-c", modules.lab.uri]
    for name in ("foreign", "top"):
        command = [*virsh, "snapshot-create-as", "db01", name, "--disk-only"]
        subprocess.run(command, check=True, capture_output=True)
    assert "snapshot foreign of VM db01 was taken by another tool" in modules.refused(
        "vm_blockpull", vm
    )
    active, overlaid, _base = chain(sources(vm)["vda"])
    modules.change("vm_blockpull", vm, disks=["vda"], base=bases["vda"])
    assert chain(active) == [active, bases["vda"]] and os.path.exists(overlaid)
    assert modules.info(vm)["disagreements"] == []


def test_a_paused_vm(vm: VM, modules: Modules) -> None:
    take(modules, vm, "s1")
    vm.domain.suspend()
    assert "VM db01 is paused" in modules.refused("vm_blockpull", vm)
    vm.domain.resume()
    modules.change("vm_blockpull", vm)


def test_a_managed_save(vm: VM, modules: Modules) -> None:
    take(modules, vm, "s1")
    vm.domain.managedSave()
    assert "VM db01 has a managed save" in modules.refused("vm_blockpull", vm)
    vm.domain.managedSaveRemove()


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: a small file system needs root")
def test_data_that_does_not_fit(make_vm, modules: Modules, tmp_path: Path) -> None:
    """Nothing is begun; and where the room goes meanwhile, the chain is as it was."""
    small = tmp_path / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "vmkeep-small", str(small)]
    subprocess.run(command, check=True)
    try:
        vm = make_vm("db01", disks=[Disk(size=32)])
        vm.run(f"{FILL}/big", timeout=60)
        take(modules, vm, "s1", directory=str(small))
        message = modules.refused("vm_blockpull", vm)
        assert f"{small} has" in message and "bytes free" in message
    finally:
        vm.destroy()
        subprocess.run(["umount", "-l", str(small)], check=True)


# --- jobs: of others, of a dead run, too slow ---


def slow(modules: Modules, vm: VM, **params: object):
    """A pull of vda that takes some seconds."""
    told = modules.params(vm, disks=["vda"], bandwidth=1, **params)
    return start_module("vm_blockpull", told)


def test_the_job_of_a_killed_run_goes_on(vm: VM, modules: Modules) -> None:
    vm.run(f"{FILL}/big", timeout=60)
    take(modules, vm, "s1")
    before = digests(vm)
    with slow(modules, vm) as run:
        wait_until(lambda: bool(vm.domain.blockJobInfo("vda")), 20, "the pull runs")
        run.kill()
    for _turn in range(2):
        assert vm.domain.blockJobInfo("vda")["bandwidth"], "it is still the same job"
        foreseen = modules.run("vm_blockpull", vm, disks=["vda"], bandwidth=1, check=True)
    done = modules.run("vm_blockpull", vm, disks=["vda"], bandwidth=1)
    assert plain(done["plan"]) == plain(foreseen["plan"]) and done["plan"][0]["resume"]
    assert done["notes"] == ["db01: finished what an interrupted run had begun"]
    assert len(chain(sources(vm)["vda"])) == 1
    assert not modules.run("vm_blockpull", vm, disks=["vda"], bandwidth=1)["changed"]
    assert digests(vm) == before


def test_jobs_of_others(vm: VM, modules: Modules) -> None:
    """tp-libvirt 23: also a pull that is just like ours."""
    vm.run(f"{FILL}/big", timeout=60)
    take(modules, vm, "s1")
    vm.domain.blockPull("vda", 1)
    assert "a block job (pull) is running on disk vda of VM db01" in modules.refused(
        "vm_blockpull", vm
    )
    assert vm.domain.blockJobInfo("vda"), "it is left alone"
    vm.domain.blockJobAbort("vda")
    modules.change("vm_blockpull", vm)


def test_a_pull_that_takes_too_long(vm: VM, modules: Modules) -> None:
    vm.run(f"{FILL}/big", timeout=60)
    take(modules, vm, "s1")
    before, digest = world(vm), digests(vm)
    result = slow(modules, vm, timeout=2).result()
    assert result["failed"] and "the pull was not done in time (vda at" in result["msg"]
    assert not vm.domain.blockJobInfo("vda") and world(vm) == before
    assert not list(modules.state_dir.glob("journal/*"))
    modules.change("vm_blockpull", vm)
    assert digests(vm) == digest


# --- QEMU dies ---

PAUSE = "before libvirt suspend db01"


def stacked(stage: Stage) -> VM:
    """A machine with content in each layer, to which nothing is written any more."""
    vm = stage.running("db01", "s1")
    vm.stop_writer()
    vm.run(f"{RANDOM}/layer; cp /mnt/vda/layer /mnt/vdb/layer; sync")
    grow(vm, "s2")
    return vm


def writes_all(vm: VM) -> bool:
    """QEMU 10 was never seen to lose something here, as 7.2 always does; nothing promises that."""
    return bool(vm.lab.connection.getVersion() >= 10_000_000)


def test_qemu_is_killed_before_it_has_written_all(stage: Stage, killer: Killer) -> None:
    """The image stands on nothing and has not got the data. It is put back, and pulled again."""
    vm = stacked(stage)
    before = digests(vm)
    task = Task("vm_blockpull", (vm,), {})
    run = killer.start(task, hold={PAUSE: 1.5})
    killer.reaches(PAUSE)
    cut_off(vm)
    lost = on_the_host(vm)
    assert lost != before or writes_all(vm), "without the pause it would be lost"
    result = run.result()
    assert result["failed"] and not killer.journals()
    assert on_the_host(vm) == before
    assert not killer.plain(task)["failed"] and not killer.plain(task)["changed"]
    assert on_the_host(vm) == before
    vm.start()
    assert vm.lost_records() == [] and len(chain(vm.source("vda"))) == 1
    vm.destroy()


def test_qemu_and_the_run_are_killed(stage: Stage, killer: Killer) -> None:
    vm = stacked(stage)
    before = digests(vm)
    task = Task("vm_blockpull", (vm,), {"max_depth": 2})
    killer.start(task, kill=PAUSE).wait()
    cut_off(vm)
    assert on_the_host(vm) != before or writes_all(vm)
    foreseen = killer.modules.run("vm_blockpull", vm, check=True, max_depth=2)
    result = killer.plain(task)
    assert not result["failed"], result["msg"]
    assert result["plan"] == foreseen["plan"] and result["plan"][0]["doubtful"]
    assert on_the_host(vm) == before and not killer.journals()
    assert chain(vm.source("vda"))[1:] == [vm.disks["vda"].path]
    assert not killer.plain(task)["changed"]


def test_a_vm_that_was_started_without_its_data(stage: Stage, killer: Killer) -> None:
    """Nobody can tell what to keep: a person has to look, and is told what to do."""
    vm = stacked(stage)
    before = digests(vm)
    task = Task("vm_blockpull", (vm,), {})
    killer.start(task, kill=PAUSE).wait()
    cut_off(vm)
    vm.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    result = killer.plain(task)
    active, below = staged(vm, "vda", "s2"), staged(vm, "vda", "s1")
    assert result["failed"] and "was started again" in result["msg"]
    assert f"-b {below} {active}" in result["msg"]
    vm.destroy()
    assert not killer.plain(task)["failed"]
    assert on_the_host(vm) == before


def test_the_daemon_crashes_meanwhile(stage: Stage, killer: Killer) -> None:
    vm = stage.running("db01", "s1", "s2")
    task = Task("vm_blockpull", (vm,), {})
    point = "after libvirt blockRebase db01 vda"
    with killer.start(task, hold={point: 1.0}) as run:
        killer.reaches(point)
        time.sleep(0.2)
        stage.lab.daemon.restart(crash=True)
        result = run.result()
    assert not result["failed"], result["msg"]
    assert not killer.journals() and not killer.plain(task)["changed"]
    assert len(chain(vm.source("vda"))) == 1
    cut_off(vm)
    vm.start()
    assert vm.lost_records() == []


def test_a_run_that_is_killed_does_not_leave_the_vm_paused(stage: Stage, killer: Killer) -> None:
    vm = stacked(stage)
    task = Task("vm_blockpull", (vm,), {"max_depth": 2})
    assert killer.start(task, kill=PAUSE.replace("before", "after")).wait() == -signal.SIGKILL
    running = libvirt.VIR_DOMAIN_RUNNING
    wait_until(lambda: vm.domain.state()[0] == running, THAWED_WITHIN, "it runs")
    assert not killer.plain(task)["failed"] and not killer.plain(task)["changed"]


def images_of(vm: VM) -> set[str]:
    """The overlays in the folder of a VM."""
    return {path.name for path in folder(vm).glob(f"{vm.name}.*")}


def test_an_overlay_beside_goes_with_the_last_snapshot_that_needs_it(make_vm, modules) -> None:
    """Its maker goes with the pull, and so does one with memory, which loses one of its disks."""
    vm = make_vm("beside01", disks=2)
    modules.run("vm_snapshot", vm, name="s1", disks=["vdb"])
    modules.run("vm_snapshot", vm, name="s1", state="reverted", run_after="running")
    modules.run("vm_snapshot", vm, name="s2", memory=True)
    modules.run("vm_snapshot", vm, name="s1", state="reverted", run_after="running")
    assert "beside01.vdb.s1.r1.qcow2" in images_of(vm)
    modules.change("vm_blockpull", vm)
    assert modules.whole(vm) == set()
    assert images_of(vm) == {path.rpartition("/")[2] for path in sources(vm).values()}


def test_what_was_pulled_is_given_up_by_going_back_beside(make_vm, modules) -> None:
    """Its maker went with the pull; another snapshot knows that it is ours."""
    vm = make_vm("beside01", disks=1)
    modules.run("vm_snapshot", vm, name="s1")
    modules.run("vm_snapshot", vm, name="s1", state="reverted", run_after="running")
    modules.run("vm_snapshot", vm, name="s2")
    modules.run("vm_snapshot", vm, name="s1", state="reverted", run_after="running")
    modules.change("vm_blockpull", vm)
    pulled = sources(vm)["vda"].rpartition("/")[2]
    assert modules.whole(vm) == {"s2"} and pulled in images_of(vm)
    modules.run("vm_snapshot", vm, name="s2", state="reverted", run_after="running")
    assert pulled not in images_of(vm)
    modules.change("vm_snapshot", vm, name="s2", state="absent")
    assert modules.whole(vm) == set() and len(images_of(vm)) == 1
