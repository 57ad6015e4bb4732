# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the image that a disk is on was open before its overlay was, or was attached since."""

from __future__ import annotations

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.committed import opened_anew


def live(**chains: list[int]) -> str:
    """A running VM whose images have these numbers, the active one first."""
    disks = ""
    for target, (active, *below) in chains.items():
        stores = "".join(f"<backingStore type='file' index='{number}'>" for number in below)
        disks += (
            f"<disk type='file'><source file='/{target}' index='{active}'/>{stores}"
            f"{'</backingStore>' * len(below)}<target dev='{target}'/></disk>"
        )
    return f"<domain><devices><controller index='9'/>{disks}</devices></domain>"


@pytest.mark.parametrize(
    ("xml", "gone", "anew"),
    [
        # started on its base; an overlay came and was committed
        (live(vda=[1]), 1, False),
        (live(vda=[1], vdb=[4, 2]), 1, False),
        # started on an overlay, whose number is before that of what is below it
        (live(vda=[2]), 1, False),
        (live(vda=[3], vdb=[4]), 2, False),
        # of the disk before it, an overlay is gone, too
        (live(vdb=[3], vda=[2]), 2, False),
        # detached, and attached with what was below
        (live(vda=[3]), 1, True),
        (live(vda=[5], vdb=[4, 2]), 1, True),
        (live(vda=[5], vdb=[6, 4, 2]), 1, True),
        # nobody can tell
        (live(vdb=[1]), 1, True),
    ],
)
def test_what_the_numbers_tell(xml, gone, anew):
    assert opened_anew(xml, "vda", gone) is anew
