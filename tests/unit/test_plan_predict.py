# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture that a person compares, and predictions that test_plan_history.py cannot see."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import Source
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    CRASH,
    FILESYSTEM,
    MEMORY,
    OFFLINE,
    parse_snapshot,
    rewritten,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CreateOverlay,
    ForgetSnapshot,
    Plan,
    ResumeVm,
    RewriteSnapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.picture import picture
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.snapshot import (
    SnapshotWish,
    plan_present,
)
from builders import at, disk, snapshot, stacked, vm
from recorded import SNAPSHOTS, recorded


def test_a_picture():
    state = stacked("s1", "s2", targets="vda vdb")
    assert picture(state) == (
        "VM db\n"
        "  vda: /vms/db.vda.base.qcow2 <- /vms/db.vda.s1.qcow2 <- /vms/db.vda.s2.qcow2\n"
        "  vdb: /vms/db.vdb.base.qcow2 <- /vms/db.vdb.s1.qcow2 <- /vms/db.vdb.s2.qcow2\n"
        "  snapshots:\n"
        "    s1\n"
        "      |\n"
        "      +- s2 *\n"
    )


def test_a_picture_of_little():
    remote = disk("vdb", "", trouble="remote", source=Source("network", "", "name=pool/image"))
    iso = disk("sda", device="cdrom", readonly=True)
    assert picture(vm(disk("vda"), remote, iso)) == (
        "VM db\n  vda: /vms/db.vda.base.qcow2\n  vdb: network name=pool/image\n"
        "  sda: /vms/db.sda.base.qcow2 (cdrom)\n  snapshots: none\n"
    )


def test_nothing_to_do_changes_nothing():
    state = stacked("s1")
    assert predict(state, Plan("db")) == state
    created = CreateOverlay("vda", "/vms/new", at("vda", "s1"), "qcow2", 1)
    beside = predict(state, Plan("db", (created,)))
    assert replace(beside, branches=()) == state, "it is in no chain yet"
    assert [image.filename for image in beside.branches[0]] == ["/vms/new", *state.disks[0].files]
    assert predict(state, Plan("db", (ForgetSnapshot("unknown"),))) == state


def test_a_vm_that_is_resumed_runs():
    """A plan for it may freeze: in check mode as well as in a real run."""
    paused = vm(status="paused")
    resumed = predict(paused, Plan("db", (ResumeVm(),)))
    wish = SnapshotWish("s1", quiesce="required")
    assert plan_present(wish, resumed).steps[-1].quiesce == "required"


@pytest.mark.parametrize(
    ("wish", "status", "state", "memory", "consistency"),
    [
        (SnapshotWish("s", quiesce="required"), "running", "disk-snapshot", "no", FILESYSTEM),
        (SnapshotWish("s", quiesce="never"), "running", "disk-snapshot", "no", CRASH),
        (SnapshotWish("s"), "running", "disk-snapshot", "no", ""),
        (SnapshotWish("s", memory=True), "running", "running", "external", MEMORY),
        (SnapshotWish("s", memory=True), "paused", "paused", "external", MEMORY),
        (SnapshotWish("s", mode="internal"), "running", "running", "internal", MEMORY),
        (SnapshotWish("s", mode="internal"), "shutoff", "shutoff", "no", OFFLINE),
        (SnapshotWish("s"), "shutoff", "shutoff", "no", OFFLINE),
    ],
)
def test_what_a_new_snapshot_will_be(wish, status, state, memory, consistency):
    before = stacked("old", status=status)
    taken = predict(before, plan_present(wish, before)).snapshot("s")
    assert (taken.state, taken.memory, taken.consistency) == (state, memory, consistency)
    assert (taken.parent, taken.current, taken.created) == ("old", True, 101)
    assert taken.image_before("vda") == at("vda", "old")


def test_a_new_snapshot_after_a_merge_goes_back_to_where_the_disk_is_then():
    before = stacked("s1")
    merged = predict(before, plan_commit(CommitWish(), before))
    taken = predict(merged, plan_present(SnapshotWish("s2"), merged)).snapshot("s2")
    assert taken.image_before("vda") == at("vda", "base")


def test_a_block_device_stays_one():
    before = vm(disk("vda", "s1 /dev/vg/lv"), snapshots=[snapshot("s1", {"vda": "/dev/vg/lv"})])
    after = predict(before, plan_commit(CommitWish(), before)).disk("vda")
    assert after.disk.source == Source("block", "/dev/vg/lv")


def test_a_definition_that_differs_stays_where_it_is():
    before = vm(disk("vda", "s2 s1 base", persistent="base"))
    plan = plan_commit(CommitWish(base=at("vda", "s1")), before)
    assert predict(before, plan).disk("vda").persistent == at("vda", "base")


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_rewritten_snapshot_is_foretold_as_libvirt_will_show_it(name):
    """But for images that only its inactive definition records: some more may be foretold."""
    old = parse_snapshot(recorded(f"snapshot/{name}.xml"))
    point = old.image_before("vda")
    step = RewriteSnapshot(old.name, ((point, "/vms/new.qcow2", "qcow2"),), ("vda",))
    state = replace(vm(), snapshots=(old, snapshot("other")))
    found, other = predict(state, Plan("db", (step,))).snapshots
    real = parse_snapshot(
        rewritten(old.xml, {point: ("/vms/new.qcow2", "qcow2")}, without=("vda",))
    )
    assert (found.before, found.disks) == (real.before, real.disks)
    assert real.named <= found.named and point not in found.named
    assert other == snapshot("other")
