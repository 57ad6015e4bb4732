#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what snapshots VMs have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_snapshot_info
short_description: Show the snapshots and backing chains of VMs
version_added: 0.1.0
author: vmkeep contributors (@vmkeep)
description:
  - Returns the snapshots of VMs as list and as tree, and for each disk the chain as the images
    themselves tell it.
  - Says where libvirt's record and the chains disagree.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.libvirt_group
  - vmkeep.libvirt.attributes.info_module
  - vmkeep.libvirt.vm
options:
  name:
    description: Return only the snapshot of this name; the tree shows all of them.
    type: str
"""

EXAMPLES = r"""
- name: Look at two VMs
  vmkeep.libvirt.vm_snapshot_info:
    vm: [db01, app01]
  register: found

- name: Print the tree and the chain of the first disk
  ansible.builtin.debug:
    msg:
      - "{{ found.vms.db01.tree }}"
      - "{{ found.vms.db01.disks.vda.chain }}"
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name.
  returned: always
  type: dict
  contains:
    snapshots:
      description: The snapshots, oldest first.
      returned: success
      type: list
      elements: dict
      contains:
        name:
          description: Its name.
          type: str
        parent:
          description: The snapshot it descends from, V(null) for a root.
          type: str
        children:
          description: The snapshots that descend from it directly.
          type: list
          elements: str
        current:
          description: Whether libvirt regards it as the one that the VM descends from.
          type: bool
        mode:
          description: V(internal) or V(external).
          type: str
        memory:
          description: Whether it includes the memory.
          type: bool
        memory_file:
          description: The file that holds the memory of an external snapshot.
          type: str
        consistency:
          description: What the point in time is worth, V(offline), V(filesystem), V(memory) or V(crash).
          type: str
        created:
          description: When it was taken, in seconds since 1970.
          type: int
        state:
          description: The state of the VM at that point, as libvirt records it.
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
              snapshot of this collection.
          type: list
          elements: str
    tree:
      description: The tree as C(virsh snapshot-list --tree) draws it, the current snapshot marked by an asterisk.
      returned: success
      type: str
    disks:
      description: By target, C(source), C(chain) (active image first) and C(persistent), the image that the definition on disk names.
      returned: success
      type: dict
    disagreements:
      description: Where the record of libvirt, the definition and the images do not say the same.
      returned: success
      type: list
      elements: str
    state:
      description: The state of the VM.
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
  description: Always empty.
  returned: always
  type: list
  elements: dict
notes:
  description: Always empty.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import VM_OPTIONS
from ..module_utils._run import run
from ..module_utils._snapshot_info import snapshot_info


def main() -> None:
    module = AnsibleModule(
        argument_spec={**VM_OPTIONS, "name": {"type": "str"}},
        supports_check_mode=True,
    )
    run(module, snapshot_info)


if __name__ == "__main__":
    main()
