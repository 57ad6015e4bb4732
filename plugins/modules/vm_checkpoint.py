#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: checkpoints of VMs, disks and memory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_checkpoint
short_description: Keep VMs with disks and memory, and let them go on from there
version_added: 0.1.0
author: vmkeep contributors (@vmkeep)
description:
  - Keeps the memory, the devices and all writable disks of a running VM at one point in time, from
    which it can go on as often as needed.
  - A checkpoint is an external snapshot with memory that libvirt lists like any other. The modules of
    this collection keep it whole, and refuse what would destroy it, such as a commit into its base.
  - All VMs of O(vm) have one point in time, see O(consistent_group).
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
    support: partial
    details:
      - O(state=present) and O(state=absent) are.
      - O(state=restored) acts whenever it is asked to, since nobody can see whether the guest has
        done anything since.
options:
  name:
    description:
      - Name of the checkpoint, 1 to 127 letters, digits or any of C(_.:@+-), starting with a letter,
        a digit or an underscore.
    type: str
    required: true
  state:
    description:
      - V(present) makes the checkpoint. The VM has to be running or paused.
      - V(restored) lets the VM go on from it, with the memory, the devices and the disks of then. What
        was written since is given up. The checkpoint stays as it is.
      - V(absent) removes it. What was written since is kept.
    type: str
    choices: [present, absent, restored]
    default: present
  directory:
    description:
      - Existing directory for overlays and the memory file. By default each overlay is put beside
        the image it stands on, and the memory file beside the first disk.
    type: path
  description:
    description: A text that is kept with the checkpoint.
    type: str
  live:
    description:
      - Let the guest run while most of its memory is written. Without it, the guest is paused for as
        long as that takes, and the file holds no page twice.
      - Several VMs with one point in time are always paused.
    type: bool
    default: true
  consistent_group:
    description:
      - Several VMs have one point in time, or none of them gets a checkpoint. They are paused together
        for as long as it takes to write their memory. None that is restored runs before all are.
      - A run that dies, or takes too long, resumes them.
      - Without it, each VM of O(vm) has a point in time of its own.
    type: bool
    default: true
  prove_way_back:
    description:
      - Take no checkpoint that the VM could not go back to as it is now. The plan of the way back, which
        O(state=restored) shows in check mode later, is made and held against what is there before
        anything is done, and a VM is refused where that would be.
      - What stands in the way only later cannot be seen before. Ask for O(state=restored) in check mode
        once more when the checkpoint is there, as the playbook C(patch_with_rollback) does.
    type: bool
    default: false
  run_after:
    description:
      - What the VM does after it was restored. V(unchanged), the default, is what it did at that point.
      - With V(shutoff) only its disks are brought back.
    type: str
    choices: [unchanged, running, paused, shutoff]
"""

EXAMPLES = r"""
- name: Keep the machine just as it is before a risky change
  vmkeep.libvirt.vm_checkpoint:
    vm: [db01]
    name: before-change
    directory: /var/lib/libvirt/checkpoints

- name: Let it go on from there
  vmkeep.libvirt.vm_checkpoint:
    vm: [db01]
    name: before-change
    state: restored

- name: The change is good, the checkpoint can go
  vmkeep.libvirt.vm_checkpoint:
    vm: [db01]
    name: before-change
    state: absent
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name.
  returned: always
  type: dict
  contains:
    checkpoint:
      description: The checkpoint, V(null) if it is absent.
      returned: success
      type: dict
      contains:
        name:
          description: Its name.
          type: str
        mode:
          description: Always V(external).
          type: str
        memory:
          description: Always V(true).
          type: bool
        memory_file:
          description: The file that holds the memory.
          type: str
        consistency:
          description: What the point in time is worth, V(memory).
          type: str
        description:
          description: The text that is kept with it.
          type: str
        disks:
          description: By target, the overlay that was created (C(file)) and the image that holds the point (C(image)).
          type: dict
    state:
      description: What the VM does now, such as V(running) or V(paused).
      returned: success
      type: str
    msg:
      description: What went wrong with this VM.
      returned: when it failed
      type: str
    exception:
      description: The traceback, where that was a fault of the collection itself.
      returned: when it failed for such a fault
      type: str
plan:
  description:
    - The steps that were done, or would be done in check mode, each with C(vm) and C(step).
    - The step that goes back names the disks and media that come and go, as pairs of target and image. They are C(attached),
      C(media) and C(detached).
  returned: always
  type: list
  elements: dict
notes:
  description: What else is to be known, such as an interrupted run that was cleaned up.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import VM_OPTIONS
from ..module_utils._checkpoint import checkpoint_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **VM_OPTIONS,
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["present", "absent", "restored"],
                "default": "present",
            },
            "directory": {"type": "path"},
            "description": {"type": "str"},
            "live": {"type": "bool", "default": True},
            "consistent_group": {"type": "bool", "default": True},
            "prove_way_back": {"type": "bool", "default": False},
            "run_after": {"type": "str", "choices": ["unchanged", "running", "paused", "shutoff"]},
        },
        supports_check_mode=True,
    )
    run(module, checkpoint_operation)


if __name__ == "__main__":
    main()
