#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: snapshots of VMs by the storage below their images."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_storage_snapshot
short_description: Let the storage take snapshots of VMs, and bring VMs back to them
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Takes snapshots of the disks of running and shut off VMs by LVM or by the file system. The chain
    of the VM stays as short as it was, and nothing has to be merged later.
  - All disks of a VM are of one moment, and each image is copied when it is whole. A running VM
    writes to temporary overlays meanwhile, which are merged back at once; so its guest is frozen no
    longer than for M(vmkeep.libvirt.vm_snapshot). VMs of one task are not of the same moment.
  - A snapshot stays when a VM goes back to it, so that it can go back again.
  - ZFS and Ceph RBD are not among the backends, since no test of this collection can run them for
    real yet. Images on them are refused by name.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.libvirt_group
  - vmkeep.libvirt.vm
  - vmkeep.libvirt.vm.quiesce
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - With O(state=reverted) what was written since is discarded. A second run changes nothing as
        long as nothing was written to the images after the first, which it can prove. Once the VM
        has written to them it is brought back again.
options:
  name:
    description:
      - Name of the snapshot, 1 to 127 letters, digits or any of C(_.:@+-), starting with a letter,
        a digit or an underscore. The backend V(lvm) takes neither C(:) nor C(@).
    type: str
    required: true
  state:
    description:
      - V(present) takes the snapshot. One of that name that exists is compared with the task, and
        the task fails if it differs or is damaged.
      - V(absent) removes it. Only what this collection has made for that VM is removed.
      - V(reverted) lets the disks hold what they held then. B(What was written since is lost.) The
        VM has to be off, and no overlay may stand on the images.
    type: str
    choices: [present, absent, reverted]
    default: present
  backend:
    description:
      - V(reflink) clones the image file in the same directory, as C(IMAGE@NAME). It shares all
        blocks with the image until one of them is written to. This needs XFS (made with
        C(reflink=1), the default since xfsprogs 5.1) or btrfs.
      - V(btrfs) takes a read-only snapshot of the subvolume that the image lies in, as
        C(.vmkeep/VM@NAME) in it. No other VM may have an image there. What else lies in the
        subvolume is in the snapshot as it was at that moment.
      - V(lvm) takes a snapshot of the logical volume, as C(LV.NAME) in its group. That of a thin
        volume is thin.
      - V(auto) is V(lvm) for block devices and V(reflink) for files.
      - Nothing is ever copied in full instead.
    type: str
    choices: [auto, lvm, reflink, btrfs]
    default: auto
  disks:
    description:
      - The targets of the disks to take or to bring back, such as V(vda), by default all writable
        ones and all that the snapshot has. CD-ROM, floppy and read-only disks are left out.
    type: list
    elements: str
  directory:
    description:
      - Existing directory for the overlays that a running VM writes to while its images are copied.
        By default each is put beside its image. Block devices need it.
    type: path
  cow_size:
    description:
      - The space that an LVM snapshot of a volume that is not thin has for changes, for each disk.
        A number with V(K), V(M), V(G) or V(T), or with V(%) of the size of the disk. The default is
        V(20%).
      - When more changes than that the snapshot becomes invalid, which is reported as an error. RV(vms.snapshot.disks)
        tells how full it is.
    type: str
notes:
  - The snapshot is of the active image of each disk. What that stands on is not copied and has to
    stay as it is. Modules of this collection refuse to merge into it or to remove it as long as the
    snapshot exists, and V(reverted) notices if something else did. The backends V(lvm) and V(btrfs)
    want disks of one image.
  - The records are kept in O(state_dir). If they are lost, snapshots are still found by the names
    and marks of the copies, and those of V(btrfs) count as crash-consistent then.
  - Going back to a snapshot of a volume that is not thin merges it into the volume, and takes it
    anew. While that goes on, and while several disks are brought back, the VM cannot start,
    because its images are not in their place.
  - With V(reverted) the VM's backup checkpoints of this collection are given up, and its next restore
    point is a full one. Those of others stay; whether their bitmaps are still good, libvirt finds out.
"""

EXAMPLES = r"""
- name: Take a quiesced snapshot before an upgrade
  vmkeep.libvirt.vm_storage_snapshot:
    vm: [db01, app01]
    name: before-upgrade
    quiesce: required

- name: The same for disks on logical volumes that are not thin
  vmkeep.libvirt.vm_storage_snapshot:
    vm: [db02]
    name: before-upgrade
    directory: /var/lib/libvirt/images
    cow_size: 10G

- name: Go back, with the VM off
  vmkeep.libvirt.vm_storage_snapshot:
    vm: [db01]
    name: before-upgrade
    state: reverted

- name: Remove it
  vmkeep.libvirt.vm_storage_snapshot:
    vm: [db01, app01]
    name: before-upgrade
    state: absent
"""

RETURN = r"""
vms:
  description: One entry for each VM, by name.
  returned: always
  type: dict
  contains:
    snapshot:
      description: The snapshot, V(null) if it is absent.
      returned: success
      type: dict
      contains:
        name:
          description: Its name.
          type: str
        consistency:
          description: What the point in time is worth, V(offline), V(filesystem) or V(crash). In check mode V(null) for a new one.
          type: str
        created:
          description: When the copies were made, in seconds since 1970. In check mode V(null) for a new one.
          type: int
        disks:
          description: By target, what was made for each disk.
          type: dict
          contains:
            backend:
              description: V(lvm), V(reflink) or V(btrfs).
              type: str
            image:
              description: The image that it is of.
              type: str
            file:
              description: Where its content can be read. A thin volume has to be activated for that (C(lvchange -ay -K)).
              type: str
            volume:
              description: The logical volume C(VG/LV) that was made.
              type: str
            subvolume:
              description: The subvolume that was made.
              type: str
            thin:
              description: Whether the logical volume is thin.
              type: bool
            used_percent:
              description: How full the space for changes of a snapshot that is not thin is.
              type: float
            stands_on:
              description: The images that the image stands on, and that the snapshot needs as well.
              type: list
              elements: str
        problems:
          description: Why the snapshot could not be gone back to; empty for one that is whole.
          type: list
          elements: str
    frozen_ms:
      description: Milliseconds from asking the guest to freeze until it confirmed the thaw, 0 if it was not frozen.
      returned: when a snapshot of a running VM was taken
      type: int
    flush_ms:
      description: Milliseconds in which the guest wrote out before it was frozen, 0 if it did not.
      returned: when a snapshot of a running VM was taken
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
  description: What else is to be known, such as a snapshot that could not be quiesced or an interrupted run that was cleaned up.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import QUIESCE_OPTIONS, VM_OPTIONS
from ..module_utils._run import run
from ..module_utils._storage import storage_operation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **VM_OPTIONS,
            **QUIESCE_OPTIONS,
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["present", "absent", "reverted"],
                "default": "present",
            },
            "backend": {
                "type": "str",
                "choices": ["auto", "lvm", "reflink", "btrfs"],
                "default": "auto",
            },
            "disks": {"type": "list", "elements": "str"},
            "directory": {"type": "path"},
            "cow_size": {"type": "str"},
        },
        supports_check_mode=True,
    )
    run(module, storage_operation)


if __name__ == "__main__":
    main()
