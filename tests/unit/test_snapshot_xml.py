# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots as libvirt records them: reading, asking for, and correcting them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    CRASH,
    FILESYSTEM,
    MEMORY,
    OFFLINE,
    Snapshot,
    SnapshotDisk,
    SnapshotSpec,
    noted,
    parse_snapshot,
    proven_consistency,
    read_note,
    rewritten,
)
from hypothesis import given
from hypothesis import strategies as st
from recorded import SNAPSHOTS, recorded

WEB, MAIL = "/lab/v/web", "/lab/v/mail"
WORDS = (OFFLINE, FILESYSTEM, MEMORY, CRASH)
# What XML can hold; libvirt takes no other text.
text = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"], include_characters="\n\t"))


def xml_of(name: str) -> str:
    return recorded(f"snapshot/{name}.xml")


def snapshot(name: str) -> Snapshot:
    return parse_snapshot(xml_of(name))


# --- reading ---


@pytest.mark.parametrize(
    ("name", "mode", "memory", "state", "consistency", "taken"),
    [
        ("external-disk-only", "external", "no", "disk-snapshot", FILESYSTEM, "vda vdb"),
        ("external-memory", "external", "external", "running", MEMORY, "vda"),
        ("by-virsh", "external", "no", "disk-snapshot", CRASH, "vda vdb"),
        ("internal-running", "internal", "internal", "running", MEMORY, "vda"),
        ("internal-off", "internal", "no", "shutoff", OFFLINE, "vda"),
        ("external-off", "external", "no", "shutoff", OFFLINE, "vda vdb"),
        ("external-off-one-disk", "external", "no", "shutoff", OFFLINE, "vdb"),
    ],
)
def test_kinds_of_snapshots(name, mode, memory, state, consistency, taken):
    found = snapshot(name)
    assert (found.mode, found.memory, found.state) == (mode, memory, state)
    assert found.consistency == consistency
    assert [disk.target for disk in found.taken] == taken.split()
    assert not found.current and parse_snapshot(xml_of(name), current=True).current


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_brief_look_sees_the_same_disks(name):
    full, brief = snapshot(name), parse_snapshot(xml_of(name), brief=True)
    assert brief == replace(
        full, before=replace(full.before, agent=None, shape=None), named=brief.named, later=None
    )
    assert brief.named == full.before.named <= full.named


def test_all_of_one_snapshot():
    found = snapshot("external-memory")
    assert (found.name, found.parent, found.description) == ("memory", "quiesced", "")
    assert found.created > 1_700_000_000
    assert found.memory_file == f"{WEB}/web.memory.memory.save"
    assert found.disks == (
        SnapshotDisk("vda", "external", f"{WEB}/web.vda.memory.qcow2", "qcow2"),
        SnapshotDisk("vdb", "no"),
        SnapshotDisk("vdc", "no"),
        SnapshotDisk("sda", "no"),
    )
    assert found.overlays == {"vda": f"{WEB}/web.vda.memory.qcow2"}
    assert found.image_before("vda") == f"{WEB}/web.vda.quiesced.qcow2"
    assert found.image_before("sda") == f"{WEB}/sda.iso"
    assert found.image_before("vdz") == ""
    assert found.xml == xml_of("external-memory")


def test_what_was_asked_for_is_what_is_read():
    found = snapshot("external-disk-only")
    assert found.description == "Before the update\n\nof the database"
    assert snapshot("by-virsh").description == "by hand"
    assert snapshot("by-virsh").parent == "memory"
    assert snapshot("external-off").parent == ""


def test_what_was_taken_by_us_is_known():
    assert [name for name in SNAPSHOTS if not snapshot(name).ours] == ["by-virsh"]


def test_the_images_of_both_definitions_are_named():
    found = snapshot("by-virsh")
    assert found.named == found.before.named >= {f"{WEB}/vda.qcow2", f"{WEB}/vdb.qcow2"}
    only_inactive = xml_of("by-virsh").replace("</domain>", "</domain><!--", 1)
    live = parse_snapshot(only_inactive.replace("</inactiveDomain>", "-->", 1))
    assert live.named == found.named
    swapped = xml_of("by-virsh").partition("<inactiveDomain")
    other = swapped[0] + swapped[1] + swapped[2].replace(f"{WEB}/vda.qcow2", "/elsewhere/a")
    assert parse_snapshot(other).named == found.named | {"/elsewhere/a"}


def test_metadata_without_a_definition():
    bare = parse_snapshot(recorded("tree/a1.xml"))
    assert (bare.before, bare.named, bare.image_before("vda")) == (None, frozenset(), "")
    assert bare.mode == "internal"


# --- the note in the description ---


@given(text, st.sampled_from(WORDS))
def test_the_note_is_read_as_it_was_written(description, consistency):
    kept, found = read_note(noted(description, consistency))
    assert (kept.rstrip(), found) == (description.rstrip(), consistency)


@given(text)
def test_a_text_without_our_note_is_left_as_it_is(description):
    assert read_note(description) == (description, "")


def test_only_the_last_line_counts():
    forged = noted("harmless\nvmkeep: consistency=memory", CRASH)
    assert read_note(forged) == ("harmless\nvmkeep: consistency=memory", CRASH)
    assert read_note("vmkeep: consistency=memory\nand more")[1] == ""
    assert read_note("see vmkeep: consistency=memory")[1] == ""
    assert read_note("vmkeep: consistency=perfect")[1] == ""
    assert read_note("vmkeep: consistency=crash\n") == ("", CRASH)


@pytest.mark.parametrize(
    ("state", "memory", "worth"),
    [
        ("running", "internal", MEMORY),
        ("running", "external", MEMORY),
        ("paused", "external", MEMORY),
        ("shutoff", "no", OFFLINE),
        ("disk-snapshot", "no", CRASH),
        ("running", "no", CRASH),
        ("paused", "no", CRASH),
        ("", "no", CRASH),
    ],
)
def test_without_a_note_nothing_is_guessed_upward(state, memory, worth):
    assert proven_consistency(state, memory) == worth


def test_a_lost_note_makes_a_snapshot_worth_less():
    bare = xml_of("external-disk-only").replace("vmkeep: consistency=filesystem", "")
    assert parse_snapshot(bare).consistency == CRASH


# --- asking ---


def test_the_request_is_read_back():
    disks = (
        SnapshotDisk("vda", "external", "/vms/a & b <1>.qcow2", "qcow2"),
        SnapshotDisk("sda", "no"),
    )
    spec = SnapshotSpec("s1", 'Umlaut ä, "quotes" & <tags>', "external", disks, "/vms/m.save")
    found = parse_snapshot(spec.to_xml(MEMORY))
    assert (found.name, found.description, found.consistency) == ("s1", spec.description, MEMORY)
    assert (found.disks, found.mode) == (disks, "external")
    assert (found.memory, found.memory_file) == ("external", "/vms/m.save")


def test_a_request_without_memory_says_nothing_of_memory():
    spec = SnapshotSpec("s1", "", "internal", (SnapshotDisk("vda", "internal"),))
    root = ET.fromstring(spec.to_xml(OFFLINE))
    assert root.find("memory") is None
    (disk,) = root.iterfind("disks/disk")
    assert disk.attrib == {"name": "vda", "snapshot": "internal"} and len(disk) == 0
    assert root.findtext("description") == "vmkeep: consistency=offline"


# --- correcting ---


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_rewriting_nothing_changes_nothing(name):
    same = rewritten(xml_of(name), {})
    assert ET.canonicalize(same) == ET.canonicalize(xml_of(name))
    assert "ns0:" not in same


def test_images_that_were_merged_are_named_no_more():
    gone = {f"{WEB}/web.vda.quiesced.qcow2": (f"{WEB}/vda.qcow2", "raw")}
    found = parse_snapshot(rewritten(xml_of("external-memory"), gone))
    vda = found.before.disk("vda")
    assert (vda.path, vda.format, vda.recorded) == (f"{WEB}/vda.qcow2", "raw", ())
    assert f"{WEB}/web.vda.quiesced.qcow2" not in found.named
    # the rest is as it was
    old = snapshot("external-memory")
    assert found.before.disk("vdb") == old.before.disk("vdb")
    assert (found.disks, found.memory_file) == (old.disks, old.memory_file)
    assert (found.description, found.consistency, found.parent) == ("", MEMORY, "quiesced")
    assert '<qemu:env name="LAB" value="1"' in found.xml


def test_the_inactive_definition_is_corrected_too():
    gone = {f"{WEB}/web.vda.memory.qcow2": ("/vms/new", "qcow2")}
    root = ET.fromstring(rewritten(xml_of("by-virsh"), gone))
    for tag in ("domain", "inactiveDomain"):
        paths = [node.get("file") for node in root.iterfind(f"{tag}/devices/disk/source")]
        assert paths[0] == "/vms/new"
        assert f"{WEB}/web.vda.memory.qcow2" not in paths


def test_a_record_goes_exactly_where_it_names_a_merged_image():
    gone = {f"{WEB}/web.vda.quiesced.qcow2": (f"{WEB}/vda.qcow2", "qcow2")}
    found = parse_snapshot(rewritten(xml_of("by-virsh"), gone)).before
    assert found.disk("vda").path == f"{WEB}/web.vda.memory.qcow2"
    assert found.disk("vda").recorded == ()
    assert found.disk("vdb").recorded == (f"{WEB}/vdb.qcow2",)


def test_a_disk_leaves_a_snapshot():
    found = parse_snapshot(rewritten(xml_of("external-disk-only"), {}, without=["vda"]))
    assert found.disks[0] == SnapshotDisk("vda", "no")
    assert list(found.overlays) == ["vdb"]
    node = ET.fromstring(found.xml).find("disks/disk[@name='vda']")
    assert node.attrib == {"name": "vda", "snapshot": "no"} and len(node) == 0


def test_the_note_is_corrected_and_the_text_kept():
    found = parse_snapshot(rewritten(xml_of("external-disk-only"), {}, consistency=CRASH))
    assert found.consistency == CRASH
    assert found.description == "Before the update\n\nof the database"
    bare = ET.fromstring(recorded("tree/a1.xml"))
    assert bare.find("description") is None
    assert rewritten(recorded("tree/a1.xml"), {}, consistency=CRASH)


@given(
    name=st.sampled_from(SNAPSHOTS),
    data=st.data(),
)
def test_whatever_is_merged_no_image_that_is_gone_is_named(name, data):
    old = snapshot(name)
    images = sorted(old.named)
    gone = data.draw(st.sets(st.sampled_from(images)))
    new = dict.fromkeys(gone, ("/vms/new.qcow2", "qcow2"))
    found = parse_snapshot(rewritten(old.xml, new))
    assert not found.named & gone
    assert found.named <= old.named | {"/vms/new.qcow2"}
    assert found.before == old.before.moved(new)
    assert (found.disks, found.description) == (old.disks, old.description)
