#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what restore points of VMs there are, and whether they would restore."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_backup_info
short_description: Show and verify the restore points of VMs
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Returns the restore points that a repository holds, what each of them stands on, and those that
    would not restore.
  - With O(verify=true) every byte is read and held against the manifests, and the record of that is
    kept beside them.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.libvirt_group
  - vmkeep.libvirt.repository
attributes:
  check_mode:
    support: full
    details:
      - This module changes no restore point. In check mode it does not record either what O(verify)
        has found.
  diff_mode:
    support: N/A
    details:
      - This module changes no restore point.
  idempotent:
    support: full
    details:
      - This module changes no restore point.
options:
  verify:
    description:
      - Whether the files of the restore points are read in full. Sizes and SHA-256 are compared with
        the manifests, the images themselves are asked what they stand on, and C(qemu-img check) looks
        into each of them.
      - If a restore point would not restore, the task fails and names it, with all results present.
      - Without it, manifests are read and names, sizes and parents compared, which is quick.
    type: bool
    default: false
  verify_points:
    description:
      - Ids of the restore points to verify, by default all. What they stand on is verified as well.
      - It implies O(verify=true). A VM that has none of them fails.
    type: list
    elements: str
  parallel:
    description: How many files are read side by side.
    type: int
    default: 2
  now:
    description: The time that counts as now, in ISO 8601, for ages and for when something was verified.
    type: str
seealso:
  - module: vmkeep.libvirt.vm_backup_prune
notes:
  - While restore points are verified, none of the VM is replaced or removed. New ones can be made.
  - What was found stays known, so a restore point that was found bad counts as bad until it is
    verified again.
"""

EXAMPLES = r"""
- name: Look at the restore points of all VMs
  vmkeep.libvirt.vm_backup_info:
    repository: /srv/backup
  register: backups

- name: Insist on a restore point that is no older than a day
  ansible.builtin.assert:
    that: item.value.newest and item.value.age < 86400
    fail_msg: "{{ item.key }} has no restore point of the last day"
  loop: "{{ backups.vms | dict2items }}"

- name: Read every byte of the restore points of one VM
  vmkeep.libvirt.vm_backup_info:
    repository: /srv/backup
    vm: [db01]
    verify: true

- name: Read those that a restore of the newest would read
  vmkeep.libvirt.vm_backup_info:
    repository: /srv/backup
    vm: [db01]
    verify_points: ["{{ backups.vms.db01.newest }}"]
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name, or by UUID where several have one name.
  returned: always
  type: dict
  contains:
    uuid:
      description: The UUID of the VM, by which the repository knows it.
      returned: success
      type: str
    restore_points:
      description: The restore points, oldest first.
      returned: if they can be read
      type: list
      elements: dict
      contains:
        id:
          description: Its id, which is also the name of its folder.
          type: str
          sample: 20261125T030000Z
        type:
          description: V(full) or V(incremental).
          type: str
        parent:
          description: Id of the restore point that it stands on, V(null) for a full one.
          type: str
        time:
          description: The point in time, in UTC.
          type: str
          sample: "2026-11-25T03:00:00Z"
        consistency:
          description: What the point in time is worth, V(offline), V(filesystem) or V(crash).
          type: str
        bytes:
          description: What its own files take.
          type: int
        seconds:
          description: How long the backup took.
          type: float
        depth:
          description: How many images have to be read to restore it, of the disk with most.
          type: int
        path:
          description: Its folder.
          type: str
        disks:
          description: Its disks.
          type: list
          elements: dict
          contains:
            target:
              description: Name of the disk in the VM.
              type: str
            type:
              description: V(full) or V(incremental).
              type: str
            file:
              description: Name of the qcow2 image in the folder.
              type: str
            bytes:
              description: Size of this image.
              type: int
            virtual_size:
              description: Size of the disk in bytes.
              type: int
            format:
              description: Format of the image that the VM used.
              type: str
            source:
              description: Where that was.
              type: str
        left_out:
          description: Disks that are not in it (C(target)), and why (C(reason)).
          type: list
          elements: dict
        protected:
          description: Whether it was asked never to be pruned.
          type: bool
        reason:
          description: Why it is full or incremental.
          type: str
        verified:
          description:
            - What was found when it was last read in full, V(null) if it was not yet as it is now.
            - It is about the files of this restore point alone. Whether what it stands on is good,
              too, is in C(good).
          type: dict
          contains:
            at:
              description: When that was.
              type: str
            ok:
              description: Whether every byte was right.
              type: bool
            trouble:
              description: What was wrong, V('') if nothing.
              type: str
        verified_now:
          description: Whether it was read in full by this task.
          type: bool
        good:
          description: Whether nothing is known against it and all that it stands on.
          type: bool
        trouble:
          description: Why it would not restore, V('') if nothing is known against it.
          type: str
        dependents:
          description: Ids of the restore points that stand directly on it.
          type: list
          elements: str
    broken:
      description:
        - Restore points whose manifest cannot be read, by id, and why.
        - Where that does not mean damage, as with one of another version of the collection, the VM fails, too.
      returned: if they can be read
      type: dict
    debris:
      description: What runs that died have left, as paths. Empty while another run writes there.
      returned: if they can be read
      type: list
      elements: str
    under_way:
      description: How far the backup is that is made now, V(null) if none is.
      returned: if they can be read
      type: dict
      contains:
        id:
          description: The restore point that it will be.
          type: str
        run:
          description: Who makes it.
          type: str
        processed:
          description: Bytes that were copied so far.
          type: int
        total:
          description: Bytes that are to be copied.
          type: int
        since:
          description: When it began.
          type: str
    newest:
      description: Id of the newest restore point that is good, V(null) if there is none.
      returned: if they can be read
      type: str
    age:
      description: Its age in seconds, V(null) if there is none.
      returned: if they can be read
      type: int
    depth:
      description: How many images have to be read to restore it, V(0) if there is none.
      returned: if they can be read
      type: int
    newest_verified:
      description: Id of the newest one that was read in full, with all that it stands on, and found good.
      returned: if they can be read
      type: str
    last_verified:
      description: When such a restore point was last read in full, V(null) if there is none.
      returned: if they can be read
      type: str
    bytes:
      description: What the files of all restore points take.
      returned: if they can be read
      type: int
    msg:
      description: What went wrong with this VM, or the restore points that would not restore.
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
  description: What else there is to know.
  returned: always
  type: list
  elements: str
msg:
  description: What went wrong, for all VMs.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._backup_info import info_operation
from ..module_utils._repository import REPOSITORY_OPTIONS
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **REPOSITORY_OPTIONS,
            "verify": {"type": "bool", "default": False},
            "verify_points": {"type": "list", "elements": "str"},
            "parallel": {"type": "int", "default": 2},
            "now": {"type": "str"},
        },
        supports_check_mode=True,
    )
    run(module, info_operation)


if __name__ == "__main__":
    main()
