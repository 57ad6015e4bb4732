#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: make the active images of VMs stand on less."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_blockpull
short_description: Pull the content of base images up into the active images of VMs
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Copies what the active image of a disk only has from the images below into it, so that it stands
    on less, or on nothing, on running and shut off VMs. Several VMs are worked on side by side, the
    disks of each one after the other.
  - This is the way to shorten a chain whose base must not be written to, such as a template that
    other VMs stand on. Where the base may be written to, M(vmkeep.libvirt.vm_blockcommit) copies
    less.
  - No image below is written to. Afterwards the live and the persistent definition, the image files
    and libvirt's record of snapshots agree.
  - A snapshot goes back to an image. Where that image leaves the chain, the snapshot is removed from
    the record and listed. Where only the overlay on top of that image leaves, the snapshot stays,
    and the active image is recorded as its overlay.
  - A checkpoint of M(vmkeep.libvirt.vm_checkpoint) is never taken apart, the task fails and names
    it. So does an image that holds internal snapshots.
  - A pull that an interrupted run left is taken up; any other block job is left alone and the task
    fails.
  - A snapshot that another tool took is left alone as well. The task fails where it would be lost,
    unless O(base) names the image to stand on.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.libvirt_group
  - vmkeep.libvirt.vm
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  disks:
    description: Targets of the disks to work on, such as V(vda); by default all writable ones.
    type: list
    elements: str
  base:
    description:
      - The image that the active one is to stand on afterwards, by absolute path. It must be in the
        chain of each disk.
      - By default nothing is left below the active image.
    type: path
  max_depth:
    description:
      - How many images may be left in the chain, the active one and the lowest, counted down to the
        VM's own disk, which is what it was defined on before its first snapshot. With V(1) only
        the active image is left of them, with V(2) it stands on the VM's own disk.
      - What is below the VM's own disk, such as the template that it was cloned from, does not count
        and stays in the chain. So does an image of which nobody can tell whether it is that or the
        VM's own disk; RV(notes) then names it.
      - By default nothing at all is left below the active image. Not used together with O(base).
    type: int
  delete_merged:
    description:
      - Delete the images that left the chain, once the new one has been verified, where snapshots of
        this collection had made them and nothing else needs them; the memory of snapshots that are
        removed goes with them.
      - Any other image that left the chain is kept in any case, such as a template.
    type: bool
    default: true
  bandwidth:
    description: Limit for each disk in MiB/s; V(0) for none.
    type: int
    default: 0
notes:
  - The active image grows by what it had not got itself, at most to the size of the disk.
  - At the end a running VM is paused for a moment, usually some milliseconds for each disk. Only so QEMU
    writes all that it has copied; if it were killed before that, the image would have lost it. For
    the same reason a VM that is paused is refused.
"""

EXAMPLES = r"""
- name: Let VMs stand on their own, without the template they were cloned from
  vmkeep.libvirt.vm_blockpull:
    vm: [db01, app01]

- name: Keep the templates and nothing between
  vmkeep.libvirt.vm_blockpull:
    vm: [db01, app01]
    max_depth: 1
    bandwidth: 100

- name: Name the image that a disk is to stand on
  vmkeep.libvirt.vm_blockpull:
    vm: [db01]
    disks: [vda]
    base: /var/lib/libvirt/images/debian-13.qcow2
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name.
  returned: always
  type: dict
  contains:
    disks:
      description: One entry for each disk, by target.
      returned: success
      type: dict
      contains:
        before:
          description: The chain before, active image first.
          type: list
          elements: str
        after:
          description: The chain after, active image first.
          type: list
          elements: str
        merged:
          description: The images that were pulled into the active one and are in the chain no more.
          type: list
          elements: str
        bytes:
          description: What these images have allocated, in bytes; so much is copied at most.
          type: int
    snapshots_removed:
      description: The snapshots whose record was removed since what they go back to left the chain, oldest first.
      returned: success
      type: list
      elements: str
    msg:
      description: What went wrong with this VM.
      returned: when it failed
      type: str
    exception:
      description: The traceback, where that was a fault of the collection itself.
      returned: when it failed for such a fault
      type: str
plan:
  description: The steps that were done, or would be done in check mode, each with C(vm) and C(step).
  returned: always
  type: list
  elements: dict
notes:
  description: What else is to be known, such as an image that was kept or an interrupted run that was cleaned up.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import VM_OPTIONS
from ..module_utils._pull import pull_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **VM_OPTIONS,
            "disks": {"type": "list", "elements": "str"},
            "base": {"type": "path"},
            "max_depth": {"type": "int"},
            "delete_merged": {"type": "bool", "default": True},
            "bandwidth": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    run(module, pull_operation)


if __name__ == "__main__":
    main()
