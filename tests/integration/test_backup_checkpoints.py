# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMs with backup checkpoints: what libvirt would refuse in the middle is refused before."""

from __future__ import annotations

import libvirt
import pytest
from lab import VM
from story import Modules

UNSUPPORTED = 84
BY_HAND = "<domainsnapshot><name>byhand</name></domainsnapshot>"


@pytest.fixture
def backed_up(vm: VM, modules: Modules) -> VM:
    """It is off, has a checkpoint, and two snapshots."""
    vm.domain.checkpointCreateXML("<domaincheckpoint><name>monday</name></domaincheckpoint>")
    for name in ("s1", "s2"):
        vm.write(f"/mnt/vda/{name}", name.encode())
        modules.run("vm_snapshot", vm, name=name)
    vm.shutdown()
    return vm


def test_while_it_is_off(backed_up: VM, modules: Modules) -> None:
    vm = backed_up
    with pytest.raises(libvirt.libvirtError) as refused:
        vm.domain.snapshotCreateXML(BY_HAND, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    assert refused.value.get_error_code() == UNSUPPORTED, "that is why we refuse it"
    for module, params in (
        ("vm_snapshot", {"name": "s3"}),
        ("vm_snapshot", {"name": "s3", "mode": "internal"}),
        ("vm_snapshot", {"name": "s1", "state": "absent"}),
        ("vm_snapshot", {"name": "s1", "state": "reverted"}),
        ("vm_blockcommit", {"max_depth": 2}),
        ("vm_blockpull", {"max_depth": 2}),
    ):
        message = modules.refused(module, vm, **params)
        assert "backup checkpoints (monday)" in message, (module, params)
    modules.change("vm_snapshot", vm, name="s2", state="absent")
    vm.start()
    modules.change("vm_snapshot", vm, name="s3")
    modules.change("vm_snapshot", vm, name="s1", state="absent")
    assert vm.read("/mnt/vda/s1") == b"s1" and vm.read("/mnt/vda/s2") == b"s2"
    message = modules.refused("vm_snapshot", vm, name="s3", state="reverted")
    assert "backup checkpoints (monday)" in message and "start the VM" not in message
