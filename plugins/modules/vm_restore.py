#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: bring VMs back from a repository of restore points."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_restore
short_description: Bring VMs back from a repository of restore points
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Makes a VM what it was at a restore point that M(vmkeep.libvirt.vm_backup) has made, or makes
    another VM of it under a new name.
  - New images are made beside the present ones, each cluster is written once however many increments
    there are, and every byte that is read is held against the manifests meanwhile. Only when all is
    right the VM is defined on them, by one call. Until then nothing of the VM changes, and the images
    that it had are never written to.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.libvirt_group
  - vmkeep.libvirt.vm
attributes:
  check_mode:
    support: full
    details:
      - The content of the restore point is not read, but for its manifests, the definition and the
        headers of its images.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - A VM that was restored from this point and is off is restored again if something was written to
        its images since. While it runs, or where it was restored under another name, nothing is
        changed, and a note says that it has run.
      - With O(point=latest) a newer restore point is another one.
options:
  vm:
    description:
      - Names or UUIDs of the VMs as the repository knows them. libvirt need not know them any more.
      - A failure of one VM is reported in its own entry of RV(vms), the others go on, and the task fails
        at the end with every result present.
    type: list
    elements: str
    required: true
    aliases: [domain, guest]
  repository:
    description: The directory with the restore points, by absolute path.
    type: path
    required: true
  point:
    description:
      - Which restore point. V(latest) is the newest that nothing is known against.
      - An ID names one. A time such as V(2026-11-25T03:00:00Z), in UTC where it does not say, names the
        newest point that is not later.
      - Both prefer points that have all O(disks), or without that option those of all disks.
    type: str
    default: latest
  as:
    description:
      - Restore under this name, as a VM of its own, beside the one that was backed up. Only for one VM.
      - It gets a UUID, MAC addresses, files and sockets of its own, which follow from the repository and
        the name, so that a second run finds it. Fixed ports for the screen become automatic ones. It
        does not start with the host.
      - A disk that is not in the restore point, and that a guest could write to, is not in the new VM.
    type: str
  disks:
    description:
      - Targets of the disks to restore, such as V(vda). By default all that are in the restore point.
      - Where it is set, the variables of the firmware are left alone.
    type: list
    elements: str
  directory:
    description:
      - Where the images are made. By default beside the image that the disk has now, and for a VM
        that is not there, or with O(as), beside where it was when it was backed up.
      - The names are C(NAME-TARGET.POINT.qcow2), or C(.raw), with a number if that is taken. No file is
        ever written over.
      - A disk that is a block device, a volume or on the network becomes a file if this is set, and is
        refused by name if not.
    type: path
  start:
    description: Start the VM when it is restored.
    type: bool
    default: false
  instant:
    description:
      - Let the VM stand on the images in the repository, so that it boots within seconds. With
        O(start) the content is pulled in while it runs, and the task ends when that is done and the VM
        stands for itself.
      - Without O(start) it stays so, and M(vmkeep.libvirt.vm_blockpull) can end it. As long as it does,
        M(vmkeep.libvirt.vm_backup_prune) keeps the restore point, and nothing of it may be moved.
      - A restore point that M(vmkeep.libvirt.vm_backup_info) has verified is not read again before; any
        other one is read in full first.
      - QEMU has to be able to read the repository. libvirt then makes its images belong to the user of
        QEMU while the VM runs.
    type: bool
    default: false
  force:
    description:
      - Let a VM that runs be stopped, without asking its guest, once all new images are ready. Without
        it a VM that runs is refused.
      - It stays off then unless O(start) is set.
    type: bool
    default: false
  networks:
    description: With V(false) the VM is defined without any network interface.
    type: bool
    default: true
  delete_replaced:
    description:
      - Remove the images that were replaced, once the VM is defined on the new ones. By default they
        are kept.
      - What these images stand on in turn is kept, as is all that something else needs. Of a VM
        that has snapshots nothing is removed.
    type: bool
    default: false
notes:
  - A VM that exists keeps its present definition, only its disks change; of one that does not, the
    stored definition is used.
  - The snapshots of a VM stay on record, and go back to the images that it had. Checkpoints of libvirt
    that M(vmkeep.libvirt.vm_backup) has made are forgotten, so that the next backup is a full one.
  - A task that was killed leaves drafts (C(.vmkeep-restore.*)) beside the images. The next restore of the
    same VM to the same directory removes them.
  - O(timeout) bounds the restore of each VM as a whole.
  - Files have to be on a file system with hard links.
  - The state of an emulated TPM is put back where libvirt keeps it, right before the definition; what
    was there is kept beside, as C(*.before-POINT).
seealso:
  - module: vmkeep.libvirt.vm_blockpull
"""

EXAMPLES = r"""
- name: Bring a VM back to its newest restore point
  vmkeep.libvirt.vm_restore:
    vm: [db01]
    repository: /srv/backup
    start: true

- name: Look at what it was last night, beside the one that runs
  vmkeep.libvirt.vm_restore:
    vm: [db01]
    repository: /srv/backup
    point: "2026-11-25T03:00:00Z"
    as: db01-last-night
    networks: false
    start: true

- name: Be back within seconds, and stop what runs for that
  vmkeep.libvirt.vm_restore:
    vm: [db01]
    repository: /srv/backup
    instant: true
    start: true
    force: true

- name: Bring one disk back
  vmkeep.libvirt.vm_restore:
    vm: [db01]
    repository: /srv/backup
    point: 20261124T030000Z
    disks: [vdb]
"""

RETURN = r"""
vms:
  description: One entry for each VM, by the name that the repository has for it.
  returned: always
  type: dict
  contains:
    restored:
      description: What the VM is now.
      returned: success
      type: dict
      contains:
        point:
          description: The ID of the restore point.
          type: str
          returned: success
        time:
          description: The point in time, in UTC.
          type: str
          returned: success
        consistency:
          description: What it is worth, V(offline), V(filesystem) or V(crash).
          type: str
          returned: success
        vm:
          description: The name of the VM that was restored.
          type: str
          returned: success
        uuid:
          description: Its UUID.
          type: str
          returned: success
        disks:
          description:
            - By target, C(file) (the image), C(from) (the image in the repository) and C(bytes) (what
              C(file) takes; in check mode about that).
          type: dict
          returned: success
        replaced:
          description: The files that the VM had before, and that are still there.
          type: list
          elements: str
          returned: success
        instant:
          description: Whether images of the VM stand on the repository now.
          type: bool
          returned: success
        seconds:
          description: How long it took, V(0) if there was nothing to do.
          type: float
          returned: success
    state:
      description: V(running), V(shutoff), or whatever else the VM is.
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
  description: What else is to be known, such as a disk that is not in the restore point.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import VM_OPTIONS
from ..module_utils._restore import restore_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **VM_OPTIONS,
            "repository": {"type": "path", "required": True},
            "point": {"type": "str", "default": "latest"},
            "as": {"type": "str"},
            "disks": {"type": "list", "elements": "str"},
            "directory": {"type": "path"},
            "start": {"type": "bool", "default": False},
            "instant": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "networks": {"type": "bool", "default": True},
            "delete_replaced": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run(module, restore_operation)


if __name__ == "__main__":
    main()
