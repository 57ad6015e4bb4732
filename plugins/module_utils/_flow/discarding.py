# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking a restored VM away.

There is no journal: as long as the VM is defined, its marker tells a next run what is left to do.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._host.discard import carry_out, look_at
from .._host.lock import locked
from .._host.observe import Host
from .._model.discard import Discarded
from .._model.fault import as_problem
from .._plan.discard import plan_discard

if TYPE_CHECKING:
    from .._host.libvirt_dep import Domain


def foresee(host: Host, dom: Domain, *, force: bool) -> Discarded:
    """What a run would do, without touching anything."""
    try:
        return Discarded(plan_discard(look_at(host, dom), force=force))
    except Exception as error:
        return Discarded(problem=as_problem(error, f"VM {dom.name()}"))


def discard(host: Host, dom: Domain, *, force: bool) -> Discarded:
    """Do it under the lock of the VM; what was done."""
    done = Discarded()
    try:
        with locked(host.state_dir, dom.UUIDString(), dom.name(), host.run, host.lock_timeout):
            for act in plan_discard(look_at(host, dom), force=force):
                carry_out(host, dom, act)
                done.acts += (act,)
    except Exception as error:
        done.problem = as_problem(error, f"VM {dom.name()}")
    return done
