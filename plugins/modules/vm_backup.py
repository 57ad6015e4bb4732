#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: back up VMs into a repository of restore points."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_backup
short_description: Back up VMs, incrementally where that can be
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Makes a restore point of each VM in a repository, a plain directory whose images C(qemu-img) can open.
  - A running VM is backed up by libvirt's backup job, all disks at one point in time. The guest is
    frozen only while that begins. A VM that is off is copied, and cannot be started meanwhile.
  - An increment holds what has changed since the last restore point, by the bitmaps of a backup
    checkpoint of libvirt. Where these cannot be trusted the next restore point is a full one, and
    RV(ignore:vms.restore_point.reason) says why. Of a VM that is off both images are compared.
  - A restore point exists once its manifest has been written, when all of its files are on disk. What a
    run that was killed has left is removed by the next one, and is never taken for a restore point.
  - Checkpoints of other tools are left alone.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.libvirt_group
  - vmkeep.libvirt.vm
  - vmkeep.libvirt.vm.quiesce
attributes:
  check_mode:
    support: full
    details:
      - Bitmaps are examined only when a backup begins, since libvirt has no way to look at them that
        changes nothing. Where they are broken, a full restore point is made of what was announced as
        an increment.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - With O(max_age) a second run finds that the restore point is young enough. Without it each run
        makes one.
options:
  repository:
    description:
      - The directory of the restore points, which has to exist. It becomes a repository by the first
        backup.
      - QEMU, which often runs as another user, writes the images itself, so that user has to be able to
        pass through all directories above. Those that are made here allow that.
    type: path
    required: true
  type:
    description:
      - V(auto) makes an increment where that can be, else a full restore point.
      - V(incremental) fails where there can be no increment.
    type: str
    choices: [auto, full, incremental]
    default: auto
  max_age:
    description:
      - Make no restore point if there is one that is younger and that nothing is known against.
      - A number of seconds, or one with a unit, V(s), V(m), V(h), V(d) or V(w), such as V(24h).
    type: str
  max_increments:
    description:
      - How many increments may stand on a full restore point before the next full one is made, at most 100.
    type: int
    default: 30
  disks:
    description:
      - The targets of the disks to back up, by default all that the guest writes to.
      - CD-ROM, floppy and read-only disks are left out, which the manifest says.
    type: list
    elements: str
  without:
    description:
      - States of a VM that need not be kept with it, where they cannot be, V(nvram) (the variables of its
        firmware) and V(tpm). Notes tell what was left out.
      - NVRAM on a block device or on the network, a firmware that is written to itself, a TPM that is no
        emulated one, and the state of a TPM in a file of its own cannot be kept, and such a VM is refused
        without this.
    type: list
    elements: str
    choices: [nvram, tpm]
    default: []
  protected:
    description: Let the restore point never be pruned by M(vmkeep.libvirt.vm_backup_prune).
    type: bool
    default: false
  parallel:
    description: How many VMs are backed up side by side.
    type: int
    default: 2
  now:
    description:
      - The time that counts as now, in ISO 8601 and in UTC unless it says otherwise. It names the
        restore point and tells the age of others.
      - By default the clock of the hypervisor.
    type: str
notes:
  - Disks of format qcow2 (version 3) can be incremental. Raw images, block devices and qcow2 of version
    2 are copied in full each time a running VM is backed up. So is a disk that is new or was resized, or has
    another target than before.
  - A disk that was made smaller by hand while its VM was off, and then as large as before again, is not
    noticed, since QEMU keeps no record of what it cut off. Take a full restore point after that (O(type=full)).
  - The definition, the variables of the firmware and the state of an emulated TPM are kept as well.
    Where a session of libvirt keeps the latter depends on E(XDG_CONFIG_HOME), which is then to be that
    of its daemon. A running VM whose TPM has no state there is refused, and so is one with such a state
    in another form (see O(without)). The secret that such a state is encrypted with is not kept; a note
    names it.
  - The room for the images of a running VM is held before the backup begins (C(fallocate)), so that a
    repository that fills up meanwhile does not stop the guest. What is not needed is given back at the end.
    File systems without C(fallocate), such as NFS before 4.2, cannot hold room; there the backup is ended when
    less than 32 MiB are left, and a guest that QEMU has paused nevertheless goes on, which a note tells.
    Where the repository is on the file system of the VM's own images, up to 256 MiB have to be left to
    the guest, and the backup is given up for it when less than half of that is left.
  - A disk of another format is refused by name. An image of qcow2 may stand on one.
  - An encrypted disk is refused, since libvirt would write its content in the clear.
  - There is no limit of bandwidth, since libvirt has none for backups.
  - A backup of many bytes tells the system's log every 30 seconds how far it is, and
    M(vmkeep.libvirt.vm_backup_info) shows it meanwhile.
"""

EXAMPLES = r"""
- name: Give two VMs a restore point that is not older than a day
  vmkeep.libvirt.vm_backup:
    vm: [db01, app01]
    repository: /srv/backup
    max_age: 24h

- name: Keep the state before a migration for good
  vmkeep.libvirt.vm_backup:
    vm: [db01]
    repository: /srv/backup
    type: full
    quiesce: required
    protected: true
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name.
  returned: always
  type: dict
  contains:
    restore_point:
      description:
        - The newest restore point that nothing is known against, which was made by this run or was young
          enough. In check mode, the one that would be made as far as it can be foreseen.
      returned: success
      type: dict
      contains:
        id:
          description: Its name in the repository.
          type: str
        type:
          description: V(full) or V(incremental).
          type: str
        reason:
          description: Why it is of that type.
          type: str
        parent:
          description: The restore point that it stands on, V(null) for a full one.
          type: str
        time:
          description: The point in time, in UTC.
          type: str
        consistency:
          description: What it is worth, V(offline) (it was off, however it came to be), V(filesystem) or V(crash).
          type: str
        bytes:
          description: What its files take.
          type: int
        seconds:
          description: How long the backup ran.
          type: float
        frozen_ms:
          description: How long the guest was frozen, in milliseconds.
          type: int
        flush_ms:
          description: How long the guest wrote out before it was frozen, in milliseconds, 0 if it did not.
          type: int
        disks:
          description: By target, the image (C(file)) and its C(type).
          type: dict
        left_out:
          description: By target, the disks that are not in it, with the reason.
          type: dict
        protected:
          description: Whether it is never pruned.
          type: bool
        path:
          description: The folder of the restore point.
          type: str
        depth:
          description: How many restore points are read to restore it, itself included.
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
  description: What else is to be known, such as what an interrupted run had left, or why the guest was not frozen.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import QUIESCE_OPTIONS, VM_OPTIONS
from ..module_utils._backup import backup_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **VM_OPTIONS,
            **QUIESCE_OPTIONS,
            "repository": {"type": "path", "required": True},
            "type": {
                "type": "str",
                "choices": ["auto", "full", "incremental"],
                "default": "auto",
            },
            "max_age": {"type": "str"},
            "max_increments": {"type": "int", "default": 30},
            "disks": {"type": "list", "elements": "str"},
            "without": {
                "type": "list",
                "elements": "str",
                "choices": ["nvram", "tpm"],
                "default": [],
            },
            "protected": {"type": "bool", "default": False},
            "parallel": {"type": "int", "default": 2},
            "now": {"type": "str"},
        },
        supports_check_mode=True,
    )
    run(module, backup_operation)


if __name__ == "__main__":
    main()
