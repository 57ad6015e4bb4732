# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where libvirt's record, the definition and the images do not say the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.agree import disagreements
from builders import at, disk, memory_of, snapshot, stacked, vm

KEYS = {"kind", "disk", "file", "snapshot", "message"}


def found(state):
    entries = disagreements(state)
    assert all(set(entry) == KEYS and entry["message"] for entry in entries)
    return [(e["kind"], e["disk"], e["file"], e["snapshot"]) for e in entries]


@pytest.mark.parametrize(
    "healthy",
    [
        vm(),
        stacked("s1", "s2", targets="vda vdb", memory="external"),
        stacked("s1", status="shutoff"),
        vm(disk("vda", "s1 base", persistent=""), snapshots=[snapshot("s1")], persistent=False),
        vm(disk("vda"), disk("sda", "", device="cdrom", readonly=True)),
        vm(disk("vda"), disk("sda", device="cdrom", trouble="it has no source")),
        vm(snapshots=[snapshot("inside", mode="internal", memory="internal")]),
        # a disk that the snapshot does not cover, and one that is no longer there
        vm(disk("vda"), disk("vdb", "s1 base"), snapshots=[snapshot("s1", {"vdb": "base"})]),
        vm(disk("vda"), snapshots=[snapshot("s1", {"vdz": "base"}, current=True)]),
    ],
)
def test_a_healthy_vm_has_none(healthy):
    assert found(healthy) == []


def test_an_overlay_without_a_snapshot():
    state = vm(disk("vda", "s2 byhand s1 base"), snapshots=[snapshot("s1"), snapshot("s2")])
    assert found(state) == [("overlay_without_snapshot", "vda", at("vda", "byhand"), "")]


def test_an_overlay_is_known_by_its_real_path_too():
    linked = disk("vda", "/link/s1 base", images={"/link/s1": {"real": at("vda", "s1")}})
    assert found(vm(linked, snapshots=[snapshot("s1")])) == []


def test_a_snapshot_without_its_overlay():
    state = vm(disk("vda"), snapshots=[snapshot("s1", current=True)])
    assert found(state) == [("snapshot_without_overlay", "vda", at("vda", "s1"), "s1")]


def test_an_ancestor_of_the_current_one_without_its_overlay():
    state = stacked("s1", "s2")
    state = replace(state, disks=(disk("vda", "s2 base"),))
    assert found(state) == [("snapshot_without_overlay", "vda", at("vda", "s1"), "s1")]


def test_overlays_of_another_branch_are_not_expected_in_the_chain():
    left, right = snapshot("left", parent="s0"), snapshot("right", parent="s0", current=True)
    state = vm(disk("vda", "right base"), snapshots=[snapshot("s0", mode="internal"), left, right])
    assert found(state) == []


def test_a_circle_of_parents_ends():
    a, b = snapshot("a", parent="b", current=True), snapshot("b", parent="a")
    assert len(found(vm(snapshots=[a, b]))) == 2


def test_missing_files():
    state = stacked("s1", memory="external")
    state = replace(state, missing=frozenset([at("vda", "s1"), memory_of("s1")]))
    assert found(state) == [
        ("missing_file", "vda", at("vda", "s1"), "s1"),
        ("missing_file", "", memory_of("s1"), "s1"),
    ]


def test_a_definition_that_differs():
    state = vm(disk("vda", "s1 base", persistent="base"), snapshots=[snapshot("s1")])
    assert found(state) == [("definition_differs", "vda", at("vda", "base"), "")]


def test_an_unreadable_chain():
    state = vm(disk("vda", trouble="it is torn"), snapshots=[snapshot("s1", current=True)])
    assert found(state) == [("unreadable_chain", "vda", at("vda", "base"), "")]
    assert "it is torn" in disagreements(state)[0]["message"]
