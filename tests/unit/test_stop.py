# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cutting the power of a VM that goes off by itself, or does not go off at all."""

from __future__ import annotations

import libvirt
import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.stop import stop
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Problem


class Guest:
    """What libvirt says of a VM before and after it refuses to stop it."""

    def __init__(self, *active: bool) -> None:
        self.active = list(active)
        self.asked = 0

    def isActive(self) -> bool:
        return self.active.pop(0)

    def destroy(self) -> None:
        self.asked += 1
        error = libvirt.libvirtError("Requested operation is not valid")
        error.err = (libvirt.VIR_ERR_OPERATION_INVALID, 10, "domain is not running", 2)
        raise error


def test_one_that_is_off_is_not_asked() -> None:
    guest = Guest(False)
    stop(guest, "db01", 5)
    assert guest.asked == 0


def test_one_that_went_off_meanwhile_is_stopped() -> None:
    guest = Guest(True, False)
    stop(guest, "db01", 5)
    assert guest.asked == 1


def test_one_that_runs_on_is_a_failure() -> None:
    with pytest.raises(Problem, match="VM db01: stopping it"):
        stop(Guest(True, True), "db01", 5)
