# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest fixtures: one daemon for the session, virtual machines that go with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .core import Lab
from .vm import VM


@pytest.fixture(scope="session")
def lab_session() -> Iterator[Lab]:
    """The lab of this test run."""
    with Lab(boot_once=True) as lab:
        yield lab


@pytest.fixture
def make_vm(lab_session: Lab) -> Iterator[Callable[..., VM]]:
    """`lab.vm` with the same arguments.

    Whatever machine is there after the test and was not before is removed, also those that the
    code under test has made, and the daemon runs again.
    """
    before = _names(lab_session)
    yield lab_session.vm
    if not lab_session.daemon.running():
        lab_session.daemon.start()
    for name in _names(lab_session) - before:
        lab_session.remove(name)


def _names(lab: Lab) -> set[str]:
    """Those that the daemon knows and those that the lab made, also where a test undefined them."""
    return {domain.name() for domain in lab.connection.listAllDomains()} | set(lab.vms)


@pytest.fixture
def vm(make_vm: Callable[..., VM]) -> VM:
    """A running virtual machine with two disks and an agent."""
    return make_vm("db01", disks=2)
