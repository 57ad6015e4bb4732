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
      - Where not all disks of the VM are taken, only the file systems on those that are taken are
        frozen, if the guest tells of each of its file systems on which disks it lies, beyond doubt. Else
        all are. Disks on which nothing is mounted cannot be quiesced.
      - A guest that was frozen is thawed in any case, also when the run is killed.
    type: str
    choices: [required, preferred, never]
    default: preferred
  freeze_timeout:
    description: Seconds that the guest may stay frozen at most.
    type: int
    default: 10
  flush:
    description:
      - Whether the guest writes out what it holds in memory before it is frozen, while it goes on. A
        freeze first blocks all writes and then writes everything out, which can take long where the
        guest has written much, or its disks are slow.
      - V(auto) lets the agent run C(sync) in the guest, once more as long as that gets clearly shorter.
        Where the agent cannot or may not run programs (C(guest-exec)), RV(ignore:notes) says so.
      - V(never) does not try. Nothing is run in a guest that is not to be frozen.
    type: str
    choices: [auto, never]
    default: auto
  flush_timeout:
    description:
      - Seconds that the guest may write out at most. When they are over it is frozen all the same, for
        no longer than it may be.
    type: int
    default: 60
"""

    FLUSH = r"""
options:
  flush:
    description:
      - Whether the guest writes out what it holds in memory before it is frozen, while it goes on. A
        freeze first blocks all writes and then writes everything out, which can take long where the
        guest has written much, or its disks are slow.
      - V(auto) lets the agent run C(sync) in the guest, once more as long as that gets clearly shorter.
        Where the agent cannot or may not run programs (C(guest-exec)), RV(ignore:notes) says so.
      - V(never) does not try.
    type: str
    choices: [auto, never]
    default: auto
  flush_timeout:
    description:
      - Seconds that the guest may write out at most. When they are over it is frozen all the same.
    type: int
    default: 60
"""
