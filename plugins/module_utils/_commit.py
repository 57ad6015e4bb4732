# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block commits as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ._host.connection import call
from ._host.observe import with_stacks
from ._model.problem import BadInput
from ._model.state import VmState
from ._operation import Operation
from ._plan.commit import CommitWish, chosen, plan_commit
from ._plan.own import images_left

if TYPE_CHECKING:
    from ._host.libvirt_dep import Domain
    from ._host.observe import Host


def commit_operation(params: Mapping[str, Any]) -> Operation:
    """What the module vm_blockcommit is to do. Raises BadInput."""
    check_limits(params, "base", "top")
    _check_needed(params)
    wish = CommitWish(
        disks=tuple(dict.fromkeys(params["disks"] or ())),
        base=absolute("base", params["base"]),
        top=absolute("top", params["top"]),
        max_depth=params["max_depth"],
        delete_merged=params["delete_merged"],
        bandwidth=params["bandwidth"],
        keep=params["needed"] == "keep",
    )
    return Operation(
        lambda vm: plan_commit(wish, vm),
        lambda before, after, _report: chains_result(wish.disks, before, after),
        also=partial(_look_around, wish),
    )


def _look_around(wish: CommitWish, host: Host, dom: Domain, vm: VmState) -> VmState:
    if any(images_left(vm, disk) < len(disk.chain) for disk in vm.writable):
        vm = with_stacks(dom, vm)
    vm = _look_at_users(wish, host, dom, vm) if wish.keep else vm
    if all(vm.in_a_chain(file) for found in vm.snapshots for file in found.overlays.values()):
        return vm
    # An overlay is beside the present state, or somebody has committed it by hand.
    from ._host.committed import committed_overlays

    xml = call(f"reading VM {vm.name}", dom.XMLDesc, 0)
    return replace(vm, committed=committed_overlays(vm, xml))


def _look_at_users(wish: CommitWish, host: Host, _dom: Domain, vm: VmState) -> VmState:
    """The VM with what others need of its chains, where one of these is to become shorter."""
    images = [
        path
        for disk in vm.writable
        if images_left(vm, disk) > wish.max_depth
        for path in disk.files
    ]
    if not images:
        return vm
    # Most runs find no chain that is too long, and need none of this.
    from ._host.facts import image_uses

    return replace(vm, shared=frozenset(use.image for use in image_uses(host, vm, images)))


def _check_needed(params: Mapping[str, Any]) -> None:
    if params["needed"] == "keep" and (params["base"] or params["top"]):
        raise BadInput(
            "'needed: keep' and 'base' or 'top' were both given",
            wanted="images that are chosen by 'max_depth', or named",
            todo="drop one",
        )


def check_limits(params: Mapping[str, Any], *named: str) -> None:
    """BadInput for numbers out of range, and for a depth where one of ``named`` is given, too."""
    for option, least in (("max_depth", 1), ("bandwidth", 0)):
        if params[option] is not None and params[option] < least:
            raise BadInput(
                f"{option} is {params[option]}", wanted=f"at least {least}", todo="correct it"
            )
    if (params["max_depth"] or 1) > 1 and any(params[option] for option in named):
        raise BadInput(
            f"'max_depth' and {' or '.join(repr(option) for option in named)} were both given",
            wanted="one of them to say which images to merge",
            todo="drop one",
        )


def absolute(option: str, path: str | None) -> str:
    """The path without symbolic links, '' for none; BadInput for a relative one."""
    if not path:
        return ""
    if not os.path.isabs(path):
        raise BadInput(
            f"{option} is {path}", wanted="an absolute path", todo="write the whole path"
        )
    return os.path.realpath(path)


def chains_result(targets: tuple[str, ...], before: VmState, after: VmState) -> dict[str, Any]:
    """What became of the chains of these disks (of all, where none is named), and of snapshots."""
    disks = {}
    for disk in chosen(before, targets):
        now = after.disk(disk.target)
        files = now.files if now else ()
        merged = [image for image in disk.chain if image.filename not in files]
        disks[disk.target] = {
            "before": list(disk.files),
            "after": list(files),
            "merged": [image.filename for image in merged],
            "bytes": sum(image.actual_size for image in merged),
            "depth": images_left(after, now) if now else 0,
        }
    left = {snapshot.name for snapshot in after.snapshots}
    removed = [snapshot.name for snapshot in before.snapshots if snapshot.name not in left]
    return {"disks": disks, "snapshots_removed": removed}
