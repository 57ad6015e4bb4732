#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: shorten the backing chains of VMs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_blockcommit
short_description: Merge the overlays of VMs down into their own disks
version_added: 0.1.0
author: vmkeep contributors (@vmkeep)
description:
  - Brings the backing chain of each disk to the wanted shape by merging overlays into the image
    they stand on, on running and shut off VMs, several disks side by side.
  - Afterwards the live and the persistent definition, the image files and libvirt's record of
    snapshots agree. Snapshots whose overlays were merged are removed from the record and listed.
  - A VM's own disk is what it was defined on before its first snapshot. What is below that is a
    template, such as the cloud image of a thin clone, and is written only if O(base) names it. Where
    nothing tells which image is the own disk, since the record of a snapshot is gone, the task fails
    and names both that it may be.
  - Where somebody has committed the overlays of a snapshot by hand, its record and these files go, too,
    if nothing else is left of it. That the content was moved has to be certain, which it is as long as
    the same QEMU runs. Else they stay, and RV(notes) says so; M(vmkeep.libvirt.vm_snapshot) removes a
    snapshot by name.
  - A commit job of the same kind that an interrupted run left is taken up; any other job is left
    alone and the task fails.
  - A snapshot that another tool took is left alone as well. The task fails where it would be lost,
    unless O(base) or O(top) name the images.
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
      - The image that receives the data, by absolute path; by default the VM's own disk.
      - An image that another VM or image stands on is refused, and so is one in a repository of restore points.
    type: path
  top:
    description:
      - The uppermost image to merge, by absolute path; by default the active image.
      - The VM's own disk, or what is below it, is merged only if O(base) says into which image.
    type: path
  max_depth:
    description:
      - How many images may be left in the chain, counted down to the VM's own disk. The newest are
        kept, and the oldest overlays are merged into the own disk.
      - Not used together with O(base) or O(top).
    type: int
    default: 1
  needed:
    description:
      - What to do about overlays that cannot be merged without harm to a checkpoint, a snapshot of
        another tool or one beside the present state, an internal snapshot, or another VM or image.
      - V(refuse) fails for the VM. V(keep) leaves them alone and merges the oldest of the others, so
        more than O(max_depth) images may be left; RV(notes) then tells why.
      - V(keep) is not used together with O(base) or O(top).
    type: str
    choices: [refuse, keep]
    default: refuse
    version_added: 0.2.0
  delete_merged:
    description: Delete the merged images once the new chain has been verified.
    type: bool
    default: true
  bandwidth:
    description: Limit for each disk in MiB/s; V(0) for none.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Merge everything into the VMs' own disks
  vmkeep.libvirt.vm_blockcommit:
    vm: [db01, app01]

- name: Keep at most three images in each chain
  vmkeep.libvirt.vm_blockcommit:
    vm: [db01]
    max_depth: 3

- name: Keep chains short, around what checkpoints and others need
  vmkeep.libvirt.vm_blockcommit:
    vm: [db01, app01]
    max_depth: 4
    needed: keep

- name: Merge one overlay in the middle
  vmkeep.libvirt.vm_blockcommit:
    vm: [db01]
    disks: [vda]
    top: /var/lib/libvirt/images/db01.vda.tuesday.qcow2
    base: /var/lib/libvirt/images/db01.vda.monday.qcow2
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
          description: The images that were merged.
          type: list
          elements: str
        bytes:
          description: What the merged images had allocated, in bytes.
          type: int
        depth:
          description: How many images are left down to the VM's own disk.
          type: int
    snapshots_removed:
      description: The snapshots whose record was removed since their overlays were merged, oldest first.
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
  description: What else is to be known, such as an image that was not in a chain or an interrupted run that was cleaned up.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import VM_OPTIONS
from ..module_utils._commit import commit_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **VM_OPTIONS,
            "disks": {"type": "list", "elements": "str"},
            "base": {"type": "path"},
            "top": {"type": "path"},
            "max_depth": {"type": "int", "default": 1},
            "needed": {"type": "str", "choices": ["refuse", "keep"], "default": "refuse"},
            "delete_merged": {"type": "bool", "default": True},
            "bandwidth": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    run(module, commit_operation)


if __name__ == "__main__":
    main()
