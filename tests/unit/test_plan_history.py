# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every plan, after whatever has happened to a VM before.

Random histories (snapshots, merges, power, what others do by hand) are played on the model of a
hypervisor in world.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.journal import new_content
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Conflict, Problem
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    CHECKPOINT,
    Snapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import VmState
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CommitDisk,
    CreateOverlay,
    Plan,
    PullDisk,
    RemoveFile,
    RevertInternal,
    Step,
    TakeSnapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.absent import (
    AbsentWish,
    plan_absent,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.agree import disagreements
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.left import (
    files_of,
    left_by,
    overlays_of,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.predict import predict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.pull import (
    PullWish,
    plan_pull,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.recover import (
    plan_recovery,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.revert import (
    GIVEN_UP,
    RevertWish,
    plan_reverted,
    unreverted,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.snapshot import (
    SnapshotWish,
    plan_present,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import needs, settle
from builders import of
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from world import World, half_done, halves

PlanFor = Callable[[VmState], Plan]
TARGETS = ("vda", "vdb")
NAMES = ("s1", "s2", "s3", "s4", "s5", "s6")
# Events are tuples, so that a failure shows what happened; numbers choose by position.
Event = tuple[Any, ...]

some_disks = st.sampled_from([(), (), ("vda",), ("vdb",)])


def takes(*names: str) -> st.SearchStrategy[Event]:
    wish = st.builds(
        SnapshotWish,
        name=st.sampled_from(names),
        mode=st.sampled_from(["auto", "auto", "external", "internal"]),
        memory=st.sampled_from([None, None, True]),
        disks=some_disks,
        quiesce=st.sampled_from(["preferred", "never", "required"]),
    )
    return st.tuples(st.just("take"), wish | st.builds(checkpoint, st.sampled_from(names)))


def checkpoint(name: str) -> SnapshotWish:
    return SnapshotWish(name, "external", memory=True, quiesce="never", kind=CHECKPOINT)


removals = st.tuples(st.just("remove"), st.integers(0, 5), st.booleans())
commits = st.tuples(
    st.just("commit"),
    st.builds(
        CommitWish,
        disks=some_disks,
        max_depth=st.integers(1, 4),
        delete_merged=st.sampled_from([True, True, False]),
        keep=st.booleans(),
    ),
)
spans = st.tuples(st.just("span"), st.sampled_from(TARGETS), st.integers(0, 4), st.integers(1, 3))
pulls = st.tuples(
    st.just("pull"),
    some_disks,
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([True, True, False]),
)
reverts = st.tuples(
    st.just("revert"),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from(["unchanged", "running", "paused", "shutoff"]),
)
wishes = st.one_of(takes("new"), removals, commits, spans, pulls, reverts)
by_hand = st.one_of(
    st.just(("power",)),
    st.tuples(st.just("commit_by_hand"), st.sampled_from(TARGETS)),
    st.tuples(st.just("branch_off"), st.sampled_from(NAMES)),
)
edits = st.tuples(st.just("edit"), st.sampled_from(TARGETS))
detaching = st.tuples(st.just("detach"), st.sampled_from(TARGETS))
BY_HAND = ("power", "commit_by_hand", "branch_off", "edit", "detach")


def histories(*odd: st.SearchStrategy[Event]) -> st.SearchStrategy[list[Event]]:
    """Some snapshots upon each other, and then anything."""
    past = st.one_of(*[takes(*NAMES)] * 2, wishes)
    stack = st.integers(0, 4).map(lambda n: [("take", SnapshotWish(name)) for name in NAMES[:n]])
    rest = st.lists(st.one_of(past, past, past, by_hand, *odd), max_size=5)
    return st.builds(lambda first, then: [*first, *then], stack, rest)


def plan_of(event: Event, vm: VmState) -> PlanFor:
    """How a module decides that was called in this situation."""
    if event[0] == "take":
        return lambda vm: plan_present(event[1], vm)
    if event[0] == "commit":
        return lambda vm: plan_commit(event[1], vm)
    if event[0] == "span":
        _kind, target, top, length = event
        found = vm.disk(target)
        files = found.files if found else ("/none", "/nowhere")
        top = min(top, max(0, len(files) - 2))
        wish = CommitWish((target,), files[min(top + length, len(files) - 1)], files[top])
        return lambda vm: plan_commit(wish, vm)
    if event[0] == "pull":
        _kind, targets, depth, whole, delete = event
        found = vm.disk((targets or TARGETS)[0])
        files = found.files if found else ("/none", "/nowhere")
        base = "" if whole else files[min(depth, len(files) - 1)]
        pull = PullWish((targets or TARGETS)[:1], base, delete_merged=delete)
        if whole:
            pull = PullWish(targets, max_depth=depth, delete_merged=delete)
        return lambda vm: plan_pull(pull, vm)
    names = sorted(found.name for found in vm.snapshots) or ["none"]
    if event[0] == "revert":
        _kind, number, keep, after = event
        kept = SnapshotWish("kept", quiesce="never") if keep else None
        back = RevertWish(names[number % len(names)], kept, after)
        return lambda vm: plan_reverted(back, vm)
    wish = AbsentWish(names[event[1] % len(names)], event[2])
    return lambda vm: plan_absent(wish, vm)


def proof_of(event: Event, vm: VmState) -> PlanFor:
    """What a module takes for work that is left; going back can be asked for again and again."""
    if event[0] != "revert":
        return plan_of(event, vm)
    names = sorted(found.name for found in vm.snapshots) or ["none"]
    back = RevertWish(names[event[1] % len(names)], None, event[3])
    return lambda vm: unreverted(back, vm)


def planned(world: World, plan_for: PlanFor, reverted: str = "") -> Plan | None:
    """The plan of a run, None where it is refused."""
    vm = replace(world.observe(), reverted=reverted)
    try:
        plan = plan_for(vm)
        plan = settle(plan, vm, world.facts(needs(plan, vm)))
    except Problem:
        return None
    # What libvirt does to an internal snapshot is not in this world.
    return None if of(RevertInternal, plan) else plan


def carry_out(world: World, plan: Plan) -> None:
    """All steps of a plan; nothing is lost at any moment, while the guest goes on writing.

    What QEMU had lost when it was killed is back once all such images are mended.
    """
    surviving = survivors(world, plan)
    for n, step in enumerate(plan.steps, 1):
        world.do(step)
        if not any(left.doubtful for left in of(PullDisk, plan.steps[n:])):
            world.check(surviving)
        world.write()
    world.check(surviving)


def survivors(world: World, plan: Plan) -> dict[str, set[str]]:
    """Snapshot -> disks that it will cover still."""
    after = predict(world.observe(), plan)
    return {found.name: {disk.target for disk in found.taken} for found in after.snapshots}


def lived(history: list[Event]) -> World:
    """The world after that."""
    world = World.fresh(TARGETS)
    world.write()
    for event in history:
        if event[0] in BY_HAND:
            getattr(world, event[0])(*event[1:])
            world.settle()
        else:
            plan = planned(world, plan_of(event, world.observe()))
            carry_out(world, plan or Plan(""))
        world.write()
    return world


def compared(vm: VmState) -> dict[str, object]:
    """What a prediction foretells: images by their names."""
    snapshots = [
        replace(found, consistency="") for found in sorted(vm.snapshots, key=lambda s: s.name)
    ]
    named = {path for s in snapshots for path in (*s.overlays.values(), s.memory_file) if path}
    disks = [
        (found.disk, found.files, found.real, found.persistent, found.recorded)
        for found in vm.disks
    ]
    return {
        "status": vm.status,
        "live": vm.live.disks,
        "disks": disks,
        "snapshots": snapshots,
        "missing": vm.missing & named,
    }


def troubles(vm: VmState) -> set[tuple[str, str]]:
    """Disagreements; an overlay stays alone where a snapshot with memory lost another disk."""
    found = {(entry["kind"], entry["disk"]) for entry in disagreements(vm)}
    return {entry for entry in found if entry[0] != "overlay_without_snapshot"}


# The disk was merged by hand, and detached.
@example(
    history=[
        ("take", SnapshotWish("s1")),
        ("commit_by_hand", "vdb"),
        ("take", SnapshotWish("s2")),
        ("detach", "vdb"),
    ],
    wish=("revert", 1, False, "unchanged"),
)
@given(history=histories(edits, detaching), wish=wishes)
@settings(max_examples=150)
def test_a_plan_does_what_it_says_loses_nothing_and_leaves_nothing_to_do(history, wish):
    world = lived(history)
    vm = world.observe()
    plan_for = plan_of(wish, vm)
    plan = planned(world, plan_for)
    assume(plan is not None and plan.steps)

    carry_out(world, plan)

    after, predicted = world.observe(), predict(vm, plan)
    assert compared(after) == compared(predicted)
    left_of = proof_of(wish, vm)
    assert left_of(after).steps == ()
    assert left_of(predicted).steps == ()
    # Going back to where somebody branched off by hand brings back what disagreed there, and so
    # does a disk that comes back.
    by_hand = any(event[0] == "branch_off" for event in history)
    new = {entry for entry in troubles(after) - troubles(vm) if vm.disk(entry[1])}
    assert by_hand or not new


# --- runs that die ---


def journal_of(world: World, plan: Plan) -> dict[str, Any]:
    """The journal as it is read again after the run died."""
    return json.loads(json.dumps(new_content("a run", world.status, plan.steps, ())))


def die(
    world: World, steps: tuple[Step, ...], journal: dict[str, Any], moment: int, *, own: bool
) -> None:
    """Do the steps up to a moment: before or after one was marked as done, or within it.

    ``own``: the journal is that of this run, not that of the one before, which it brings in order.
    """
    places = [
        (n, part) for n, step in enumerate(steps) for part in ("before", *halves(step), "after")
    ]
    last, part = places[moment % len(places)] if places else (0, "")
    for n, step in enumerate(steps[: last + 1]):
        if n == last and part == "before":
            return
        if isinstance(step, CommitDisk) and step.how == "active" and moment % 2:
            journal["marks"].append(step.pivot_mark)
        if isinstance(step, PullDisk) and step.how == "running":
            journal["marks"].append(step.mark(world.observe().live.number, ""))
        if n == last and part != "after":
            half_done(world, step, part)
            return
        if isinstance(step, CommitDisk) and step.how == "active" and not moment % 2:
            journal["marks"].append(step.pivot_mark)
        world.do(step)
        world.write()
        if own and n < last:
            journal["steps"][n]["done"] = True


def recovery(world: World, journal: dict[str, Any], *, finish: bool = True) -> Plan:
    """What the next run does first; where that is refused it does so without ``finish``."""
    vm = world.observe()
    existing = frozenset(path for path in files_of(journal) if world.exists(path))
    written = frozenset(path for path in overlays_of(journal) if world.holds_data(path))
    left = left_by(journal, existing, group_complete=True, written=written)
    plan = plan_recovery(left, vm, finish=finish)
    return settle(plan, vm, world.facts(needs(plan, vm)))


def points(found: Snapshot) -> list[str]:
    return [found.image_before(disk.target) for disk in found.taken]


def end(world: World) -> dict[str, object]:
    """What a task is judged by."""
    vm = world.observe()
    return {
        "chains": {disk.target: disk.files for disk in vm.disks},
        "persistent": {disk.target: disk.persistent for disk in vm.disks},
        "snapshots": {
            found.name: (found.parent, found.current, found.disks, found.memory_file, points(found))
            for found in vm.snapshots
        },
        "files": {*world.files, *world.memory_files},
    }


# What was pulled and kept stands on the base, and goes only with the snapshots that made it.
@example(
    history=[
        *(("take", SnapshotWish(name)) for name in ("s1", "s2", "s3")),
        ("pull", (), 3, False, False),
    ],
    wish=("remove", 0, False),
    moments=[0],
)
# QEMU is killed with the pull, and the next run dies while it removes what was pulled.
@example(
    history=[("take", SnapshotWish(name)) for name in ("s1", "s2", "s3")],
    wish=("pull", (), 3, False, True),
    moments=[30, 13],
)
@given(
    history=histories(edits, detaching),
    wish=wishes,
    moments=st.lists(st.integers(0, 60), min_size=1, max_size=3),
)
@settings(max_examples=150)
def test_a_run_that_dies_at_any_moment_is_brought_to_the_same_end(history, wish, moments):
    world = lived(history)
    plan_for = plan_of(wish, world.observe())
    plan = planned(world, plan_for)
    assume(plan is not None and plan.steps)
    whole = world.copy()
    carry_out(whole, plan)
    journal = journal_of(world, plan)

    die(world, plan.steps, journal, moments[0], own=True)
    try:
        for moment in moments[1:]:
            die(world, recovery(world, journal).steps, journal, moment, own=False)
        last = recovery(world, journal)
        carry_out(world, last)
    except Conflict as refused:
        # The overlay of a snapshot that was not completed cannot be merged back into an image that
        # something else stands on, such as what a commit by hand left: that is said, not done.
        assert "is also used by" in refused.found
        if of(TakeSnapshot, plan):
            return
        last = recovery(world, journal, finish=False)
        carry_out(world, last)
    again = planned(world, plan_for, last.reverted)
    carry_out(world, again)

    assert end(world) == end(whole)


# It ran on its new overlays, and was put on others by hand.
@example(
    history=[("take", SnapshotWish("s1"))],
    wish=("revert", 0, False, "unchanged"),
    moment=11,
    then=[("power",), ("branch_off", "s1")],
)
@example(
    # The VM starts from an image that is merged already, and leaves it again.
    history=[("take", SnapshotWish("s1")), ("power",)],
    wish=("remove", 0, False),
    moment=3,
    then=[("power",), ("power",), ("branch_off", "s1")],
)
@given(
    history=histories(),
    wish=wishes,
    moment=st.integers(0, 60),
    then=st.lists(by_hand | detaching, max_size=3),
)
@settings(max_examples=150)
def test_whatever_others_do_after_a_run_died_nothing_is_lost(history, wish, moment, then):
    world = lived(history)
    plan = planned(world, plan_of(wish, world.observe()))
    assume(plan is not None and plan.steps)
    journal = journal_of(world, plan)
    die(world, plan.steps, journal, moment, own=True)
    for event in then:
        getattr(world, event[0])(*event[1:])
        world.settle()
        world.write()
    try:
        found = recovery(world, journal)
    except Problem:
        return
    if ("power",) in then and any(step.doubtful for step in of(PullDisk, found)):
        # The guest ran on what was left of an image. Nobody can see that once it is off again; it
        # gets back what it missed.
        return
    held = {path for step in of(CommitDisk, plan) for path in step.merged}
    held.update(step.file for step in of(CreateOverlay, plan))
    held.update(path for step in of(PullDisk, plan) for path in step.pulled)
    held.difference_update(path for step in of(CommitDisk, found) for path in step.merged)
    held.difference_update(path for step in of(PullDisk, found) for path in step.pulled)
    for step in of(RemoveFile, found):
        if step.why == GIVEN_UP:
            continue
        assert step.file not in held or not world.only_copy(step.file)
    carry_out(world, found)
