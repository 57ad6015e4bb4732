# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard of a dead run while there is no daemon: a freeze ends, however long that takes."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import libvirt
import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import freeze_guard
from lab import VM, Lab
from lab.vm import wait_until

# The guard with less patience, so that the test does not take minutes.
TIMES = (
    ("_LOST_SECONDS = 120.0", "_LOST_SECONDS = 3.0"),
    ("_OFTEN_SECONDS = 20.0", "_OFTEN_SECONDS = 1.0"),
)
LONGER = 8.0


@pytest.fixture
def vm(lab_session: Lab, make_vm: Any) -> Iterator[VM]:
    yield make_vm("guarded", disks=1)
    if not lab_session.daemon.running():
        lab_session.daemon.start()


def guard_of_a_dead_run(lab: Lab, vm: VM, command: str) -> subprocess.Popen[bytes]:
    """A guard that was told this of the VM, and whose run has died while there is no daemon."""
    source = inspect.getsource(freeze_guard)
    for text, shorter in TIMES:
        assert text in source
        source = source.replace(text, shorter)
    words = [sys.executable, "-c", source, lab.uri, "/nonexistent"]
    guard = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert guard.stdin and guard.stdout
    assert guard.stdout.read(6) == b"ready\n"
    guard.stdin.write(f"{command} {vm.domain.UUIDString()} 60\n".encode())
    time.sleep(0.5)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # as where a session ends
        guard.send_signal(number)
    lab.daemon.kill()
    guard.stdin.close()
    return guard


def test_a_freeze_ends_once_the_daemon_is_back(lab_session: Lab, vm: VM) -> None:
    vm.agent("guest-fsfreeze-freeze")
    guard = guard_of_a_dead_run(lab_session, vm, "arm")
    time.sleep(LONGER)
    assert guard.poll() is None, "nobody is left to thaw the guest"
    assert vm.stalled() == ["/mnt/vda"]
    lab_session.daemon.start()
    wait_until(lambda: vm.stalled() == [], 20, "the guest is thawed")
    assert guard.wait(20) == 0


def test_a_pause_ends_once_the_daemon_is_back(lab_session: Lab, vm: VM) -> None:
    vm.domain.suspend()
    guard = guard_of_a_dead_run(lab_session, vm, "watch")
    time.sleep(LONGER)
    assert guard.poll() is None, "nobody is left to resume the VM"
    lab_session.daemon.start()
    wait_until(lambda: vm.domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING, 20, "the VM runs")
    assert guard.wait(20) == 0


def test_nobody_waits_for_a_guest_that_is_gone(lab_session: Lab, vm: VM) -> None:
    guard = guard_of_a_dead_run(lab_session, vm, "arm")
    time.sleep(LONGER)
    assert guard.poll() is None
    os.kill(vm.qemu_pid(), signal.SIGKILL)
    assert guard.wait(20) == 0
