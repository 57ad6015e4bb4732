#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: take VMs away that were restored under another name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_discard
short_description: Take VMs away that were restored under another name
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Removes a VM that M(vmkeep.libvirt.vm_restore) has made under another name (its option C(as)), with its
    definition and the images that were made for it. What was written there is lost.
  - Any other VM is refused, and so is one that has got snapshots, other images or another name since, and one
    whose images something else stands on. Images that were attached later are left alone.
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
  vm:
    description:
      - Names or UUIDs of the VMs to remove. One that is not there is as wanted.
      - A failure of one VM is reported in its own entry of RV(vms), the others go on, and the task
        fails at the end with every result present.
  force:
    description: Let a VM that runs be stopped, without asking its guest. Without it a VM that runs is refused.
    type: bool
    default: false
notes:
  - The images go before the definition that names them, so that a run that was killed can be repeated.
  - Files that ports of the VM were written to, such as a log of its console, are left.
seealso:
  - module: vmkeep.libvirt.vm_restore
"""

EXAMPLES = r"""
- name: Look at what the VM was last night
  vmkeep.libvirt.vm_restore:
    vm: [db01]
    repository: /srv/backup
    as: db01-last-night
    networks: false
    start: true

# ...

- name: Remove it again
  vmkeep.libvirt.vm_discard:
    vm: [db01-last-night]
    force: true
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name.
  returned: always
  type: dict
  contains:
    removed:
      description: The files that were removed, or would be in check mode.
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
  description: >-
    The steps that were done, or would be done in check mode, each with C(vm) and C(step), which is C(stop_vm),
    C(remove_file) (with C(file)) or C(undefine_vm).
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
from ..module_utils._discard import discard_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={**VM_OPTIONS, "force": {"type": "bool", "default": False}},
        supports_check_mode=True,
    )
    run(module, discard_operation)


if __name__ == "__main__":
    main()
