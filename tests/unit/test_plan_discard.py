# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which VMs may be taken away, and what goes with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.discard import Restored
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import (
    Definition,
    Disk,
    Source,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Busy, Conflict
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.restore import (
    Marker,
    clone_uuid,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import DiskState, VmState
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.discard import plan_discard

UUID = clone_uuid("repository", "copy")
FILE = "/vm/copy-vda.20261125T030000Z.qcow2"


def disk(path: str) -> DiskState:
    return DiskState(Disk("vda", "disk", Source("file", path), "qcow2"))


def found(status: str = "shutoff") -> Restored:
    live = Definition("copy", UUID, status != "shutoff", (disk(FILE).disk,))
    vm = VmState("copy", UUID, status, True, live, (disk(FILE),), ())
    marker = Marker("repository", "another", "20261125T030000Z", "0", (("vda", FILE, "1"),))
    return Restored(vm, marker, frozenset({FILE}))


def shown(restored: Restored, *, force: bool = False) -> list[str]:
    return [act.file or act.what for act in plan_discard(restored, force=force)]


def test_images_go_before_the_definition() -> None:
    assert shown(found()) == [FILE, "undefine_vm"]
    assert shown(found("running"), force=True) == ["stop_vm", FILE, "undefine_vm"]
    assert shown(replace(found(), there=frozenset())) == ["undefine_vm"]


def test_one_that_runs_is_stopped_only_by_force() -> None:
    with pytest.raises(Busy, match="VM copy is running"):
        plan_discard(found("running"), force=False)


@pytest.mark.parametrize(
    ("restored", "message"),
    [
        (replace(found(), marker=None), "was not restored under another name"),
        (
            replace(found(), marker=replace(found().marker, vm=UUID)),
            "was not restored under another name",
        ),
        (
            replace(found(), marker=replace(found().marker, replaced=("/vm/old.qcow2",))),
            "was not restored under another name",
        ),
        (
            replace(found(), marker=replace(found().marker, repository="other")),
            "does not have the name any more",
        ),
        (replace(found(), vm=replace(found().vm, name="renamed")), "does not have the name any"),
        (replace(found(), vm=replace(found().vm, persistent=False)), "is transient"),
        (
            replace(found(), vm=replace(found().vm, disks=(disk("/vm/new.qcow2"),))),
            "has another image of vda than was restored: /vm/new.qcow2",
        ),
        (
            replace(
                found(), marker=replace(found().marker, disks=(("vda", "/vm/vda.qcow2", "1"),))
            ),
            "has an image that was not made for it: /vm/vda.qcow2",
        ),
        (replace(found(), stored=("z1",)), r"has storage snapshots: z1 \(vm_storage_snapshot"),
        (replace(found(), uses=("x (y)",)), "has an image that something else needs: x"),
    ],
)
def test_what_is_not_as_it_was_made_is_refused(restored: Restored, message: str) -> None:
    with pytest.raises(Conflict, match=message):
        plan_discard(restored, force=True)
