#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: save the memory of VMs and let them go on from there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_memory
short_description: Save the memory of VMs to disk, and let them go on from there
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Writes the memory of a VM to a file and switches it off, and later lets it go on as if nothing
    had happened, for example around a reboot of the hypervisor.
  - A VM is paused while its memory is written. How long that takes follows from how much memory it
    uses.
  - A save goes on from the disks as they were. If one was written since, the guest would destroy
    its file systems, so the module compares every image with what it was right after the save, and
    refuses with an error that says which disk and by how much.
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
  state:
    description:
      - V(saved) saves the memory of a VM that is running or paused. A VM that is off and not saved
        is an error.
      - V(running) lets a saved VM go on, also if it was paused when it was saved. A VM that is off
        and not saved is booted, unless O(path) is set, and one that is paused is resumed.
    type: str
    choices: [saved, running]
    required: true
  path:
    description:
      - The file for the memory, by absolute path. If it is an existing directory or ends with a
        slash, the file is C(NAME.save) in it; so it has to be for several VMs.
      - By default libvirt keeps the memory (a managed save), and whatever starts the VM lets it go
        on from there.
      - A transient VM cannot have a managed save. With O(path) it goes on from the definition in
        the file.
      - The file has mode 0600. An existing file is never written over. When the VM has gone on from
        it, the file is removed, as libvirt does with a managed save, since it can be used only once.
    type: path
notes:
  - The record of what the disks were is kept in O(state_dir). For a save that was made otherwise, the
    times of the images are compared with that of the file.
  - Writes to block devices cannot be seen; the result then has a note.
"""

EXAMPLES = r"""
- name: Save what runs before the hypervisor is rebooted
  vmkeep.libvirt.vm_memory:
    vm: [db01, app01]
    state: saved

- name: Let it go on
  vmkeep.libvirt.vm_memory:
    vm: [db01, app01]
    state: running

- name: Save to a directory of its own
  vmkeep.libvirt.vm_memory:
    vm: [db01, app01]
    state: saved
    path: /var/lib/libvirt/saves/
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name.
  returned: always
  type: dict
  contains:
    state:
      description: V(saved), V(running), or whatever else the VM is.
      returned: success
      type: str
    path:
      description: The file that holds the memory; V(null) for a managed save, and for a VM that is not saved.
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
  description: The steps that were done, or would be done in check mode, each with C(vm) and C(step).
  returned: always
  type: list
  elements: dict
notes:
  description: What else is to be known, such as a disk of which nobody can tell whether it was written, or an interrupted run that was cleaned up.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import VM_OPTIONS
from ..module_utils._memory import memory_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **VM_OPTIONS,
            "state": {"type": "str", "choices": ["saved", "running"], "required": True},
            "path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    run(module, memory_operation)


if __name__ == "__main__":
    main()
