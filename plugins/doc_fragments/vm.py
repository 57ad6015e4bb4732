# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and notes of all modules that work on VMs."""

from __future__ import annotations


class ModuleDocFragment:
    """Composed by every C(vm_*) module."""

    DOCUMENTATION = r"""
options:
  vm:
    description:
      - Names or UUIDs of the VMs to work on. One task over many VMs costs about as much as over one.
      - A failure of one VM is reported in its own entry of RV(ignore:vms), the others go on, and the
        task fails at the end with every result present.
    type: list
    elements: str
    required: true
    aliases: [domain, guest]
  uri:
    description:
      - The libvirt connection on the machine where the module runs, V(qemu:///system) or
        V(qemu:///session).
      - A URI that points to another host is refused, because the images are where the hypervisor
        is. Let the task run there instead, by inventory or C(delegate_to).
    type: str
    default: qemu:///system
  timeout:
    description: Seconds that one long operation, such as a block commit, may take at most.
    type: int
    default: 3600
  lock_timeout:
    description: Seconds to wait for another run of this collection that works on the same VM.
    type: int
    default: 30
  state_dir:
    description:
      - Where locks and journals are kept. It has to outlive the run and to be the same for all runs.
      - The default is C(/var/lib/vmkeep), and for a session URI C(vmkeep) in C($XDG_STATE_HOME) or
        C(~/.local/state).
    type: path
requirements:
  - python3-libvirt of the distribution, for the Python that Ansible uses on the hypervisor
  - qemu-img
notes:
  - A run that was killed is finished or undone by the next run on the same VM, which reports it in
    RV(ignore:notes).
"""

    QUIESCE = r"""
options:
  quiesce:
    description:
      - Whether the guest agent freezes the file systems around the point in time.
      - V(required) fails where that is not possible, V(preferred) goes on and says so, V(never)
        does not try.
      - A guest that was frozen is thawed in any case, also when the run is killed.
    type: str
    choices: [required, preferred, never]
    default: preferred
  freeze_timeout:
    description: Seconds that the guest may stay frozen at most.
    type: int
    default: 10
"""
