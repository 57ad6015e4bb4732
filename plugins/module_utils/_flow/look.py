# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at one VM without any thought of changing it.

Most runs find everything as wanted, so nothing that changes a VM is imported here.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Callable, TypeVar

from .._host.observe import Host, glance, observe
from .._model.fault import as_problem
from .._model.problem import Problem
from .._model.state import VmState
from .outcome import Outcome, PlanFor

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain

_WORKERS = 8
E = TypeVar("E")
T = TypeVar("T")


def each(
    entries: Mapping[str, E],
    do: Callable[[E], T],
    failed: Callable[[Problem], T],
    workers: int = _WORKERS,
) -> dict[str, T]:
    """Independent VMs side by side. Whatever one of them meets is the failure of that one."""

    def alone(name: str) -> T:
        try:
            return do(entries[name])
        except Exception as error:
            return failed(as_problem(error, f"VM {name}"))

    if len(entries) < 2:
        return {name: alone(name) for name in entries}
    with ThreadPoolExecutor(max_workers=min(workers, len(entries))) as pool:
        return dict(zip(entries, pool.map(alone, entries)))


def nothing_to_do(host: Host, dom: Domain, status: str, plan_for: PlanFor) -> Outcome | None:
    """The outcome where a glance shows that all is as wanted, else None."""
    try:
        vm = glance(host, dom, status)
        plan = None if vm.unsettled else plan_for(vm)
    except Exception:  # whoever looks at it in full meets the same, and tells it
        return None
    return Outcome(vm, vm, (), plan.notes) if plan and not plan.steps else None


def observe_only(host: Host, dom: Domain) -> tuple[VmState, str]:
    """The VM as it is, and a note if a run is under way or died: a journal tells no more."""
    vm = observe(host, dom)
    note = (
        f"{vm.name}: there is a journal, so a run is under way or was interrupted; the next change"
        " waits for it, or finishes or undoes it"
    )
    return vm, note if vm.journal else ""
