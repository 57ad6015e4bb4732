# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided before a VM is restored, and the definition that it gets."""

from __future__ import annotations

import dataclasses
import itertools
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model import backup
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import (
    parse_domain,
    tpm_folder,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.manifest import parse_manifest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    Damaged,
    NotFound,
    Problem,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.restore import (
    ABSENT,
    Draft,
    Marker,
    Places,
    RestoreWish,
    Seen,
    StoredVm,
    clone_uuid,
    place_marker,
    read_marker,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.restored_xml import (
    Change,
    new_macs,
    restored_xml,
    stored_domain,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import (
    DirectoryFact,
    DiskState,
    VmState,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    DefineRestored,
    Plan,
    RestoreDisk,
    RestoreFile,
    VerifyPoint,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stock import Stock, Verified
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.restore import (
    is_done,
    plan_restore,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.restore_checks import (
    check_point,
    check_wish,
)
from builders import GIB, MIB, image

UUID = "5762cac2-e406-495a-b4e9-a10624a3211b"
FOLDER = f"/srv/backup/db.{UUID}"
ID = "20261124T030000Z"
DISK = """<disk type='{kind}' device='disk'><driver name='qemu' type='{form}'/><source {source}/>
<backingStore type='file'><source file='/vms/old'/></backingStore><target dev='{target}'/></disk>"""


def domain_xml(*disks: str, more: str = "", inside: str = "") -> str:
    return (
        f"<domain type='kvm'><name>db</name><uuid>{UUID}</uuid>{inside}"
        f"<devices>{''.join(disks)}{more}</devices></domain>"
    )


def disk_xml(target: str, path: str = "", kind: str = "file", source: str = "") -> str:
    words = source or f"file='{path or f'/vms/{target}.qcow2'}'"
    return DISK.format(kind=kind, form="qcow2", source=words, target=target)


def point(*targets: str, id: str = ID, **values: Any) -> backup.RestorePoint:
    disks = tuple(
        backup.StoredDisk(t, f"{t}.qcow2", "full", "qcow2", GIB, f"/vms/{t}.qcow2") for t in targets
    )
    files = tuple(backup.StoredFile(disk.file, "image", 5 * MIB, "0" * 64) for disk in disks)
    made = backup.RestorePoint(
        id=id, vm="db", uuid=UUID, sequence=1, time="2026-11-24T03:00:00Z", type="full",
        reason="", consistency="offline", files=files, disks=disks,
        started="2026-11-24T03:00:00Z", finished="2026-11-24T03:00:00Z", seconds=1.0,
    )  # fmt: skip
    return backup.sealed(dataclasses.replace(made, **values))


def wish(found: backup.RestorePoint | None = None, **values: Any) -> RestoreWish:
    found = found or point("vda")
    stock = values.pop("stock", Stock("/srv/backup", FOLDER, (found,)))
    if values.get("clone"):
        values = {"name": "copy", "uuid": clone_uuid("r1", "copy"), **values}
    return RestoreWish(**{
        "stock": stock, "repository": "r1", "point": found, "asked": "latest",
        "name": "db", "uuid": UUID, **values
    })  # fmt: skip


def seen(xml: str = "", status: str = "shutoff", **values: Any) -> Seen:
    xml = xml or domain_xml(disk_xml("vda"))
    live = parse_domain(xml)
    disks = tuple(DiskState(disk, (), disk.path) for disk in live.disks)
    vm = VmState("db", UUID, status, values.pop("persistent", True), live, disks, ())
    return Seen(vm, xml, **values)


def absent(name: str = "db", uuid: str = UUID) -> Seen:
    nothing = parse_domain(f"<domain><name>{name}</name><uuid>{uuid}</uuid></domain>")
    return Seen(VmState(name, uuid, ABSENT, False, nothing, (), ()))


def stored(*targets: str, definition: str = "") -> StoredVm:
    chains = {t: (image(f"{FOLDER}/{ID}/{t}.qcow2"),) for t in targets or ("vda",)}
    definition = definition or domain_xml(*(disk_xml(t) for t in chains))
    return StoredVm(definition, chains, dict.fromkeys(chains, 3 * MIB))


def places(free: int = GIB, **values: Any) -> Places:
    return Places({"/vms": DirectoryFact("/vms", free)}, **values)


def steps(plan: Plan) -> list[str]:
    return [step.step for step in plan.steps]


def marker(found: backup.RestorePoint, *disks: tuple[str, str, str]) -> Marker:
    return Marker("r1", UUID, found.id, found.digest, disks)


# --- the plan ---


def test_a_vm_that_is_off() -> None:
    plan = plan_restore(wish(), seen(), stored(), places())
    assert steps(plan) == ["restore_disk", "verify_point", "define_restored"]
    made, _verified, defined = plan.steps
    assert isinstance(made, RestoreDisk) and isinstance(defined, DefineRestored)
    assert made.file == f"/vms/db-vda.{ID}.qcow2" and made.bytes == 3 * MIB
    assert defined.disks == (("vda", made.file, "qcow2"),) and defined.replaced == (
        "/vms/vda.qcow2",
    )


@pytest.mark.parametrize("status", ["running", "paused", "crashed"])
def test_a_vm_that_runs(status: str) -> None:
    with pytest.raises(Conflict, match=f"VM db is {status}"):
        plan_restore(wish(), seen(status=status), stored(), places())
    plan = plan_restore(wish(force=True, start=True), seen(status=status), stored(), places())
    assert steps(plan) == [
        "restore_disk", "verify_point", "stop_vm", "define_restored", "start_vm",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "kind", "said"),
    [
        (seen(managed_save=True), Conflict, "managed save"),
        (seen(status="running", persistent=False), Unsupported, "transient"),
        (seen(domain_xml(disk_xml("vdb"))), NotFound, "no disk vda any more"),
        (
            seen(domain_xml(disk_xml("vda", kind="block", source="dev='/dev/vg/a'"))),
            Unsupported,
            "/dev/vg/a",
        ),
        (
            seen(domain_xml(disk_xml("vda", kind="network", source="protocol='rbd' name='p/a'"))),
            Unsupported,
            "protocol=rbd",
        ),
    ],
)
def test_refused(found: Seen, kind: type[Problem], said: str) -> None:
    with pytest.raises(kind, match=said):
        plan_restore(wish(), found, stored(), places())


@pytest.mark.parametrize(
    "source", ["dev='/dev/vg/a'", "protocol='rbd' name='p/a'", "pool='p' volume='v'"]
)
def test_another_kind_of_source_becomes_a_file_where_a_directory_is_named(source: str) -> None:
    kinds = {"d": "block", "p": "network"}
    kind = "volume" if source.startswith("pool") else kinds[source[0]]
    found = seen(domain_xml(disk_xml("vda", kind=kind, source=source)))
    plan = plan_restore(wish(directory="/vms"), found, stored(), places())
    defined = next(step for step in plan.steps if isinstance(step, DefineRestored))
    assert defined.replaced == ()
    change = Change("db", UUID, {"vda": ("/vms/new.qcow2", "qcow2")})
    root = ET.fromstring(restored_xml(ET.fromstring(found.xml), change, marker(point("vda"))))
    disk = root.find("devices/disk")
    assert disk.get("type") == "file" and disk.find("source").attrib == {"file": "/vms/new.qcow2"}


def test_no_room() -> None:
    with pytest.raises(Unsupported, match=f"/vms has {MIB} bytes free"):
        plan_restore(wish(), seen(), stored(), places(free=MIB))
    waiting = wish(instant=True)
    assert plan_restore(waiting, seen(), stored(), places(free=5 * MIB))
    huge = dataclasses.replace(stored(), room={"vda": 6 * MIB})
    with pytest.raises(Unsupported):
        plan_restore(wish(instant=True, start=True), seen(), huge, places(free=5 * MIB))


def test_a_directory_that_is_not_there() -> None:
    missing = Places({"/vms": DirectoryFact("/vms", trouble="does not exist")})
    with pytest.raises(NotFound, match="the directory /vms does not exist"):
        plan_restore(wish(), seen(), stored(), missing)


def test_names_that_are_taken_and_what_a_dead_run_left() -> None:
    final = f"/vms/db-vda.{ID}.qcow2"
    plan = plan_restore(wish(), seen(), stored(), places(taken=frozenset([final])))
    assert plan.steps[0].file == f"/vms/db-vda.{ID}-1.qcow2"
    draft = Draft("/vms/.vmkeep-restore.x.vda", final)
    there = places(taken=frozenset([final, draft.path]), drafts=(draft,))
    plan = plan_restore(wish(), seen(), stored(), there)
    assert [step.file for step in plan.steps[:3]] == [final, draft.path, final]
    # Defined on it already: only the draft goes.
    used = seen(domain_xml(disk_xml("vda", final)), drafts=(draft,))
    plan = plan_restore(wish(), used, None, Places())
    assert [step.file for step in plan.steps] == [draft.path]


def test_checkpoints_of_ours_are_stale() -> None:
    found = seen(checkpoints=("vmkeep-1", "virtnbdbackup.0"))
    plan = plan_restore(wish(), found, stored(), places())
    assert steps(plan)[-1] == "forget_checkpoint" and plan.steps[-1].name == "vmkeep-1"
    assert "virtnbdbackup.0" in " ".join(plan.notes)


def test_an_overlay_goes_by_the_record_of_the_last_verification() -> None:
    found = point("vda")
    record = {ID: Verified("2026-11-24T04:00:00Z", found.digest)}
    for known, at in (({}, ""), (record, "2026-11-24T04:00:00Z")):
        stock = Stock("/srv/backup", FOLDER, (found,), verified=known)
        plan = plan_restore(wish(found, stock=stock, instant=True), seen(), stored(), places())
        step = next(step for step in plan.steps if isinstance(step, VerifyPoint))
        assert step.recorded == at


def test_a_vm_that_is_gone() -> None:
    with pytest.raises(Problem, match="does not exist any more"):
        both = point("vda", "vdb")
        plan_restore(wish(both, disks=("vda",)), absent(), stored("vda"), places())
    assert steps(plan_restore(wish(), absent(), stored(), places()))[-1] == "define_restored"


def test_a_point_with_trouble() -> None:
    old, new = point("vda", id="20261123T030000Z"), point("vda", sequence=2)
    stock = Stock("/srv/backup", FOLDER, (old, new), troubles={ID: "it is short"})
    with pytest.raises(Damaged, match=r"it is short.*restore from 20261123T030000Z"):
        check_point(wish(new, stock=stock))
    other = point("vda", uuid="00000000-0000-4000-8000-000000000000")
    with pytest.raises(Damaged, match="is of VM 00000000"):
        check_wish(wish(other))


def test_a_manifest_with_a_target_that_leads_elsewhere() -> None:
    made = point("vda")
    disks = tuple(dataclasses.replace(disk, target="../x") for disk in made.disks)
    text = backup.manifest_text(dataclasses.replace(made, disks=disks))
    with pytest.raises(Damaged, match="no proper target"):
        parse_manifest(text, "/x/manifest.json")


def test_the_state_of_a_tpm_goes_where_libvirt_keeps_it() -> None:
    extra = backup.StoredFile("tpm.tpm2-00.permall", "tpm", 10, "0" * 64)
    disks = point("vda")
    found = point("vda", files=(*disks.files, extra))
    device = "<tpm model='tpm-crb'><backend type='emulator'{}/></tpm>"
    for version, folder in (("", "tpm2"), (" version='2.0'", "tpm2"), (" version='1.2'", "tpm1.2")):
        xml = domain_xml(disk_xml("vda"), more=device.format(version))
        plan = plan_restore(wish(found), seen(xml), stored(), places(tpm=f"/swtpm/{UUID}"))
        assert plan.steps[1] == RestoreFile(
            "tpm", f"/swtpm/{UUID}/{folder}/tpm2-00.permall", ID, f"{FOLDER}/{ID}/{extra.name}"
        )
        some = wish(found, disks=("vda",))
        plan = plan_restore(some, seen(xml), stored(), places(tpm="/swtpm"))
        assert "restore_file" not in steps(plan)
    assert "restore_file" not in steps(plan_restore(wish(found), seen(), stored(), places()))


def test_the_state_of_a_tpm_goes_where_the_definition_says_and_a_copy_gets_its_own() -> None:
    extra = backup.StoredFile("tpm.tpm2-00.permall", "tpm", 10, "0" * 64)
    found = point("vda", files=(*point("vda").files, extra))
    device = "<tpm><backend type='emulator'><source type='dir' path='/tpm/db'/></backend></tpm>"
    xml = domain_xml(disk_xml("vda"), more=device)
    plan = plan_restore(wish(found), seen(xml), stored(), places(tpm=f"/swtpm/{UUID}"))
    assert plan.steps[1].file == "/tpm/db/tpm2-00.permall"
    root = ET.fromstring(xml)
    assert (tpm_folder(root), tpm_folder(root, own=True)) == ("/tpm/db", "tpm2")


# --- whether there is anything to do ---


def test_what_counts_as_done() -> None:
    found = point("vda", "vdb")
    mark = marker(found, ("vda", "/vms/vda.qcow2", "s"), ("vdb", "/vms/vdb.qcow2", "s"))
    xml = domain_xml(disk_xml("vda"), disk_xml("vdb"))
    assert is_done(wish(found), seen(xml, marker=mark))
    assert not is_done(wish(found), seen(xml))
    assert not is_done(wish(found), seen(xml, marker=mark, written=frozenset(["vda"])))
    written = seen(xml, marker=mark, written=frozenset(["vda"]))
    assert is_done(wish(found, disks=("vdb",)), written)
    assert is_done(wish(found, clone=True), written)
    running = seen(xml, "running", marker=mark, written=frozenset(["vda"]))
    assert is_done(wish(found), running)
    assert "has run" in plan_restore(wish(found), running, None, Places()).notes[0]


def test_a_marker_of_another_point() -> None:
    found = point("vda")
    for change in (
        {"repository": "r2"}, {"point": "20261123T030000Z"}, {"digest": "1" * 64}, {"vm": "x"},
    ):  # fmt: skip
        other = dataclasses.replace(marker(found, ("vda", "/vms/vda.qcow2", "s")), **change)
        assert not is_done(wish(found), seen(marker=other))
    merged = point("vda", formerly=(found.digest,))
    assert is_done(wish(merged), seen(marker=marker(found, ("vda", "/vms/vda.qcow2", "s"))))


def test_a_marker_is_read_as_it_was_placed() -> None:
    mark = Marker("r1", UUID, ID, "a" * 64, (("vda", '/a <&">', "s"),), ("/b",), ("vmkeep-1",))
    root = ET.fromstring("<domain><metadata><x xmlns='urn:x'/></metadata></domain>")
    place_marker(root, marker(point("vda")))
    place_marker(root, mark)
    again = ET.fromstring(ET.tostring(root))
    assert read_marker(again) == mark
    assert len(again.find("metadata")) == 2


# --- the definition ---


def test_a_vm_under_another_name_shares_nothing() -> None:
    more = """
    <interface type='bridge'><mac address='52:54:00:AA:00:01'/><target dev='vnet0'/></interface>
    <interface type='bridge'/>
    <tpm><backend type='emulator'><source type='dir' path='/tpm/db'/></backend></tpm>
    <serial type='file'><source path='/var/log/db.log'/></serial>
    <console type='pty'><log file='/var/log/db.console' append='on'/></console>
    <channel type='unix'><source mode='bind' path='/run/db.sock'/><target name='a'/></channel>
    <graphics type='vnc' port='5901' autoport='no'><listen type='address'/></graphics>
    <vsock model='virtio'><cid auto='no' address='7'/></vsock>"""
    inside = (
        "<genid>1</genid><os><nvram template='/t'>/nvram/db_VARS.fd</nvram></os>"
        f"<sysinfo type='smbios'><system><entry name='uuid'>{UUID}</entry></system></sysinfo>"
    )
    xml = domain_xml(disk_xml("vda"), disk_xml("vdb"), more=more, inside=inside)
    new = clone_uuid("r1", "copy")
    change = Change(
        "copy", new, {"vda": ("/vms/new", "qcow2")}, frozenset(["vdb"]), clone=True,
        macs=frozenset([next(new_macs(new, ()))]),
    )  # fmt: skip
    text = restored_xml(ET.fromstring(xml), change, marker(point("vda")))
    for old in (UUID + "</uuid>", "AA:00:01", "vnet0", "5901", "/run/db.sock", "/nvram/db_VARS",
                "/vms/vda.qcow2", "/vms/vdb.qcow2", "/vms/old", "backingStore"):  # fmt: skip
        assert old not in text, old
    root = ET.fromstring(text)
    assert (root.findtext("name"), root.findtext("uuid")) == ("copy", new)
    assert root.find("sysinfo/system/entry") is None and not root.findtext("genid")
    assert root.find("os/nvram").get("template") == "/t"
    assert [node.get("path") or node.get("file") for node in root.iterfind("devices/*/*")
            if node.get("path") or (node.tag == "log")] == [
        "/var/log/db.log.copy", "/var/log/db.console.copy",
    ]  # fmt: skip
    assert root.find("devices/tpm/backend/source") is None
    macs = [node.get("address") for node in root.iterfind("devices/interface/mac")]
    assert len(set(macs)) == 2 and not set(macs) & change.macs
    assert root.find("devices/vsock/cid").attrib == {"auto": "yes"}


def test_macs_follow_from_the_uuid() -> None:
    first = list(itertools.islice(new_macs(UUID, ()), 3))
    assert first == list(itertools.islice(new_macs(UUID, ()), 3))
    assert list(itertools.islice(new_macs(UUID, {first[0]}), 2)) == first[1:]


@pytest.mark.parametrize(
    "xml", ["<domain", "<network/>", "<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>"]
)
def test_a_stored_definition_that_libvirt_never_wrote(xml: str) -> None:
    with pytest.raises(Damaged, match="cannot be understood"):
        stored_domain(xml, "x")
