#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: wait for the agent of guests, and run a program in them by it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_guest_exec
short_description: Wait for guest agents, and run a program in the guests
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Runs a program in guests by the guest agent, so that no network is needed. Without O(command) it
    only waits for the agents.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.libvirt_group
  - vmkeep.libvirt.vm
attributes:
  check_mode:
    support: full
    details:
      - Nothing is run and nothing is waited for.
  diff_mode:
    support: N/A
    details:
      - What a program changes in a guest cannot be seen.
  idempotent:
    support: N/A
    details:
      - That depends on the program.
options:
  command:
    description:
      - The program and its arguments. No shell reads them.
      - The task fails if the program does not end with status 0.
    type: list
    elements: str
  wait:
    description: How many seconds to wait for the agent to answer, such as while the guest boots.
    type: int
    default: 0
notes:
  - O(timeout) is how long the program may run. The agent has no way to end it, so after that it goes on.
  - The agent has to allow C(guest-exec), which some distributions forbid by default.
"""

EXAMPLES = r"""
- name: Wait until a guest is up, and look whether its database answers
  vmkeep.libvirt.vm_guest_exec:
    vm: [db01-drill]
    wait: 300
    timeout: 30
    command: [pg_isready, --timeout=20]
  register: found
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name.
  returned: always
  type: dict
  contains:
    waited:
      description: How many seconds it took until the agent answered, V(null) in check mode.
      returned: success
      type: float
    rc:
      description: The status by which the program ended, V(null) without one and in check mode.
      returned: success, or when the program failed
      type: int
    stdout:
      description: What it wrote to its standard output.
      returned: success, or when the program failed
      type: str
    stderr:
      description: What it wrote to its standard error.
      returned: success, or when the program failed
      type: str
    truncated:
      description: Whether the agent has kept only the beginning of that.
      returned: success, or when the program failed
      type: bool
    seconds:
      description: How long it ran.
      returned: success, or when the program failed
      type: float
    msg:
      description: What went wrong with this VM.
      returned: when it failed
      type: str
    exception:
      description: The traceback, where that was a fault of the collection itself.
      returned: when it failed for such a fault
      type: str
plan:
  description: The steps that were done, or would be done in check mode, each with C(vm), C(step) and C(command).
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
from ..module_utils._guest_exec import guest_exec_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **VM_OPTIONS,
            "command": {"type": "list", "elements": "str"},
            "wait": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    run(module, guest_exec_operation)


if __name__ == "__main__":
    main()
