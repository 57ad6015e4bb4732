# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back and forth between branches: images of one hold what the other goes back to."""

from __future__ import annotations

from lab import VM
from story import folder
from test_revert import history, revert, words


def test_an_overlay_that_stays_for_another_snapshot_keeps_its_name(vm: VM, modules) -> None:
    """What is taken or gone back to later gets another one, and is not refused for it."""
    history(modules, vm, "s1")
    vm.shutdown()
    revert(modules, vm, "s1", keep_current="kept")
    modules.change("vm_snapshot", vm, name="inside", mode="internal")  # in the overlay on s1
    revert(modules, vm, "kept")
    revert(modules, vm, "s1")
    revert(modules, vm, "inside")
    # What "above" goes back to is the image of "inside", to which the guest must not write then.
    modules.change("vm_snapshot", vm, name="above", mode="external")
    revert(modules, vm, "s1")
    message = modules.refused("vm_snapshot", vm, name="inside", state="reverted")
    assert "is what snapshot above goes back to" in message
    modules.change("vm_snapshot", vm, name="above", state="absent")
    revert(modules, vm, "inside")
    modules.change("vm_snapshot", vm, name="last", mode="external")
    modules.change("vm_snapshot", vm, name="last", state="absent", metadata_only=True)
    modules.change("vm_snapshot", vm, name="last", mode="external")
    vm.start()
    assert words(vm) == {"s1"}


def test_an_overlay_that_stayed_for_what_was_kept_goes_with_it(vm: VM, modules) -> None:
    """But one that another snapshot is in may hold more, and goes with the one that made it."""
    history(modules, vm, "s1", "s2")
    revert(modules, vm, "s1", keep_current="kept")
    before = set(folder(vm).glob("*.s2.qcow2"))
    assert len(before) == 2
    modules.change("vm_snapshot", vm, name="kept", state="absent")
    assert not set(folder(vm).glob("*.s2.qcow2"))
    revert(modules, vm, "s2")
    assert words(vm) == {"s2"}
    present = set(folder(vm).glob("*.s2.*"))
    modules.change("vm_snapshot", vm, name="inside", mode="internal")
    revert(modules, vm, "s1")
    modules.change("vm_snapshot", vm, name="inside", state="absent")
    assert set(folder(vm).glob("*.s2.*")) == present
    modules.change("vm_snapshot", vm, name="s2", state="absent")
    assert not set(folder(vm).glob("*.s2.*"))
    assert words(vm) == {"s1"}
