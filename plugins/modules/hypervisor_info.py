#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what a hypervisor offers to this collection."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hypervisor_info
short_description: Tell whether a hypervisor has what this collection needs
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Connects to libvirt with the Python that Ansible uses, and fails with what to do about it where
    that is not possible.
  - Returns versions, the state of the guest agent of each VM, and the space that is free where the
    images of the VMs lie.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.info_module
options:
  uri:
    description:
      - The libvirt connection on the machine where the module runs, V(qemu:///system) or
        V(qemu:///session).
    type: str
    default: qemu:///system
  directory:
    description: Directories to look at besides those of the images.
    type: list
    elements: path
    default: []
requirements:
  - python3-libvirt of the distribution, for the Python that Ansible uses on the hypervisor
"""

EXAMPLES = r"""
- name: Look at the hypervisor
  vmkeep.libvirt.hypervisor_info:
  register: found

- name: List the running VMs that cannot be quiesced
  ansible.builtin.debug:
    msg: "{{ item.key }}: the guest agent is {{ item.value.agent }}"
  loop: "{{ found.vms | dict2items }}"
  when: item.value.active and item.value.agent != 'connected'
"""

RETURN = r"""
versions:
  description: The versions of C(libvirt) and of the C(qemu) that it starts.
  returned: success
  type: dict
  sample:
    libvirt: 9.0.0
    qemu: 7.2.22
python:
  description: The Python that ran the module, and so has the libvirt binding.
  returned: success
  type: str
  sample: /usr/bin/python3
qemu_img:
  description: The path of qemu-img, V(null) if it is not installed.
  returned: success
  type: str
  sample: /usr/bin/qemu-img
vms:
  description: One entry for each VM, by name.
  returned: success
  type: dict
  contains:
    active:
      description: Whether it runs or is paused.
      type: bool
    agent:
      description:
        - The channel of the guest agent. V(connected) if the agent is there, V(disconnected) if it is
          not (that is how it looks on a VM that is off), V(absent) if the VM has no such channel.
      type: str
    uuid:
      description: Its UUID.
      type: str
    title:
      description: The title in its definition, V('') if it has none.
      type: str
    persistent:
      description: Whether libvirt keeps it when it is off.
      type: bool
    copy_of:
      description: >-
        The UUID of the VM that it is a copy of, if M(vmkeep.libvirt.vm_restore) has made it under
        another name, else V(null).
      type: str
    trouble:
      description: >-
        Why its definition could not be read, V('') if it could. Then only its name, RV(vms.active)
        and RV(vms.uuid) are known, and the other VMs are returned all the same.
      type: str
directories:
  description: Where the image files of the VMs lie, and those of O(directory), by path.
  returned: success
  type: dict
  contains:
    free:
      description: The bytes that are free.
      type: int
    size:
      description: The bytes of the whole file system.
      type: int
    trouble:
      description: Why no file can be made there, V('') if it can.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._hypervisor import look_at_hypervisor
from ..module_utils._run import look


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "uri": {"type": "str", "default": "qemu:///system"},
            "directory": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    look(module, look_at_hypervisor)


if __name__ == "__main__":
    main()
