#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: freeze the file systems of guests for longer than one task."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_freeze
short_description: Freeze the file systems of VMs with a deadline, and thaw them
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Lets the guest agent freeze the file systems of running VMs, so that the tasks that follow find
    their disks at rest, such as snapshots of the storage below.
  - The guest thaws by itself at the deadline, though the task is long over. A process on the
    hypervisor sees to that. Should it be killed, the next run of any module of this collection that
    changes that VM thaws the guest, and so does the next V(thawed).
  - A run that is killed before it has told that a guest is frozen thaws it at once.
  - The modules that take snapshots need no such task, they freeze and thaw by themselves.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.libvirt_group
  - vmkeep.libvirt.vm
  - vmkeep.libvirt.vm.flush
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
      - V(frozen) freezes the guests side by side. One that this module has frozen stays as it is,
        and thaws when its first deadline is over, so running the task again does not prolong it.
        One that somebody else has frozen is refused, since nobody knows when that ends.
      - V(thawed) thaws them, whoever has frozen them, and asks the agent whether they are. A VM
        that is off is not frozen.
    type: str
    choices: [frozen, thawed]
    required: true
  deadline:
    description:
      - Seconds after which a guest thaws by itself.
      - Programs in the guest wait as soon as they write. Some guests end a freeze earlier, Windows
        after 10 seconds.
    type: int
    default: 60
  mountpoints:
    description:
      - Freeze only the file systems that are mounted there in the guest, by default all that can
        be frozen. One that is not there, or cannot be frozen, is an error.
    type: list
    elements: str
notes:
  - A guest that is switched off, or reset, is no longer frozen.
  - The process that waits for the deadline is an ordinary one. A login manager that ends all
    processes of a user at logout (C(KillUserProcesses=yes)) ends it as well, if Ansible logs in as
    that user.
"""

EXAMPLES = r"""
- name: Snapshot the volume below two VMs at rest
  block:
    - name: Freeze both
      vmkeep.libvirt.vm_freeze:
        vm: [db01, app01]
        state: frozen
        deadline: 30

    - name: Take a snapshot of the volume
      ansible.builtin.command: lvcreate --snapshot --name images-before --size 10G vg0/images
      changed_when: true
  always:
    - name: Thaw both
      vmkeep.libvirt.vm_freeze:
        vm: [db01, app01]
        state: thawed

- name: Freeze only the data of a database
  vmkeep.libvirt.vm_freeze:
    vm: [db01]
    state: frozen
    mountpoints: [/var/lib/postgresql]
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name.
  returned: always
  type: dict
  contains:
    frozen:
      description: Whether the file systems of the guest are frozen.
      returned: success
      type: bool
    mountpoints:
      description: Where what is frozen is mounted in the guest, sorted; empty if the agent does not tell.
      returned: success
      type: list
      elements: str
    thaws_at:
      description: When the guest will thaw by itself (ISO 8601, in UTC); V(null) if it is not frozen, and in check mode.
      returned: success
      type: str
    flush_ms:
      description: Milliseconds in which the guest wrote out before it was frozen, 0 if it did not; V(null) in check mode.
      returned: when it is frozen
      type: int
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
  description: What else is to be known, such as a file system that cannot be frozen, or an interrupted run that was cleaned up.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import FLUSH_OPTIONS, VM_OPTIONS
from ..module_utils._freeze import freeze_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **VM_OPTIONS,
            **FLUSH_OPTIONS,
            "state": {"type": "str", "choices": ["frozen", "thawed"], "required": True},
            "deadline": {"type": "int", "default": 60},
            "mountpoints": {"type": "list", "elements": "str"},
        },
        supports_check_mode=True,
    )
    run(module, freeze_operation)


if __name__ == "__main__":
    main()
