# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hypervisor of a task, and the VMs that it names.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._argspec import check_seconds, run_name, state_dir_for
from ._host.connection import connect
from ._host.observe import Host
from ._model.problem import BadInput, Problem

if TYPE_CHECKING:
    from ._host.libvirt_dep import Domain


def host_for(params: Mapping[str, Any], module_name: str) -> Host:
    """The hypervisor of a task. Raises BadInput, or Unreachable without libvirt."""
    check_seconds(params)
    if not params["vm"]:
        raise BadInput(
            "the option 'vm' is an empty list", wanted="at least one VM", todo="name one"
        )
    return Host(
        conn=connect(params["uri"]),
        uri=params["uri"],
        state_dir=state_dir_for(params["state_dir"], params["uri"]),
        timeout=float(params["timeout"]),
        lock_timeout=float(params["lock_timeout"]),
        run=run_name(module_name),
    )


def parted(
    found: Mapping[str, Domain | Problem],
) -> tuple[dict[str, Domain], dict[str, Problem]]:
    """The VMs that were found, each once by its name, and the problems of the others."""
    doms: dict[str, Domain] = {}
    problems: dict[str, Problem] = {}
    for given, dom in found.items():
        if isinstance(dom, Problem):
            problems[given] = dom
        else:
            doms.setdefault(dom.name(), dom)
    return doms, problems
