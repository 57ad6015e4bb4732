# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots under which somebody wrote: nobody is brought back to what they no longer hold."""

from __future__ import annotations

import os
import subprocess
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from backup_story import Repository
from lab import VM, Disk
from story import Modules, chain, folder, qemu_img, sources
from test_revert import history, put, revert, words


def virsh(modules, *arguments: str) -> str:
    line = ["virsh", "-c", modules.lab.uri, *arguments]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def run(*line: str) -> None:
    subprocess.run(line, check=True, capture_output=True)


def move(vm: VM, target: str, path: str) -> None:
    """Let the definition of a VM that is off name another image, as virsh edit does."""
    xml = vm.domain.XMLDesc(2)
    vm.domain.connect().defineXML(xml.replace(sources(vm, inactive=True)[target], path))


def overwrite(path: str) -> None:
    """Write over data that is there, so that no table of the image changes."""
    (used,) = [e for e in qemu_img("map", "-U", path) if e["data"] and e["depth"] == 0][:1]
    command = f"write -P 0x5a {used['start']} 4096"
    run("qemu-io", "-f", "qcow2" if path.endswith(".qcow2") else "raw", "-c", command, path)


def problems(modules, vm: VM) -> dict[str, list[str]]:
    return {found["name"]: found["problems"] for found in modules.info(vm)["snapshots"]}


def refused(modules, vm: VM, name: str, *parts: str, **params) -> str:
    """Going back is refused in each way, by disk and name, and the snapshot counts as not there."""
    message = modules.refused("vm_snapshot", vm, name=name, state="reverted", **params)
    for part in (f"snapshot {name}: ", *parts):
        assert part in message
    modules.refused("vm_snapshot", vm, name=name, state="reverted", keep_current="kept")
    assert f"snapshot {name} of VM {vm.name} exists but" in modules.refused(
        "vm_snapshot", vm, name=name
    )
    assert problems(modules, vm)[name]
    return message


def advice_of(message: str) -> list[str]:
    """What to give to touch where somebody knows better."""
    return message.partition("(touch ")[2].partition(")")[0].split()


def test_an_active_commit_by_hand_takes_all_points_of_the_disk(vm: VM, modules) -> None:
    history(modules, vm, "s1", "s2", "s3")
    virsh(modules, "blockcommit", vm.name, "vda", "--active", "--pivot", "--wait")
    put(vm, "later")
    base = vm.disks["vda"].path
    for name in ("s3", "s2", "s1"):
        assert "vdb" not in refused(modules, vm, name, f"image {base}", "of vda")
    # what is left is removed by name, and the disks keep what was written last
    for name in ("s3", "s2", "s1"):
        modules.change("vm_snapshot", vm, name=name, state="absent")
    assert words(vm) == {"later"}
    history(modules, vm, "again")
    revert(modules, vm, "again")
    assert words(vm) == {"again"}


def test_a_commit_to_the_image_below_leaves_what_is_below_that(vm: VM, modules) -> None:
    history(modules, vm, "s1", "s2", "s3")
    middle = sources(vm)["vda"].replace(".s3.", ".s1.")
    vm.shutdown()
    run("qemu-img", "commit", sources(vm)["vda"])
    move(vm, "vda", sources(vm)["vda"].replace(".s3.", ".s2."))
    assert modules.whole(vm) == {"s1", "s2"}
    refused(modules, vm, "s3", "of vda")
    run("qemu-img", "commit", "-b", middle, sources(vm)["vda"])
    move(vm, "vda", middle)
    assert modules.whole(vm) == {"s1"}
    refused(modules, vm, "s2", "of vda")
    refused(modules, vm, "s3", f"image {middle}, on which that point of vda stands")
    revert(modules, vm, "s1")
    vm.start()
    assert words(vm) == {"s1"}


@pytest.mark.parametrize("memory", [False, True], ids=["disks", "memory"])
def test_a_write_by_hand_is_found_where_the_chain_looks_whole(make_vm, modules, memory) -> None:
    vm = make_vm("db01", disks=[Disk(), Disk(format="raw")])
    history(modules, vm, "s1", "s2", memory=memory)
    vm.shutdown()
    if memory:
        other_memory(modules, vm)
    bases = [vm.disks[target].path for target in ("vda", "vdb")]
    for target, base in zip(("vda", "vdb"), bases):
        assert modules.whole(vm) == {"s1", "s2"}
        then = os.stat(base)
        overwrite(base)
        refused(modules, vm, "s1", f"image {base}", f"of {target}", "last written to at")
        message = refused(modules, vm, "s2", f"image {base}, on which that point of {target}")
        # who knows better says so
        run("touch", *advice_of(message))
        assert os.stat(base).st_mtime_ns == then.st_mtime_ns
    # a copy in another place of the disk is as good as the first
    for base in bases:
        run("cp", "-a", base, f"{base}.copy")
        os.replace(f"{base}.copy", base)
    assert modules.whole(vm) == {"s1", "s2"}
    overwrite(chain(sources(vm)["vda"])[1])
    assert modules.whole(vm) == {"s1"}
    refused(modules, vm, "s2", "which held that point of vda")
    modules.change("vm_snapshot", vm, name="s2", state="absent")
    assert modules.whole(vm) == {"s1"}
    revert(modules, vm, "s1", run_after="running")
    assert not memory or vm.run("dmesg | grep -i 'ext4.*error' || true") == ""


def other_memory(modules: Modules, vm: VM) -> None:
    """A guest that goes on with other memory than that of its disks would destroy them."""
    first, second = (folder(vm) / f"{vm.name}.memory.{name}.save" for name in ("s1", "s2"))
    kept = first.with_suffix(".kept")
    run("cp", "-a", first, kept)

    def exchange() -> None:
        for old, new in ((first, "meanwhile"), (second, first), ("meanwhile", second)):
            os.rename(folder(vm) / old, folder(vm) / new)

    exchange()
    for name, file in (("s1", first), ("s2", second)):
        assert "touch" in refused(modules, vm, name, f"its memory file {file} was last written to")
    exchange()
    assert modules.whole(vm) == {"s1", "s2"}
    os.truncate(first, first.stat().st_size // 2)
    refused(modules, vm, "s1", f"its memory file {first} was last written to")
    first.write_bytes(b"nonsense")
    lost = f"its memory file {first} is no save of it: it does not begin like one"
    assert "touch" not in refused(modules, vm, "s1", lost)
    os.replace(kept, first)
    assert modules.whole(vm) == {"s1", "s2"}


def test_a_merge_by_hand_in_the_middle(vm: VM, modules) -> None:
    """s2 is merged into s1: s1 does not notice, s2 is lost, and of s3 only a person knows."""
    history(modules, vm, "s1", "s2", "s3")
    top = sources(vm)["vda"]
    middle, low = top.replace(".s3.", ".s2."), top.replace(".s3.", ".s1.")
    virsh(modules, "blockcommit", vm.name, "vda", "--top", middle, "--base", low, "--wait")
    assert modules.whole(vm) == {"s1"}
    refused(modules, vm, "s2", "of vda")
    run("touch", *advice_of(refused(modules, vm, "s3", f"image {low}, on which")))
    revert(modules, vm, "s3")
    assert words(vm) == {"s3"}
    revert(modules, vm, "s1")
    assert words(vm) == {"s1"}


def rebase(path: str, base: str, *how: str) -> None:
    run(
        "qemu-img",
        "rebase",
        *how,
        "-F",
        "raw" if base.endswith("raw") else "qcow2",
        "-b",
        base,
        path,
    )


def test_images_that_are_put_on_another_base_by_hand(make_vm, modules) -> None:
    vm = make_vm("db01", disks=[Disk(), Disk(format="raw")], running=False)
    for name in ("s1", "s2", "s3", "s4"):
        modules.run("vm_snapshot", vm, name=name)
        for path in sources(vm, inactive=True).values():
            run("qemu-io", "-f", "qcow2", "-c", f"write -P {ord(name[1])} 1M 64k", path)
    files = {target: chain(path) for target, path in sources(vm, inactive=True).items()}
    for target, (_s4, s3, s2, s1, base) in files.items():
        # another name is no other base
        rebase(s2, os.path.basename(s1), "-u")
        rebase(s1, os.path.relpath(base, os.path.dirname(s1)), "-u")
        assert modules.whole(vm) == {"s1", "s2", "s3", "s4"}
        # without s2's overlay all would still look like a chain, and nothing was written to
        then = os.stat(s3)
        rebase(s3, s1, "-u")
        os.utime(s3, ns=(then.st_atime_ns, then.st_mtime_ns))
        assert modules.whole(vm) == {"s1", "s2", "s3"}
        message = refused(modules, vm, "s4", f"image {s3}", f"of {target}", f"stood on {s2} then")
        assert "touch" not in message
        rebase(s3, s2, "-u")
        run("touch", *advice_of(refused(modules, vm, "s4", f"image {s3}")))
        assert modules.whole(vm) == {"s1", "s2", "s3", "s4"}
        # with the data it is a write as any other, which a person may vouch for
        rebase(s2, base)
        assert modules.whole(vm) == {"s1", "s2"}
        rebase(s2, s1, "-u")
        run("touch", *advice_of(refused(modules, vm, "s3", f"image {s2}", f"of {target}")))
        assert modules.whole(vm) == {"s1", "s2", "s3", "s4"}
    for name in ("s4", "s1", "s3", "s2"):
        modules.change("vm_snapshot", vm, name=name, state="absent")
    assert {len(chain(path)) for path in sources(vm, inactive=True).values()} == {1}


def test_an_older_copy_and_an_internal_snapshot_made_anew(make_vm, modules, tmp_path) -> None:
    vm = make_vm("db01", disks=2, running=False)
    base, other = (vm.disks[target].path for target in ("vda", "vdb"))
    run("cp", "-a", base, tmp_path / "old")
    overwrite(base)
    modules.run("vm_snapshot", vm, name="i1", mode="internal")
    modules.run("vm_snapshot", vm, name="s1")
    run("cp", "-a", base, tmp_path / "new")
    # what differs is written in place, so no table tells
    os.replace(tmp_path / "old", base)
    refused(modules, vm, "s1", f"image {base}, which held that point of vda")
    assert problems(modules, vm)["i1"] == [f"image {base} of vda does not hold it any more"]
    os.replace(tmp_path / "new", base)
    assert modules.whole(vm) == {"i1", "s1"}
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    assert modules.whole(vm) == {"i1"}
    for made in ("-d", "-c"):
        run("qemu-img", "snapshot", made, "i1", other)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", other)
        refused(modules, vm, "i1", f"image {other} of vdb")
    modules.change("vm_snapshot", vm, name="i1", state="absent")


def test_a_record_that_is_deleted_leaves_the_points_above_it(make_vm, modules) -> None:
    """libvirt 9.0 lets the snapshots above it name what that one went back to."""
    vm = make_vm("db01", disks=1)
    history(modules, vm, "s1", "s2", "s3", "s4")
    point = sources(vm)["vda"].replace(".s4.", ".s3.")
    modules.run("vm_snapshot", vm, name="s1", state="absent", metadata_only=True)
    assert modules.whole(vm) == {"s2", "s3", "s4"}
    virsh(modules, "snapshot-delete", vm.name, "s3", "--metadata")
    named = ET.fromstring(vm.domain.snapshotLookupByName("s4").getXMLDesc(0))
    kept = named.find("domain/devices/disk/source").get("file") == point
    for after in ({"s2"}, {"s2", "s5"}):
        if kept:
            assert modules.whole(vm) == after | {"s4"}
        else:
            refused(modules, vm, "s4", f"that point of vda is in {point}")
            assert modules.whole(vm) == after
        modules.run("vm_snapshot", vm, name="s5")
    for name in ("s4", "s2") if kept else ("s2",):
        modules.run("vm_snapshot", vm, name=name, state="reverted")
        vm.disconnect()
        vm.wait_ready()
        assert words(vm) == {name}


def test_a_snapshot_of_others_that_was_committed_by_hand(make_vm, modules) -> None:
    """It has no stamps, and what is taken later stands on its image as if it were whole."""
    vm = make_vm("db01", disks=1)
    virsh(modules, "snapshot-create-as", vm.name, "theirs", "--disk-only")
    time.sleep(1.1)  # libvirt knows of each snapshot the second
    put(vm, "now")
    virsh(modules, "blockcommit", vm.name, "vda", "--active", "--pivot", "--wait")
    refused(modules, vm, "theirs", "no longer holds that point")
    modules.run("vm_snapshot", vm, name="s1")
    for _time in range(2):
        refused(modules, vm, "theirs", "is what the VM has run on since")
        modules.run("vm_snapshot", vm, name="s1", state="reverted")
        vm.disconnect()
        vm.wait_ready()
    modules.run("vm_snapshot", vm, name="s1", state="absent")
    refused(modules, vm, "theirs", "no longer holds that point")


def test_one_that_was_committed_by_hand_before_the_vm_went_off(make_vm, modules) -> None:
    """No second tells: what was taken above it, and found no overlay there, does."""
    vm = make_vm("db01", disks=2)
    virsh(modules, "snapshot-create-as", vm.name, "theirs", "--disk-only")
    put(vm, "now")
    virsh(modules, "blockcommit", vm.name, "vda", "--active", "--pivot", "--wait")
    vm.shutdown()
    modules.run("vm_snapshot", vm, name="s1")
    refused(modules, vm, "theirs", "had no overlay above it any more when snapshot s1 was taken")
    assert modules.whole(vm) == {"s1"}
    modules.change("vm_snapshot", vm, name="theirs", state="absent")
    assert modules.whole(vm) == {"s1"}


@pytest.mark.parametrize("known", [True, False])
def test_one_that_was_committed_while_the_vm_was_off(make_vm, modules, known: bool) -> None:
    """Its overlay stays where it was; what tells is recorded by the first task, or the time."""
    vm = make_vm("db01", disks=2)
    name = "before: $(id) <ü>"
    virsh(modules, "snapshot-create-as", vm.name, name, "--disk-only")
    if known:
        revert(modules, vm, name)
        vm.disconnect()
        vm.wait_ready()
    put(vm, "now")
    vm.shutdown()
    time.sleep(2.5)  # what comes right after an overlay was made may still be of the guest
    base = vm.disks["vda"].path
    moment = os.stat(base).st_mtime + 1 if known else time.time()  # a record knows it exactly
    os.utime(base, (moment, moment))
    run("touch", *advice_of(refused(modules, vm, name, f"image {base}", "was last written to")))
    assert modules.whole(vm) == {name}
    run("qemu-img", "commit", "-q", *(() if known else ("-d",)), sources(vm)["vda"])
    assert "vdb" not in refused(modules, vm, name, f"image {base}", "was last written to")
    vm.start()
    vm.wait_ready()
    modules.run("vm_snapshot", vm, name="s1")
    put(vm, "later")
    refused(modules, vm, name, f"image {base}")
    assert modules.whole(vm) == {"s1"}


def test_bitmaps_that_go_are_no_write(make_vm, modules) -> None:
    """QEMU removes them also from the images below, and our advice is to let it."""
    vm = make_vm("db01", disks=1)
    put(vm, "before")
    virsh(modules, "checkpoint-create-as", vm.name, "theirs")
    virsh(modules, "snapshot-create-as", vm.name, "before", "--disk-only", "--quiesce")
    put(vm, "now")
    time.sleep(2.5)
    message = modules.refused("vm_snapshot", vm, name="before", state="reverted")
    virsh(modules, *message.partition("virsh ")[2].partition(".")[0].split())
    assert modules.whole(vm) == {"before"}
    revert(modules, vm, "before")
    vm.disconnect()
    vm.wait_ready()
    assert words(vm) == {"before"}


def test_a_backup_removes_its_bitmaps_below(make_vm, modules, tmp_path) -> None:
    """It looks at another tool's snapshot before that, so a power cycle does not hide why."""
    vm = make_vm("db01", disks=1)
    repository = Repository(tmp_path / "repository", modules)
    repository.back_up(vm)
    virsh(modules, "snapshot-create-as", vm.name, "theirs", "--disk-only")
    time.sleep(2.5)
    then = os.stat(vm.disks["vda"].path).st_mtime_ns
    for _time in range(2):
        repository.later()
        repository.back_up(vm, type="full")
    assert os.stat(vm.disks["vda"].path).st_mtime_ns > then, "no bitmap was removed"
    vm.destroy()
    assert modules.whole(vm) == {"theirs"}


@pytest.mark.parametrize(("known", "off"), [(True, True), (False, True), (False, False)])
def test_one_that_stands_on_what_was_committed_by_hand(
    make_vm, modules, known: bool, off: bool
) -> None:
    """What stands on that image now is on no record any more."""
    vm = make_vm("db01", disks=2)
    virsh(modules, "snapshot-create-as", vm.name, "first", "--disk-only")
    virsh(modules, "snapshot-delete", vm.name, "first", "--metadata")
    time.sleep(1.1)  # libvirt knows the second of each
    virsh(modules, "snapshot-create-as", vm.name, "theirs", "--disk-only")
    time.sleep(2.5)  # what comes right after its overlay was made may still be of the guest
    if known:
        modules.run("vm_snapshot", vm, name="s1")
    assert modules.whole(vm) == {"theirs", *(["s1"] if known else [])}
    put(vm, "now")
    base = vm.disks["vda"].path
    words = ("--base", base, "--active", "--pivot", "--wait")
    virsh(modules, "blockcommit", vm.name, "vda", *words)
    if off:
        vm.shutdown()
    virsh(modules, "snapshot-create-as", vm.name, "last", "--disk-only")
    virsh(modules, "snapshot-delete", vm.name, "last", "--metadata")
    late = "was last written to at" if off else "of which nobody knows what it was put on"
    refused(modules, vm, "theirs", late)
    assert modules.whole(vm) == set()


def test_one_beside_a_way_back_that_is_on_no_record(make_vm, modules) -> None:
    """The same picture, and nobody has written to what it stands on."""
    vm = make_vm("db01", disks=1)
    virsh(modules, "snapshot-create-as", vm.name, "first", "--disk-only")
    time.sleep(1.1)
    virsh(modules, "snapshot-create-as", vm.name, "theirs", "--disk-only")
    put(vm, "now")
    modules.run("vm_snapshot", vm, name="first", state="reverted")
    virsh(modules, "snapshot-delete", vm.name, "first", "--metadata")
    assert modules.whole(vm) == {"theirs"}
    assert modules.run("vm_snapshot", vm, name="theirs", state="reverted")["changed"]


def test_an_image_whose_data_is_in_another_file(make_vm, modules) -> None:
    vm = make_vm("db01", disks=1, running=False)
    old, image, data = (f"{folder(vm)}/{name}" for name in ("vda.qcow2", "here.qcow2", "vda.raw"))
    convert = ["qemu-img", "convert", "-O", "qcow2", "-o", f"data_file={data}"]
    run(*convert, old, image)
    move(vm, "vda", image)
    for name in ("s1", "s2"):
        modules.run("vm_snapshot", vm, name=name)
    assert modules.whole(vm) == {"s1", "s2"}
    then = os.stat(data)
    for written, form in ((image, "qcow2"), (data, "raw")):
        run("qemu-io", "-f", form, "-c", "write -P 3 0 64k", written)
        message = refused(modules, vm, "s1", f"{data}, which holds the data of {image}")
        run("touch", *advice_of(message))
        assert os.stat(data).st_mtime_ns == then.st_mtime_ns
        assert modules.whole(vm) == {"s1", "s2"}
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    assert modules.whole(vm) == {"s2"}


def test_what_an_internal_snapshot_stands_on(vm: VM, modules) -> None:
    history(modules, vm, "s1")
    vm.shutdown()
    modules.run("vm_snapshot", vm, name="inside", mode="internal")
    overwrite(sources(vm)["vda"])
    assert modules.whole(vm) == {"s1", "inside"}
    overwrite(vm.disks["vda"].path)
    refused(modules, vm, "inside", "vda")
    assert modules.whole(vm) == set()


def test_a_snapshot_that_somebody_else_took(vm: VM, modules) -> None:
    """It has no stamps; what stands on its images tells what it can."""
    put(vm, "one")
    virsh(modules, "snapshot-create-as", vm.name, "one", "--disk-only")
    put(vm, "two")
    virsh(modules, "snapshot-create-as", vm.name, "two", "--disk-only")
    put(vm, "now")
    revert(modules, vm, "two")
    assert words(vm) == {"two"}
    virsh(modules, "blockcommit", vm.name, "vda", "--active", "--pivot", "--wait")
    refused(modules, vm, "two", "vda")
    refused(modules, vm, "one", "vda")


def whole(modules: Modules, vm: VM, *names: str) -> None:
    """These are there, and nothing is wrong with any."""
    assert modules.whole(vm) == set(names)
    assert problems(modules, vm).keys() == set(names)


def through_a_power_cycle(modules: Modules, vm: VM, *names: str) -> None:
    """These stay whole while the VM is off, and when it runs again."""
    vm.shutdown()
    whole(modules, vm, *names)
    vm.start()


def test_what_our_own_tasks_do_is_no_damage(vm: VM, modules, tmp_path: Path) -> None:
    repository = str(tmp_path)
    history(modules, vm, "s1", "s2")
    modules.run("vm_backup", vm, repository=repository)
    history(modules, vm, "s3", "s4")
    whole(modules, vm, "s1", "s2", "s3", "s4")
    through_a_power_cycle(modules, vm, "s1", "s2", "s3", "s4")
    modules.run("vm_backup", vm, repository=repository)
    whole(modules, vm, "s1", "s2", "s3", "s4")
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    whole(modules, vm, "s2", "s3", "s4")
    for checkpoint in virsh(modules, "checkpoint-list", "--name", vm.name).split():
        virsh(modules, "checkpoint-delete", vm.name, checkpoint)
    whole(modules, vm, "s2", "s3", "s4")
    revert(modules, vm, "s3", keep_current="failed")
    assert words(vm) == {"s3"}
    modules.lab.daemon.restart(crash=True)
    whole(modules, vm, "s2", "s3", "s4", "failed")
    through_a_power_cycle(modules, vm, "s2", "s3", "s4", "failed")
    modules.change("vm_snapshot", vm, name="s3", state="absent", subtree=True)
    whole(modules, vm, "s2")
    modules.run("vm_checkpoint", vm, name="c1")
    modules.run("vm_snapshot", vm, name="s5")
    top, base = chain(sources(vm)["vda"])[:2]
    modules.change("vm_blockcommit", vm, top=top, base=base, disks=["vda"])
    whole(modules, vm, "s2", "c1", "s5")
    revert(modules, vm, "s2")
    assert words(vm) == {"s2"}
    # QEMU has written bitmaps to that image, and whoever writes data there is found all the same
    vm.shutdown()
    assert "s2" in modules.whole(vm)
    overwrite(vm.disks["vda"].path)
    refused(modules, vm, "s2", "which held that point of vda")
