# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domain XML that libvirt wrote: what is read of it, and what is left of it when disks move."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import (
    Definition,
    Disk,
    Mirror,
    Source,
    domain_with_sources,
    local_source,
    parse_domain,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.xml_text import (
    xml_root,
    xml_text,
)
from hypothesis import given
from hypothesis import strategies as st
from recorded import DOMAINS, recorded

WEB = "/lab/v/web"


def domain(name: str) -> Definition:
    return parse_domain(recorded(f"domain/{name}.xml"))


# --- reading ---


@pytest.mark.parametrize("name", DOMAINS)
def test_a_brief_look_sees_the_same_disks(name: str):
    xml = recorded(f"domain/{name}.xml")
    assert parse_domain(xml, brief=True) == replace(parse_domain(xml), agent=None, shape=None)


def test_a_brief_look_at_a_vm_without_disks():
    metadata = "<metadata><own:x xmlns:own='urn:x'><own:disk/></own:x></metadata>"
    xml = f"<domain id='1'><name>bare</name>{metadata}<devices><emulator/></devices></domain>"
    assert parse_domain(xml, brief=True) == replace(parse_domain(xml), shape=None)


def test_a_running_vm():
    web = domain("running")
    assert (web.name, web.active, web.agent, web.nvram) == ("web", True, "connected", "")
    assert len(web.uuid) == 36
    assert [(d.target, d.device, d.readonly, d.writable) for d in web.disks] == [
        ("vda", "disk", False, True),
        ("vdb", "disk", False, True),
        ("vdc", "disk", True, False),
        ("sda", "cdrom", True, False),
    ]
    vda = web.disk("vda")
    assert vda == Disk("vda", "disk", Source("file", f"{WEB}/vda.qcow2"), "qcow2")
    assert web.disk("sda").format == "raw"
    assert web.disk("vdz") is None


def test_the_same_vm_off():
    off = domain("off")
    assert not off.active
    assert off.agent == "disconnected"
    assert off.disks == domain("running").disks == domain("running-inactive").disks


def test_images_below_the_source_are_recorded():
    for name in ("after-external", "after-external-inactive"):
        vda = domain(name).disk("vda")
        assert vda.path == f"{WEB}/web.vda.quiesced.qcow2"
        assert vda.recorded == (f"{WEB}/vda.qcow2",)
    assert domain("after-external").named == {
        f"{WEB}/{file}"
        for file in (
            "web.vda.quiesced.qcow2",
            "web.vdb.quiesced.qcow2",
            "vda.qcow2",
            "vdb.qcow2",
            "vdc.qcow2",
            "sda.iso",
        )
    }


def test_jobs_that_are_ready():
    web = domain("mirrors-ready")
    assert web.disk("vda").mirror == Mirror("active-commit", f"{WEB}/vda.qcow2", "yes")
    assert web.disk("vda").mirror.is_ready
    assert web.disk("vdb").mirror == Mirror("copy", f"{WEB}/copy.qcow2", "yes")
    assert web.disk("vdc").mirror is None
    assert web.disk("vda").recorded == (
        f"{WEB}/web.vda.memory.qcow2",
        f"{WEB}/web.vda.quiesced.qcow2",
        f"{WEB}/vda.qcow2",
    )


def test_a_job_that_is_not_ready_yet():
    xml = recorded("domain/mirrors-ready.xml")
    vda = parse_domain(xml.replace(" job='active-commit' ready='yes'", "")).disk("vda")
    assert vda.mirror == Mirror("copy", f"{WEB}/vda.qcow2", "")
    assert not vda.mirror.is_ready


def test_no_agent_channel():
    assert domain("off-after-external").agent == "disconnected"
    assert domain("defined-only").agent is None


@pytest.mark.parametrize(
    ("target", "source", "local", "writable", "shown"),
    [
        ("vda", Source("block", "/dev/vg/block"), True, True, "/dev/vg/block"),
        ("sda", Source("block", "/dev/sdx"), True, True, "/dev/sdx"),
        (
            "vdb",
            Source("network", "", "protocol=rbd name=pool/image"),
            False,
            True,
            "network protocol=rbd name=pool/image",
        ),
        (
            "vdc",
            Source("volume", "", "pool=default volume=data.qcow2"),
            False,
            True,
            "volume pool=default volume=data.qcow2",
        ),
        ("vdd", Source("file", "/lab/shared.img"), True, True, "/lab/shared.img"),
        ("vde", Source("file", "/lab/sliced.img", sliced=True), False, True, "/lab/sliced.img"),
        ("vdf", Source("file", "/lab/overlay.qcow2"), True, True, "/lab/overlay.qcow2"),
        ("fda", Source("file", "/lab/floppy.img"), True, False, "/lab/floppy.img"),
    ],
)
def test_kinds_of_sources(target, source, local, writable, shown):
    disk = domain("defined-only").disk(target)
    assert disk.source == source
    assert (disk.source.local, disk.writable, str(disk.source)) == (local, writable, shown)


def test_what_else_a_disk_can_be():
    kinds = domain("defined-only")
    assert [d.target for d in kinds.disks if d.shareable] == ["vdd"]
    assert [d.target for d in kinds.disks if d.device == "lun"] == ["sda"]
    assert kinds.disk("sdb") == Disk("sdb", "cdrom", None, "raw", readonly=True)
    assert kinds.disk("sdb").path == ""
    assert not kinds.disk("sdb").writable
    assert kinds.disk("vdf").recorded == ("/lab/middle.qcow2", "/dev/vg/base")
    assert not kinds.active


def test_what_libvirt_leaves_out_has_a_default():
    bare = parse_domain("<domain><devices><disk><target/></disk></devices></domain>")
    assert replace(bare, shape=()) == Definition("", "", False, (Disk("", "disk", None, "raw"),))


# --- moving disks to other images ---

MOVES = {f"{WEB}/web.vda.quiesced.qcow2": ("/new/vda.raw", "raw")}


def disk_node(xml: str, target: str) -> ET.Element:
    return ET.fromstring(xml).find(f"devices/disk/target[@dev='{target}']/..")


def test_a_source_moves_and_its_record_goes():
    before = recorded("domain/after-external.xml")
    after = domain_with_sources(before, MOVES)
    vda = parse_domain(after).disk("vda")
    assert (vda.path, vda.format, vda.recorded) == ("/new/vda.raw", "raw", ())
    assert disk_node(after, "vda").find("backingStore") is None
    # another disk keeps everything
    assert ET.tostring(disk_node(after, "vdb")) == ET.tostring(disk_node(before, "vdb"))


def test_a_record_goes_exactly_where_it_names_an_image_that_is_gone():
    before = recorded("domain/mirrors-ready.xml")
    after = domain_with_sources(before, {f"{WEB}/web.vda.quiesced.qcow2": ("/x", "qcow2")})
    vda, vdb = parse_domain(after).disk("vda"), parse_domain(after).disk("vdb")
    assert (vda.path, vda.recorded) == (f"{WEB}/web.vda.memory.byhand", ())
    assert vdb == parse_domain(before).disk("vdb") and len(vdb.recorded) == 2


def test_a_file_becomes_a_block_device_and_back():
    xml = recorded("domain/running.xml")
    block = domain_with_sources(xml, {f"{WEB}/vda.qcow2": ("/dev/vg/lv", "raw")})
    node = disk_node(block, "vda")
    assert (node.get("type"), node.find("source").get("dev")) == ("block", "/dev/vg/lv")
    assert node.find("source").get("file") is None
    back = domain_with_sources(block, {"/dev/vg/lv": (f"{WEB}/vda.qcow2", "qcow2")})
    assert parse_domain(back).disks == parse_domain(xml).disks
    assert local_source("/dev/vg/lv").kind == "block" and local_source("/devices").kind == "file"


def test_a_disk_without_a_driver_gets_one():
    xml = "<domain><devices><disk type='file'><source file='/a'/></disk></devices></domain>"
    (disk,) = parse_domain(domain_with_sources(xml, {"/a": ("/b", "qcow2")})).disks
    assert (disk.path, disk.format) == ("/b", "qcow2")


def test_what_has_no_path_stays():
    xml = recorded("domain/defined-only.xml")
    moved = domain_with_sources(xml, {"": ("/wrong", "raw")})
    assert parse_domain(moved) == parse_domain(xml)
    assert parse_domain(xml).moved({"": ("/wrong", "raw")}) == parse_domain(xml)


def test_all_else_in_the_definition_is_kept():
    before = ET.fromstring(recorded("domain/after-external.xml"))
    after = ET.fromstring(domain_with_sources(recorded("domain/after-external.xml"), MOVES))
    for tree in (before, after):
        devices = tree.find("devices")
        devices.remove(devices.find("disk/target[@dev='vda']/.."))
    assert ET.canonicalize(ET.tostring(before)) == ET.canonicalize(ET.tostring(after))


def test_the_usual_prefixes_are_kept():
    after = domain_with_sources(recorded("domain/running.xml"), MOVES)
    assert '<qemu:env name="LAB" value="1"' in after
    assert '<libosinfo:os id="http://debian.org/debian/12"' in after
    assert "ns0:" not in after


@given(data=st.data(), name=st.sampled_from(DOMAINS))
def test_the_value_foretells_what_the_xml_will_say(data, name):
    xml = recorded(f"domain/{name}.xml")
    images = sorted(parse_domain(xml).named - {""})
    new = st.tuples(st.sampled_from(["/new/a", "/dev/b"]), st.sampled_from(["raw", "qcow2"]))
    moves = data.draw(st.dictionaries(st.sampled_from(images), new))
    assert parse_domain(domain_with_sources(xml, moves)) == parse_domain(xml).moved(moves)


def test_which_images_the_definition_has_keys_for():
    """Beside the source in old definitions, in it in new ones; below it, too."""
    key = "<encryption format='luks'><secret type='passphrase' uuid='x'/></encryption>"
    xml = f"""<domain><name>a</name><devices>
      <disk type='file'><source file='/new'>{key}</source><target dev='vda'/></disk>
      <disk type='file'><source file='/old'/>{key}<target dev='vdb'/></disk>
      <disk type='file'><source file='/over'/><target dev='vdc'/>
        <backingStore type='file'><format type='raw'/><source file='/below'>{key}</source>
        </backingStore></disk>
      <disk type='file'><source file='/plain'/><target dev='vdd'/></disk>
    </devices></domain>"""
    found = {disk.target: disk.encrypted for disk in parse_domain(xml).disks}
    assert found == {"vda": ("/new",), "vdb": ("/old",), "vdc": ("/below",), "vdd": ()}


def test_a_carriage_return_in_a_name_is_kept():
    """libvirt writes it as it is, which a parser has to take for a line end."""
    assert xml_root("<name>a\rb</name>").text == "a\rb"
    assert xml_root(xml_text(xml_root("<name>a&#13;b</name>"))).text == "a\rb"
