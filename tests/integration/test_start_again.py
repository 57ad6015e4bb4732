# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt ends a VM while it starts, as libvirt 9.0 does by mistake right after it was stopped.

What libvirt takes for the end of the new QEMU is the end of the old one, heard of late. The same
message comes of another client that destroys the VM while it starts, which can be done at will.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab import VM


@contextmanager
def ended_in_between(vm: VM, seconds: float) -> Iterator[list[int]]:
    """The VM is destroyed so long after its QEMU was started again; the numbers of what ended."""
    old, ended, over = vm.domain.ID(), [], threading.Event()

    def watch() -> None:
        while not ended and not over.is_set():
            number = vm.domain.ID() if vm.domain.isActive() else -1
            if number not in (-1, old):
                ended.append(number)
                time.sleep(seconds)
                vm.domain.destroy()
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield ended
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("seconds", [0, 0.3])
@pytest.mark.parametrize("memory", [True, False], ids=["memory", "disks"])
def test_a_vm_that_libvirt_ends_while_it_starts(
    vm: VM, modules, memory: bool, seconds: float
) -> None:
    vm.write("/mnt/vda/word", b"then")
    modules.run("vm_snapshot", vm, name="s1", memory=memory)
    vm.write("/mnt/vda/word", b"now")
    with ended_in_between(vm, seconds) as ended:
        modules.run("vm_snapshot", vm, name="s1", state="reverted")
    assert ended and vm.domain.ID() not in (-1, *ended)
    vm.disconnect()
    vm.wait_ready()
    assert vm.read("/mnt/vda/word") == b"then"
    assert modules.info(vm)["disagreements"] == []
