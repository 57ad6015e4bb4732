# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No task ends where no task leads on.

Whatever has happened to a VM, by our tasks and by hand, and in whatever order the tasks that remove
snapshots and merge images are then tried: in the end no snapshot and one image of each disk is
left. Played on the model of a hypervisor in world.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Problem
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import VmState
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.absent import (
    AbsentWish,
    plan_absent,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.revert import (
    RevertWish,
    plan_reverted,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.snapshot import (
    SnapshotWish,
    plan_present,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import needs, settle
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_plan_history import BY_HAND, TARGETS, PlanFor, carry_out, checkpoint, some_disks
from world import World

NAMES = ("s1", "s2", "s3", "s4")
HAND = (*BY_HAND, "commit_all_by_hand")


def taken(name: str, mode: str = "external", disks: tuple[str, ...] = (), **more: object) -> tuple:
    return ("take", SnapshotWish(name, mode, disks=disks, quiesce="never", **more))


takes = st.builds(
    taken, st.sampled_from(NAMES), st.sampled_from(["external", "external", "internal"]), some_disks
)
events = st.one_of(
    takes,
    takes,
    st.builds(lambda name: ("take", checkpoint(name)), st.sampled_from(NAMES)),
    st.tuples(st.just("revert"), st.sampled_from(NAMES)),
    st.tuples(st.just("revert"), st.sampled_from(NAMES)),
    st.tuples(st.just("absent"), st.sampled_from(NAMES)),
    st.just(("commit",)),
    st.just(("power",)),
    st.tuples(st.just("commit_by_hand"), st.sampled_from(TARGETS)),
    st.tuples(st.just("commit_all_by_hand"), st.sampled_from(TARGETS)),
    st.tuples(st.just("branch_off"), st.sampled_from(NAMES)),
)


def plan_for(event: tuple) -> PlanFor:
    """How a module decides."""
    kind, *arguments = event
    if kind == "take":
        return lambda vm: plan_present(arguments[0], vm)
    if kind == "revert":
        return lambda vm: plan_reverted(RevertWish(arguments[0]), vm)
    if kind == "absent":
        name, subtree, of_kind = (*arguments, False, "")[:3]
        return lambda vm: plan_absent(AbsentWish(name, subtree, kind=of_kind), vm)
    return lambda vm: plan_commit(CommitWish(*arguments), vm)


def tried(world: World, event: tuple) -> str:
    """Do what a task does; '' if it did something, or why it did not."""
    vm = world.observe()
    try:
        plan = plan_for(event)(vm)
        plan = settle(plan, vm, world.facts(needs(plan, vm)))
    except Problem as problem:
        return str(problem)
    carry_out(world, plan)
    return "" if plan.steps else "nothing to do"


def lived(history: list[tuple]) -> World:
    world = World.fresh(TARGETS)
    world.write()
    for event in history:
        if event[0] in HAND:
            getattr(world, event[0])(*event[1:])
            world.settle()
        else:
            tried(world, event)
        world.write()
    return world


def remove(world: World, path: str) -> None:
    """qcow2_overlay with state absent, for an image that nobody records."""
    del world.files[path]


def unrecorded(world: World, vm: VmState) -> list[str]:
    """Overlays that somebody made by hand and left."""
    recorded = {file for found in vm.snapshots for file in (*found.made, *found.points.values())}
    recorded.update(path for disk in vm.disks for path in disk.files)
    standing = {stored.backing for stored in world.files.values()}
    return [path for path in world.files if path not in recorded | standing]


def tasks(vm: VmState) -> Iterator[tuple]:
    """What may be tried; a base is named where the task asks for one."""
    for found in sorted(vm.snapshots, key=lambda found: found.name):
        yield ("absent", found.name, False, found.kind)
        yield ("absent", found.name, True, found.kind)
    yield ("commit",)
    for disk in vm.disks:
        yield from (("commit", (disk.target,), base) for base in disk.files[1:])


def clean(vm: VmState) -> bool:
    return not vm.snapshots and all(len(disk.chain) == 1 for disk in vm.disks)


# What led nowhere once.
@example([taken("s1"), taken("s2", "internal"), ("revert", "s1")], 0)
@example([taken("s1"), taken("s2"), ("commit_by_hand", "vda")], 0)
@example([taken("s1"), taken("s2"), ("commit_all_by_hand", "vda")], 0)
@example([taken("s1"), taken("s2"), taken("s3"), ("revert", "s2"), ("revert", "s1")], 2)
@example(
    [
        ("take", checkpoint("s1")),
        taken("s2", "internal"),
        ("commit_by_hand", "vda"),
        ("take", checkpoint("s3")),
    ],
    0,
)
@example(
    [
        ("take", checkpoint("s1")),
        ("commit_by_hand", "vda"),
        taken("s3", "internal"),
        ("power",),
        taken("s2"),
    ],
    0,
)
@example(
    [
        taken("s1"),
        taken("s3", "internal"),
        ("commit_by_hand", "vda"),
        ("commit_by_hand", "vdb"),
        taken("s2"),
    ],
    0,
)
@example(
    [
        ("take", checkpoint("s1")),
        ("take", checkpoint("s2")),
        taken("s3", "internal"),
        ("commit_all_by_hand", "vda"),
        ("take", checkpoint("s4")),
    ],
    0,
)
@given(history=st.lists(events, max_size=12), seed=st.integers(0, 1 << 30))
@settings(max_examples=1000, derandomize=True)
def test_whatever_is_tried_first_everything_can_be_removed(history, seed):
    world = lived(history)
    told: list[str] = []
    for n in range(40):
        vm = world.observe()
        if clean(vm):
            return
        choice = list(tasks(vm))
        choice = choice[seed % len(choice) :] + choice[: seed % len(choice)]
        seed = seed // 3 + n
        told = []
        for task in choice:
            said = tried(world, task)
            if not said:
                break
            told.append(f"{task}: {said}")
        else:
            left = unrecorded(world, vm)
            told_of = [path for path in left if any(f"with path {path}" in said for said in told)]
            if told_of:
                remove(world, told_of[0])
            elif not vm.off and any("switch the VM off" in said for said in told):
                world.power()
            else:
                break
    vm = world.observe()
    chains = {disk.target: disk.files for disk in vm.disks}
    names = [(s.name, s.overlays, s.points, s.former) for s in vm.snapshots]
    raise AssertionError(
        "\n".join([*told, str(chains), str(names), *map(str, world.files.items())])
    )
