# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was encrypted is not written in the clear, whatever is planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image import Encryption
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Unsupported
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import CHECKPOINT
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import VmState
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import Plan
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.absent import (
    AbsentWish,
    plan_absent,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.commit import (
    CommitWish,
    plan_commit,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.memory import (
    MemoryWish,
    plan_memory,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.pull import PullWish, plan_pull
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.revert import (
    RevertWish,
    plan_reverted,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.snapshot import (
    SnapshotWish,
    plan_present,
)
from builders import at, disk, kinds, snapshot, vm

LUKS = {"encrypt": Encryption("luks")}
PLAIN = disk("vda")
LOCKED = disk("vdb", images={"base": LUKS})
KEYED = disk("vdb", encrypted=(at("vdb", "base"),), images={"base": {"format": "raw"}})
OVER = disk("vdb", "s1 base", images={"base": LUKS})
THEIRS = snapshot("s1", {"vdb": "base"}, ours=False)

Planned = Callable[[VmState], Plan]


def taking(**values: object) -> Planned:
    return lambda state: plan_present(SnapshotWish("new", **values), state)  # type: ignore[arg-type]


@pytest.mark.parametrize("locked", [LOCKED, KEYED, OVER], ids=["header", "definition", "below"])
@pytest.mark.parametrize("status", ["running", "shutoff"])
@pytest.mark.parametrize(
    "planned",
    [
        taking(),
        taking(mode="external"),
        taking(disks=("vdb",)),
        taking(mode="external", group=True),
    ],
)
def test_no_plain_overlay(locked, status: str, planned: Planned) -> None:
    with pytest.raises(Unsupported, match="disk vdb of VM db is encrypted"):
        planned(vm(PLAIN, locked, status=status))
    assert kinds(plan_present(SnapshotWish("new", disks=("vda",)), vm(PLAIN, locked)))


@pytest.mark.parametrize(
    "planned",
    [
        taking(memory=True, disks=("vda",)),
        taking(mode="internal"),
        taking(memory=True, kind=CHECKPOINT),
    ],
)
def test_no_memory_beside_it(planned: Planned) -> None:
    with pytest.raises(Unsupported, match="in the clear"):
        planned(vm(PLAIN, LOCKED))


def test_only_the_running_qemu_has_the_key() -> None:
    inside = snapshot("s1", {"vdb": "base"}, mode="internal", state="shutoff")
    state = vm(LOCKED, snapshots=[inside], status="shutoff")
    for planned in (
        taking(mode="internal"),
        lambda vm: plan_absent(AbsentWish("s1"), vm),
    ):
        with pytest.raises(Unsupported, match="no key"):
            planned(state)
    assert kinds(plan_absent(AbsentWish("s1"), replace(state, status="running")))


def test_an_overlay_of_another_tool_is_merged_back_and_no_more_made() -> None:
    state = vm(OVER, snapshots=[THEIRS])
    assert "commit" in kinds(plan_absent(AbsentWish("s1"), state))
    for planned in (
        lambda vm: plan_reverted(RevertWish("s1"), vm),
        lambda vm: plan_pull(PullWish(), vm),
        lambda vm: plan_absent(AbsentWish("s1"), replace(vm, status="shutoff")),
    ):
        with pytest.raises(Unsupported, match="encrypted"):
            planned(state)


def test_nothing_encrypted_is_merged_into_a_plain_base() -> None:
    state = vm(disk("vdb", "s1 base", images={"s1": LUKS}))
    with pytest.raises(Unsupported, match=r"is encrypted, and .* is not"):
        plan_commit(CommitWish(), state)
    both = vm(disk("vdb", "s1 base", images={"s1": LUKS, "base": LUKS}))
    assert "commit" in kinds(plan_commit(CommitWish(), both))


def test_saved_memory_is_noted() -> None:
    plan = plan_memory(MemoryWish(saved=True), vm(PLAIN, LOCKED))
    assert any("vdb is encrypted" in note for note in plan.notes)
    assert plan_memory(MemoryWish(saved=True), vm(PLAIN)).notes == ()
