#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what checkpoints VMs have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_checkpoint_info
short_description: Show the checkpoints of VMs
version_added: 0.1.0
author: vmkeep contributors (@vmkeep)
description:
  - Returns the checkpoints that M(vmkeep.libvirt.vm_checkpoint) has made of VMs.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.libvirt_group
  - vmkeep.libvirt.attributes.info_module
  - vmkeep.libvirt.vm
options:
  name:
    description: Return only the checkpoint of this name.
    type: str
"""

EXAMPLES = r"""
- name: Look for a checkpoint
  vmkeep.libvirt.vm_checkpoint_info:
    vm: [db01]
    name: before-change
  register: found
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name.
  returned: always
  type: dict
  contains:
    checkpoints:
      description: The checkpoints, oldest first.
      returned: success
      type: list
      elements: dict
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
        problems:
          description:
            - Why the VM cannot be brought back to it, by disk and image, empty for one that is whole.
            - An image that holds it, or one below that, may be gone, be in use again, have been put
              on another base, or have been written to by something else than this collection. Of
              the last ones time, tables and names in the images tell, which are recorded with each
              checkpoint of this collection.
          type: list
          elements: str
        parent:
          description: The snapshot or checkpoint it descends from, V(null) for a root.
          type: str
        children:
          description: The snapshots and checkpoints that descend from it.
          type: list
          elements: str
        current:
          description: Whether the present state descends from it.
          type: bool
        created:
          description: When it was made, in seconds since 1970.
          type: int
        state:
          description: What the VM did at that point, V(running) or V(paused).
          type: str
    state:
      description: What the VM does now.
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
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import VM_OPTIONS
from ..module_utils._run import run
from ..module_utils._snapshot_info import checkpoint_info


def main() -> None:
    module = AnsibleModule(
        argument_spec={**VM_OPTIONS, "name": {"type": "str"}}, supports_check_mode=True
    )
    run(module, checkpoint_info)


if __name__ == "__main__":
    main()
