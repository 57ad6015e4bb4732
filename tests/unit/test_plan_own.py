# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which image is a VM's own disk, and that nothing below it is written unless it is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import parse_domain
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    BadInput,
    Conflict,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import VmState
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CommitDisk,
    PullDisk,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.agree import disagreements
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.own import own_disk
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.pull import (
    PullWish,
    plan_pull,
)
from builders import NAME, at, disk, of, snapshot, vm

DISK, CLOUD = "/vms/db.qcow2", "/vms/cloud.qcow2"


def clone(*names: str, records: str | None = None, stacked: str = "", **values: object) -> VmState:
    """A thin clone with external snapshots upon each other; ``records`` of these are there."""
    words = [*reversed(names), DISK, CLOUD]
    on = dict(zip(names, [DISK, *names]))
    kept = names if records is None else records.split()
    taken = [snapshot(name, {"vda": on[name]}, created=n) for n, name in enumerate(kept)]
    return vm(disk("vda", " ".join(words), stacked=stacked, **values), snapshots=taken)


@pytest.mark.parametrize(
    ("before", "own", "doubt"),
    [
        # what the VM was defined on before its first snapshot
        (clone(), DISK, False),
        (clone("s1"), DISK, False),
        (clone("s1", "s2"), DISK, False),
        # the record of the first is gone: its overlay is named so, but nothing else says so
        (clone("s1", "s2", records="s2"), "s1", True),
        (clone("s1", records=""), "s1", True),
        # libvirt's definition says what the disk was before
        (clone("s1", records="", stacked=f"s1 {DISK}"), DISK, False),
        (clone("s1", "s2", records="", stacked=f"s2 s1 {DISK}"), DISK, False),
        (clone("s1", "s2", records="s2", stacked=f"s2 s1 {DISK}"), DISK, False),
        # the one between was merged away by hand
        (clone("s2", records="", stacked=f"s2 s1 {DISK}"), DISK, False),
        # a definition alone is no proof: somebody wrote the template into it
        (clone(stacked=f"{DISK} {CLOUD}"), DISK, True),
        # what libvirt calls an overlay
        (vm(disk("vda", "/vms/db.loose /vms/db.qcow2")), "/vms/db.loose", True),
        (vm(disk("vda", "/vms/a.db /vms/b.qcow2")), "/vms/a.db", False),
        (vm(disk("vda", "/vms/a.db.img /vms/a.db.qcow2")), "/vms/a.db.img", False),
        (
            vm(disk("vda", "/vms/db.x /vms/db.qcow2", stacked="/vms/db.x /vms/db.qcow2")),
            "/vms/db.qcow2",
            False,
        ),
        # what a snapshot goes back to is in the chain no more
        (vm(disk("vda", f"s1 {CLOUD}"), snapshots=[snapshot("s1", {"vda": DISK})]), "s1", True),
        # beside the present state, another branch
        (vm(disk("vda", f"r1 {DISK} {CLOUD}"), snapshots=[snapshot("s1", {"vda": DISK})]),
         DISK, False),
        # an internal snapshot lies in what the VM was defined on, too
        (vm(disk("vda", f"s1 {DISK} {CLOUD}"),
            snapshots=[snapshot("i", {"vda": DISK}, mode="internal")]), DISK, False),
    ],
)  # fmt: skip
def test_what_the_own_disk_is(before, own, doubt):
    found = own_disk(before, before.disk("vda"))
    assert before.disk("vda").files[found.depth] == at("vda", own)
    assert found.doubt == doubt


def test_nothing_below_it_is_written():
    plan = plan_commit(CommitWish(), clone("s1", "s2"))
    (step,) = of(CommitDisk, plan)
    assert (step.merged, step.base) == ((at("vda", "s2"), at("vda", "s1")), DISK)
    none = plan_commit(CommitWish(), clone())
    assert none.steps == () and DISK in none.notes[0] and CLOUD in none.notes[0]
    named = plan_commit(CommitWish(base=CLOUD), clone("s1"))
    assert [step.base for step in of(CommitDisk, named)] == [CLOUD]


def test_depth_counts_from_the_own_disk():
    assert plan_commit(CommitWish(max_depth=3), clone("s1", "s2")).steps == ()
    (step,) = of(CommitDisk, plan_commit(CommitWish(max_depth=2), clone("s1", "s2")))
    assert (step.merged, step.base) == ((at("vda", "s1"),), DISK)
    keeping = CommitWish(max_depth=2, keep=True)
    assert of(CommitDisk, plan_commit(keeping, clone("s1", "s2"))) == [step]
    assert plan_commit(CommitWish(keep=True), clone()) == plan_commit(keeping, clone())


@pytest.mark.parametrize(
    ("wish", "pulled", "base"),
    [
        (PullWish(), ["s1", DISK, CLOUD], ""),
        (PullWish(max_depth=1), ["s1", DISK], CLOUD),
        (PullWish(max_depth=2), ["s1"], DISK),
        (PullWish(max_depth=3), None, DISK),
        (PullWish(base=CLOUD), ["s1", DISK], CLOUD),
    ],
)
def test_a_pull_to_a_depth_leaves_the_template(wish, pulled, base):
    before = clone("s1", "s2")
    found = [(s.pulled, s.base) for s in of(PullDisk, plan_pull(wish, before))]
    assert found == ([(tuple(at("vda", word) for word in pulled), base)] if pulled else [])
    assert plan_pull(PullWish(max_depth=1), clone()).steps == ()


def test_a_pull_leaves_what_may_be_a_template_and_says_so():
    plan = plan_pull(PullWish(max_depth=1), clone("s1", "s2", records="s2"))
    (step,) = of(PullDisk, plan)
    assert (step.pulled, step.base) == ((at("vda", "s1"),), DISK)
    (note,) = plan.notes
    assert f"{DISK} was taken for a template" in note and at("vda", "s1") in note
    assert plan_pull(PullWish(), clone("s1", "s2", records="s2")).notes == ()


@pytest.mark.parametrize("top", ["s1", "s2"])
def test_with_a_top_the_own_disk_is_the_base(top):
    (step,) = of(CommitDisk, plan_commit(CommitWish(top=at("vda", top)), clone("s1", "s2")))
    assert (step.top, step.base) == (at("vda", top), DISK)


@pytest.mark.parametrize("top", [DISK, CLOUD])
def test_the_own_disk_as_top_needs_a_base(top):
    with pytest.raises(BadInput, match="is not above the own disk") as found:
        plan_commit(CommitWish(top=top), clone("s1"))
    assert "'base'" in found.value.todo
    if top == DISK:
        (step,) = of(CommitDisk, plan_commit(CommitWish(top=DISK, base=CLOUD), clone("s1")))
        assert (step.merged, step.base) == ((DISK,), CLOUD)


def test_where_it_cannot_be_known_both_are_named_and_the_advice_leads_on():
    before = clone("s1", records="")
    overlay = at("vda", "s1")
    with pytest.raises(Conflict) as found:
        plan_commit(CommitWish(), before)
    assert overlay in found.value.found and DISK in found.value.found
    assert f"'base: {DISK}'" in found.value.todo and f"'base: {overlay}'" in found.value.todo
    (step,) = of(CommitDisk, plan_commit(CommitWish(("vda",), base=DISK), before))
    assert (step.merged, step.base) == ((overlay,), DISK)
    assert plan_commit(CommitWish(("vda",), base=overlay), before).steps == ()
    # as long as there is nothing to merge whichever it is, nobody has to say
    assert plan_commit(CommitWish(max_depth=2), before).steps == ()
    # what keeps chains short goes on with the others, and says so
    (note,) = plan_commit(CommitWish(keep=True), before).notes
    assert overlay in note and DISK in note
    above = clone("s1", "s2", records="s2")
    (step,) = of(CommitDisk, plan_commit(CommitWish(keep=True), above))
    assert (step.merged, step.base) == ((at("vda", "s2"),), overlay)


def test_a_clone_is_no_disagreement():
    def overlays(before):
        return [entry["file"] for entry in disagreements(before)]

    assert overlays(clone()) == overlays(clone("s1")) == []
    assert overlays(clone("s1", records="")) == [at("vda", "s1")]
    assert overlays(clone("s1", records="", stacked=f"s1 {DISK}")) == [at("vda", "s1")]


BELOW = """
      <backingStore type='file'>
        <format type='qcow2'/>
        <source file='/vms/db.vda.s1.qcow2'/>
        <backingStore type='file'>
          <format type='qcow2'/>
          <source file='/vms/db.qcow2'/>{}
        </backingStore>
      </backingStore>"""


def definition(below: str) -> str:
    return f"""
  <domain type='kvm'><name>{NAME}</name><devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/vms/db.vda.s2.qcow2'/>{below}
      <target dev='vda' bus='virtio'/>
    </disk></devices></domain>"""


@pytest.mark.parametrize(
    ("below", "stacked"),
    [
        ("", 0),
        ("<backingStore/>", 0),
        (BELOW.format(""), 3),
        # what a running VM shows, and what is defined from that
        (BELOW.format("<backingStore/>"), 0),
    ],
)
def test_what_libvirt_has_put_upon_each_other(below, stacked):
    found = parse_domain(definition(below)).disk("vda")
    everything = ("/vms/db.vda.s2.qcow2", "/vms/db.vda.s1.qcow2", "/vms/db.qcow2")
    assert found.stacked == everything[:stacked]


def test_a_link_is_as_good_as_its_image():
    linked = disk("vda", f"s1 {DISK} {CLOUD}", images={DISK: {"real": "/real"}})
    before = vm(linked, snapshots=[snapshot("s1", {"vda": "/real"})])
    assert own_disk(before, before.disk("vda")).depth == 1


def test_a_snapshot_without_a_definition_tells_nothing():
    before = clone("s1")
    before = replace(before, snapshots=tuple(replace(s, before=None) for s in before.snapshots))
    found = own_disk(before, before.disk("vda"))
    assert (found.depth, found.doubt) == (0, True)
