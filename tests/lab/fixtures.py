# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest fixtures: one daemon for the session, virtual machines that go with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .core import Lab
from .vm import VM


@pytest.fixture(scope="session")
def lab_session() -> Iterator[Lab]:
    """The lab of this test run."""
    with Lab() as lab:
        yield lab


@pytest.fixture
def make_vm(lab_session: Lab) -> Iterator[Callable[..., VM]]:
    """`lab.vm` with the same arguments; everything made by it is removed after the test."""
    made: list[VM] = []

    def make(*args: Any, **options: Any) -> VM:
        made.append(lab_session.vm(*args, **options))
        return made[-1]

    yield make
    for vm in made:
        lab_session.remove(vm)


@pytest.fixture
def vm(make_vm: Callable[..., VM]) -> VM:
    """A running virtual machine with two disks and an agent."""
    return make_vm("db01", disks=2)
