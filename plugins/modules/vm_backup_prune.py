#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: which restore points of VMs are kept."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_backup_prune
short_description: Keep some restore points of VMs and remove the others
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Keeps as many restore points of each VM as asked for by hour, day, week, month and year, as in
    restic and in Proxmox, and removes the others. Check mode tells why each of them stays or goes.
  - The rules are counted from the newest to the oldest restore point. Each rule keeps the newest of
    each hour, day and so on, in UTC. Hours and days without a restore point do not count. What one
    rule keeps is kept.
  - What a restore point that is kept stands on is merged into it, see O(merge), so it need not be
    kept with it.
  - The newest restore point that is good always stays, since the next incremental one stands on it,
    and so does the newest that was verified with all that it stands on. Protected ones stay, and those
    that a VM stands on which was restored with O(vmkeep.libvirt.vm_restore#module:instant), or that a
    running QEMU has open.
  - A restore point for which only some disks were asked for takes no other one's place; each selection of
    disks is counted by itself.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.libvirt_group
  - vmkeep.libvirt.repository
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  keep_last:
    description: How many of the newest restore points are kept. At least one rule has to keep some.
    type: int
    default: 0
  keep_hourly:
    description: For how many hours the newest restore point of the hour is kept.
    type: int
    default: 0
  keep_daily:
    description: For how many days the newest restore point of the day is kept.
    type: int
    default: 0
  keep_weekly:
    description: For how many weeks (ISO 8601, from Monday) the newest restore point of the week is kept.
    type: int
    default: 0
  keep_monthly:
    description: For how many months the newest restore point of the month is kept.
    type: int
    default: 0
  keep_yearly:
    description: For how many years the newest restore point of the year is kept.
    type: int
    default: 0
  protect:
    description: Ids of restore points that this task does not remove.
    type: list
    elements: str
    default: []
  merge:
    description:
      - Whether a restore point that is kept is made a full one if what it stands on is not kept. A new
        image is written from images whose every byte was verified, and compared with them, before
        anything is removed. Its content stays the same, and so does what stands on it.
      - If there is no room for that, or with V(false), what it stands on is kept as well.
    type: bool
    default: true
  foreseen:
    description:
      - What M(vmkeep.libvirt.vm_backup) returned as RV(vmkeep.libvirt.vm_backup#module:vms). In check mode
        the restore points in it that are not there yet count as if they were, so that a play of both shows
        what goes once they are made. Each counts as one of all disks. Without check mode it has no meaning.
      - A C(restore_point) with C(verified) true counts as read in full, with what it stands on.
    type: dict
  now:
    description:
      - The time that counts as now, in ISO 8601. It is recorded for a restore point that was verified
        by being merged, and no rule depends on it.
    type: str
seealso:
  - module: vmkeep.libvirt.vm_backup_info
notes:
  - A restore point that would not restore, as far as that is known, takes the place of no other. It
    is removed when the rules would not keep it if it were good. One whose manifest cannot be read is
    left alone and reported.
  - What runs that died have left is brought in order first. After a run that was killed, every restore
    point with a manifest is whole, and the next run goes on.
  - Nobody can add restore points of a VM meanwhile. What is replaced or removed must not be read by
    anybody, so the task waits up to O(lock_timeout) seconds for those who do, and fails for this VM if
    it takes longer. An image that a QEMU has open is not touched either.
  - Only folders of restore points and what is in them is removed.
"""

EXAMPLES = r"""
- name: Show which restore points would go, and why
  vmkeep.libvirt.vm_backup_prune:
    repository: /srv/backup
    keep_daily: 7
    keep_weekly: 4
    keep_monthly: 12
  check_mode: true
  diff: true

- name: Keep a week of days and a month of weeks of two VMs
  vmkeep.libvirt.vm_backup_prune:
    repository: /srv/backup
    vm: [db01, app01]
    keep_daily: 7
    keep_weekly: 4

- name: Back up and keep a week of days, so that check mode tells of both
  block:
    - name: Make restore points
      vmkeep.libvirt.vm_backup:
        vm: [db01, app01]
        repository: /srv/backup
      register: backups

    - name: Keep a week of them
      vmkeep.libvirt.vm_backup_prune:
        repository: /srv/backup
        vm: [db01, app01]
        keep_daily: 7
        foreseen: "{{ backups.vms }}"

- name: Keep the last three, and the one from before the migration
  vmkeep.libvirt.vm_backup_prune:
    repository: /srv/backup
    vm: [db01]
    keep_last: 3
    protect: [20261124T030000Z]
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
    kept:
      description: The restore points that are there after the run, oldest first, but for broken ones.
      returned: if they can be read
      type: list
      elements: dict
      contains:
        id:
          description: The restore point.
          type: str
        reasons:
          description:
            - Why it is kept, such as V(last 1), V(daily 2026-11-24), V(protected), V(newest),
              V(newest verified), V(needed by 20261125T030000Z), or who has it in use.
            - After a failure also V(still to be removed).
          type: list
          elements: str
    removed:
      description: The restore points that were removed, or in check mode would be, in this order.
      returned: if they can be read
      type: list
      elements: dict
      contains:
        id:
          description: The restore point.
          type: str
        why:
          description: Why it went.
          type: str
    merged:
      description: Ids of the restore points that were made full.
      returned: if they can be read
      type: list
      elements: str
    broken:
      description: Restore points whose manifest cannot be read, by id, and why. They are left alone.
      returned: if they can be read
      type: dict
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
    The steps that were done, or in check mode would be. C(vm) and C(step) are always there. Steps are
    C(finish_merge), C(remove_debris), C(merge_point) and C(remove_point).
  returned: always
  type: list
  elements: dict
  sample:
    - vm: db01
      step: merge_point
      point: 20261118T030000Z
      merged: [20261117T030000Z, 20261116T030000Z]
      room: 21476933632
    - vm: db01
      step: remove_point
      point: 20261117T030000Z
      why: no rule keeps it
      size: 73400320
notes:
  description: What else there is to know, such as restore points that could not be made full for lack of room.
  returned: always
  type: list
  elements: str
msg:
  description: What went wrong, for all VMs.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._backup_prune import prune_operation
from ..module_utils._repository import REPOSITORY_OPTIONS
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **REPOSITORY_OPTIONS,
            "keep_last": {"type": "int", "default": 0},
            "keep_hourly": {"type": "int", "default": 0},
            "keep_daily": {"type": "int", "default": 0},
            "keep_weekly": {"type": "int", "default": 0},
            "keep_monthly": {"type": "int", "default": 0},
            "keep_yearly": {"type": "int", "default": 0},
            "protect": {"type": "list", "elements": "str", "default": []},
            "merge": {"type": "bool", "default": True},
            "foreseen": {"type": "dict"},
            "now": {"type": "str"},
        },
        supports_check_mode=True,
    )
    run(module, prune_operation)


if __name__ == "__main__":
    main()
