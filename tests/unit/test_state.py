# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of an observed VM."""

from __future__ import annotations

from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import Facts, Job
from builders import at, disk, snapshot, stacked, vm


def test_the_place_of_an_image_by_its_name_or_its_real_path():
    two = disk(
        "vda", "s1 base", images={"s1": {"real": "/real/s1"}, "base": {"real": "/real/base"}}
    )
    assert [two.depth_of(path) for path in two.files] == [0, 1]
    assert [two.depth_of(path) for path in two.real] == [0, 1]
    assert two.depth_of("/elsewhere") is None
    assert two.depth_of("") is None
    assert disk(trouble="torn").depth_of(at("vda", "base")) is None


def test_what_a_vm_has():
    found = vm(
        disk("vda"),
        disk("sda", device="cdrom", readonly=True),
        disk("vdb", readonly=True),
        disk("vdc", ""),
        disk("fda", device="floppy"),
        disk("sdb", device="lun"),
        snapshots=[snapshot("s1")],
    )
    assert [entry.target for entry in found.writable] == ["vda", "sdb"]
    assert found.disk("sda").target == "sda" and found.disk("vdz") is None
    assert found.snapshot("s1").name == "s1" and found.snapshot("s2") is None


def test_off_is_one_status_only():
    assert stacked(status="shutoff").off
    for status in ("running", "paused", "crashed", "suspended", "shutting down"):
        assert not stacked(status=status).off


def test_the_job_of_a_disk():
    job = Job("vdb", "pull")
    assert Facts({}, {}, jobs=(Job("vda", "copy"), job)).job("vdb") is job
    assert Facts({}, {}).job("vda") is None
