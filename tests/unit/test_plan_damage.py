# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot is called whole exactly as long as it holds what it held when it was taken.

Histories with what others do by hand are played on the model of a hypervisor in world.py, which
knows what each snapshot would bring back.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._flow.stamping import (
    Stamps,
    sound_before,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Conflict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stamp import (
    Seen,
    Stamp,
    written,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import VmState
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.damage import (
    damages,
    way_on,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.revert import (
    RevertWish,
    plan_reverted,
)
from builders import FOLDER, at, disk, memory_of, snapshot, stacked, vm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_plan_history import (
    NAMES,
    TARGETS,
    Event,
    Plan,
    PlanFor,
    SnapshotWish,
    carry_out,
    plan_of,
    planned,
    takes,
    wishes,
)
from world import Broken, Content, World

# --- what stands where tells, where there are no stamps ---


def lost(state: VmState, name: str) -> str:
    found = state.snapshot(name)
    assert found is not None
    return "; ".join(damages(state, found))


def on(state: VmState, *chains: str, missing: tuple[str, ...] = ()) -> VmState:
    """The VM with its disks on other chains, and what snapshots go back to beside them."""
    disks = tuple(disk(old.target, chain) for old, chain in zip(state.disks, chains))
    branches = tuple(
        tuple(image for image in old.chain if image.filename != old.disk.path)
        for old in state.disks
    )
    return replace(state, disks=disks, branches=branches, missing=frozenset(missing))


STACK = stacked("s1", "s2", "s3", targets="vda")


def test_a_stack_is_whole():
    assert not any(lost(STACK, name) for name in ("s1", "s2", "s3"))


def test_merged_to_the_bottom_all_points_are_lost():
    state = on(STACK, "base")
    base = at("vda", "base")
    assert lost(state, "s1") == (
        f"its overlay {at('vda', 's1')} is no longer in the chain of vda, so image {base} no longer"
        " holds that point"
    )
    for name in ("s2", "s3"):
        found = lost(state, name)
        assert f"image {base}, on which that point of vda stands, is the active image of vda" in (
            found
        )


def test_another_disk_that_writes_to_an_image_of_the_point_counts_too():
    state = replace(STACK, disks=(*STACK.disks, disk("vdb", at("vda", "s1"))))
    assert lost(state, "s1") == ""
    assert f"image {at('vda', 's1')}, which held that point of vda, is the active image of vdb" in (
        lost(state, "s2")
    )
    assert f"image {at('vda', 's1')}, on which that point of vda" in lost(state, "s3")
    read_only = disk("vdb", at("vda", "s1"), readonly=True)
    assert lost(replace(STACK, disks=(*STACK.disks, read_only)), "s2") == ""


def test_a_merge_below_the_top_takes_the_points_that_it_passed():
    state = on(STACK, "s3 s1 base")
    assert lost(state, "s1") == "" and lost(state, "s3") == ""
    assert "its overlay" in lost(state, "s2")
    state = on(STACK, "s3 base")
    assert "its overlay" in lost(state, "s1") and lost(state, "s3") == ""
    assert f"carries {at('vda', 's3')} now" in lost(state, "s2")


def test_an_image_below_that_is_gone_is_named():
    """The chain cannot be read then; the stamps tell what was in it."""
    found = replace(
        snapshot("s2", {"vda": "s1"}),
        stamps=tuple(Stamp(at("vda", word)) for word in ("s1", "base")),
    )
    state = vm(disk("vda", "other"), snapshots=(found,), missing=(at("vda", "base"),))
    assert lost(state, "s2") == (
        f"image {at('vda', 'base')}, on which that point of vda stands, is gone"
    )


def test_the_memory_counts():
    found = snapshot("s1", memory="external")
    state = vm(disk("vda", "s1 base"), snapshots=(found,), missing=(memory_of("s1"),))
    assert lost(state, "s1") == f"its memory file {memory_of('s1')} is gone"


def test_memory_that_is_none_of_that_point():
    found = snapshot("s1", memory="external")
    state = vm(disk("vda", "s1 base"), snapshots=(found,))
    file = memory_of("s1")
    swapped = replace(state, seen=(Seen("s1", file, True, 7, 8),))
    assert f"its memory file {file} was last written to at" in lost(swapped, "s1")
    assert f"touch --date=@0.000000007 {file}" in way_on(swapped, found)
    unfit = replace(swapped, unfit=((file, "it is of VM web01"),))
    assert lost(unfit, "s1") == f"its memory file {file} is no save of it: it is of VM web01"
    assert "touch" not in way_on(unfit, found)


def test_a_record_that_names_a_lower_image_than_it_was_taken_of():
    """libvirt does that to it when the record of the one below is deleted."""
    found = snapshot("s2", {"vda": "base"})
    stamps = (
        Stamp(at("vda", "s1"), 1, 1, 1, tables="t", backing=at("vda", "base")),
        Stamp(at("vda", "base"), 1, 1, 1, tables="t"),
    )
    found = replace(found, stamps=stamps)
    seen = tuple(Seen("s2", stamp.image, False) for stamp in stamps)
    state = replace(vm(disk("vda", "s2 s1 base"), snapshots=[found]), seen=seen)
    assert f"that point of vda is in {at('vda', 's1')}" in lost(state, "s2")
    assert Stamps(state, set(), loose=False).of(found) == stamps
    # our own merge has rewritten it, and has made the stamp of the base out of date
    assert "that point of vda is in" not in lost(replace(state, seen=seen[:1]), "s2")


def test_a_file_with_the_data_of_an_image_counts():
    images = {"base": {"data_file": "db01.raw"}}
    state = vm(disk("vda", "s1 base", images=images), snapshots=[snapshot("s1")])
    data = f"{FOLDER}/db01.raw"
    assert lost(state, "s1") == ""
    seen = replace(state, seen=(Seen("s1", at("vda", "base"), False), Seen("s1", data, True, 7, 8)))
    assert f"{data}, which holds the data of {at('vda', 'base')}, was last" in lost(seen, "s1")
    assert f"touch --date=@0.000000007 {data}" in way_on(seen, seen.snapshots[0])
    # what our own merge writes there makes it no worse
    plan = plan_commit(CommitWish(), replace(seen, seen=(Seen("s1", data, False),)))
    assert ("s1", data) in sound_before(replace(seen, seen=(Seen("s1", data, False),)), plan.steps)


# --- stamps tell more ---

SECOND = 1_000_000_000


def seeing(state: VmState, name: str, word: str, *, written: bool | None) -> VmState:
    path = at("vda", word)
    seen = Seen(name, path, written, 1_700_000_000 * SECOND + 5, 1_700_000_060 * SECOND)
    return replace(state, seen=(*state.seen, seen))


def test_what_was_written_to_is_told_with_the_times_and_the_way_on():
    state = seeing(STACK, "s3", "s1", written=True)
    # that is later than a snapshot below it, of which no stamp is known
    assert "was written to since snapshot s3 was taken above it" in lost(state, "s2")
    assert lost(seeing(state, "s2", "s1", written=False), "s2") == ""
    with pytest.raises(Conflict) as refused:
        plan_reverted(RevertWish("s3"), state)
    path = at("vda", "s1")
    assert refused.value.found == (
        f"VM db cannot go back to snapshot s3: image {path}, on which that point of vda stands, was"
        " last written to at 2023-11-14 22:14:20.000 UTC, and not at 2023-11-14 22:13:20.000 UTC as"
        " then"
    )
    assert refused.value.todo == (
        "if you know that the content is that of then, give it its time back (touch"
        f" --date=@1700000000.000000005 {path}); go back to another one; remove this one (state:"
        " absent)"
    )


def test_an_image_that_rests_is_whole_whatever_stands_on_it():
    foreign = on(STACK, "mine base")
    assert "its overlay" in lost(foreign, "s1")
    assert lost(seeing(foreign, "s1", "base", written=False), "s1") == ""
    assert "its overlay" in lost(seeing(foreign, "s1", "base", written=None), "s1")
    # but nothing rests that is written to
    assert "its overlay" in lost(seeing(on(STACK, "base"), "s1", "base", written=False), "s1")


def test_a_vm_that_seems_to_be_on_the_point_already_is_not_if_that_is_damaged():
    found = snapshot("s1", current=True)
    state = vm(
        replace(disk("vda", "s1 base"), unwritten=True), snapshots=(found,), status="shutoff"
    )
    assert plan_reverted(RevertWish("s1"), state).steps == ()
    with pytest.raises(Conflict, match="was last written to at"):
        plan_reverted(RevertWish("s1"), seeing(state, "s1", "base", written=True))


def stamped(state: VmState, *stamps: Stamp, mode: str = "external") -> VmState:
    """The VM with a snapshot s3 that has these stamps, all of which hold."""
    found = replace(snapshot("s3", {"vda": "s2"}, mode=mode), stamps=stamps)
    seen = tuple(Seen("s3", stamp.image, written=False) for stamp in stamps)
    return replace(state, snapshots=(found,), seen=(*state.seen, *seen))


def its(word: str, below: str, **values: object) -> Stamp:
    """The stamp of an image that stands on another one, both of vda."""
    backing = at("vda", below) if below else ""
    return Stamp(at("vda", word), time=1, tables="abcd", backing=backing, **values)


def test_an_image_on_another_base_holds_another_content():
    """No image has changed but for a name, and its time was set back."""
    then = (its("s2", "s1"), its("s1", "base"), its("base", ""))
    chained = vm(disk("vda", "s3 s2 s1 base"))
    assert lost(stamped(chained, *then), "s3") == ""
    found = lost(stamped(vm(disk("vda", "s3 s2 base")), *then), "s3")
    assert found == (
        f"image {at('vda', 's2')}, which held that point of vda, stands on {at('vda', 'base')} now,"
        f" and stood on {at('vda', 's1')} then"
    )
    gone = replace(vm(disk("vda", "s3 s2 base")), missing=frozenset([at("vda", "s1")]))
    assert f"stood on {at('vda', 's1')} then" in lost(stamped(gone, *then), "s3")
    found = lost(stamped(vm(disk("vda", "s3 s2 s1")), *then), "s3")
    assert f"image {at('vda', 's1')}, on which that point of vda stands, stands on nothing now" in (
        found
    )
    with pytest.raises(Conflict) as refused:
        plan_reverted(RevertWish("s3"), stamped(vm(disk("vda", "s3 s2 base")), *then))
    assert "touch" not in refused.value.todo, "the time has nothing to do with it"


@pytest.mark.parametrize(
    "then",
    [
        # by another name, or moved to another place with all that stands on it
        replace(its("s1", ""), backing="db.vda.base.qcow2"),
        replace(its("s1", ""), backing="../vms/./db.vda.base.qcow2"),
        replace(its("s1", ""), backing="/real/base"),
        its("s1", "gone"),
        # of one that could not be read nobody knows
        replace(its("s1", "other"), tables=""),
    ],
)
def test_another_name_of_the_same_base_is_none(then):
    linked = disk("vda", "s3 s2 s1 base", images={"base": {"real": "/real/base"}})
    state = stamped(vm(linked, missing=[at("vda", "gone")]), its("s2", "s1"), then)
    assert lost(state, "s3") == ""


def test_what_a_run_of_ours_has_rebased_is_left_out():
    state = stamped(vm(disk("vda", "s3 s2 base")), its("s2", "s1"), its("base", ""))
    assert lost(replace(state, seen=()), "s3") == ""


@pytest.mark.parametrize("chained", ["s2", "s2 base", "s2 s1 base"])
def test_an_internal_snapshot_needs_what_its_image_stood_on(chained):
    inside = replace(its("s2", "s1"), time=0)
    found = disk("vda", chained, images={"s2": {"internal": ["s3"]}})
    state = stamped(vm(found), inside, its("s1", "base"), mode="internal")
    assert (lost(state, "s3") == "") == (chained == "s2 s1 base")


def test_an_internal_snapshot_that_is_gone_or_another_one():
    inside = replace(its("s2", ""), time=0)
    there = vm(disk("vda", "s2", images={"s2": {"internal": ["s3"]}}))
    seen = (Seen("s3", inside.image, written=True),)
    assert lost(stamped(there, inside, mode="internal"), "s3") == ""
    changed = replace(stamped(there, inside, mode="internal"), seen=seen)
    assert f"image {at('vda', 's2')} of vda holds another snapshot" in lost(changed, "s3")
    gone = replace(stamped(vm(disk("vda", "s2")), inside, mode="internal"), seen=seen)
    assert f"image {at('vda', 's2')} of vda does not hold it any more" in lost(gone, "s3")
    (found,) = gone.snapshots
    foreign = replace(gone, snapshots=(replace(found, ours=False, stamps=()),), seen=())
    assert "does not hold it any more" in lost(foreign, "s3")


# --- histories ---


@dataclass
class Lab(World):
    """A world in which snapshots have stamps, and which knows what each of them was of."""

    taken: dict[str, dict[str, Content]] = field(default_factory=dict)
    renewed: set[tuple[str, str]] = field(default_factory=set)

    def observe(self) -> VmState:
        return replace(super().observe(), seen=tuple(self._seen()))

    def _seen(self) -> Iterator[Seen]:
        for found in self.snapshots:
            for then in found.stamps:
                if (found.name, then.image) not in self.renewed:
                    now = self.stamp(then.image)
                    verdict = written(then, now) if now else None
                    yield Seen(found.name, then.image, verdict, then.time, now.time if now else 0)

    def stamp(self, path: str) -> Stamp | None:
        stored = self.files.get(path)
        if stored is None:
            return None
        time = zlib.crc32(repr(sorted(stored.writes)).encode())
        return Stamp(path, time=time, tables="some", backing=stored.backing)

    def carry_out(self, plan_for: PlanFor) -> None:
        plan = planned(self, plan_for)
        if plan is None:
            return
        self.renewed = sound_before(self.observe(), plan.steps)
        carry_out(self, plan or Plan(""))
        stamps = _Stamps(self)
        self.snapshots = [replace(s, stamps=stamps.of(s)) for s in self.snapshots]
        self.renewed = set()
        names = {found.name for found in self.snapshots}
        self.taken = {name: point for name, point in self.taken.items() if name in names}
        for name in names - set(self.taken):
            self.taken[name] = dict(self.points[name])

    def holds(self, name: str) -> bool:
        found = next(s for s in self.snapshots if s.name == name)
        return all(self._brings_back(name, entry.target) for entry in found.taken)

    def _brings_back(self, name: str, target: str) -> bool:
        try:
            return self._point(name, target) == self.taken[name][target]
        except (Broken, KeyError):
            return False

    # -- what others do

    def poke(self, target: str, depth: int) -> None:
        """Write to an image below the active one."""
        chain = self.chain(self.live[target].path)[1:]
        if chain:
            self.clock += 1
            self.files[chain[depth % len(chain)]].writes |= {self.clock}
            self.written[target] = self.content(self.live[target].path)

    def rebase_by_hand(self, target: str, depth: int, length: int) -> None:
        """qemu-img rebase -u of an image below the active one onto one that is further below."""
        chain = self.chain(self.live[target].path)
        depth = 1 + depth % max(1, len(chain) - 1)
        if depth + length < len(chain):
            self.files[chain[depth]].backing = chain[depth + length]
            self.written[target] = self.content(self.live[target].path)

    def commit_far(self, target: str, top: int, length: int) -> None:
        """virsh blockcommit of some images, or qemu-img commit and an edited definition."""
        chain = self.chain(self.live[target].path)
        top = min(top, len(chain) - 2)
        if top < 0:
            return
        base = chain[min(top + length, len(chain) - 1)]
        for path in chain[top : chain.index(base)]:
            self.files[base].writes |= self.files[path].writes
        if top:
            self.files[chain[top - 1]].backing = base
        else:
            self._switch(target, base)


class _Stamps(Stamps):
    def __init__(self, lab: Lab) -> None:
        super().__init__(lab.observe(), lab.renewed, loose=False)
        self._lab = lab

    def _now(self, path: str, _format: str) -> Stamp | None:
        return self._lab.stamp(path)


targets = st.sampled_from(TARGETS)
others = st.one_of(
    st.tuples(st.just("poke"), targets, st.integers(0, 4)),
    st.tuples(st.just("commit_far"), targets, st.integers(0, 3), st.integers(1, 4)),
    st.tuples(st.just("commit_by_hand"), targets),
    st.tuples(st.just("rebase_by_hand"), targets, st.integers(0, 3), st.integers(2, 3)),
    st.tuples(st.just("branch_off"), st.sampled_from(NAMES)),
    st.just(("power",)),
)
BY_HAND = ("poke", "commit_far", "commit_by_hand", "rebase_by_hand", "branch_off", "power")
ours = st.one_of(takes(*NAMES), wishes)
stacks = st.integers(1, 4).map(lambda n: [("take", SnapshotWish(name)) for name in NAMES[:n]])


def lived(history: list[Event]) -> Lab:
    lab = Lab.fresh(TARGETS)
    lab.write()
    for event in history:
        if event[0] in BY_HAND:
            getattr(lab, event[0])(*event[1:])
            lab.settle()
        else:
            lab.carry_out(plan_of(event, lab.observe()))
        lab.write()
    return lab


FOUR = [("take", SnapshotWish(name)) for name in NAMES[:4]]
POKED = [("poke", "vda", 0), ("span", "vda", 2, 1)]


@given(stack=stacks, rest=st.lists(st.one_of(ours, others, others), max_size=6))
@example(stack=FOUR, rest=[*POKED, ("remove", 0, False)])
@example(stack=FOUR, rest=[*POKED, ("span", "vda", 1, 1)])
@settings(max_examples=100)
def test_what_is_not_there_any_more_is_never_called_whole(stack, rest):
    lab = lived([*stack, *rest])
    state = lab.observe()
    for found in state.snapshots:
        if not any(damages(state, found)):
            assert lab.holds(found.name), found.name


@given(stack=stacks, rest=st.lists(st.one_of(ours, ours, st.just(("power",))), max_size=6))
@settings(max_examples=100)
def test_whatever_our_own_tasks_do_no_snapshot_is_called_damaged(stack, rest):
    state = lived([*stack, *rest]).observe()
    assert {
        s.name: list(damages(state, s)) for s in state.snapshots if any(damages(state, s))
    } == {}
