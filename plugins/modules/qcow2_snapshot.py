#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: internal snapshots of images that no VM uses."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qcow2_snapshot
short_description: Take, delete and go back to internal snapshots of qcow2 images
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Does what C(qemu-img snapshot) does, on images that no VM uses, many in one task, with a plan
    that check mode prints.
  - It works on image files. For a VM that libvirt knows M(vmkeep.libvirt.vm_snapshot) is the better
    choice, running or off, since it keeps all disks and libvirt's record together.
  - A snapshot is worth what the image was worth then. That of a VM that was shut down is complete,
    that of one whose power was cut is as after a power cut.
  - What C(qemu-img snapshot) takes for an id or for a name depends on what is there. Here O(name)
    is always a name and O(id) an id.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.image
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - With O(state=applied) a second run changes nothing while the image provably has the content
        of the snapshot, which is so until anything is written, discarded or zeroed in it. After that
        every run goes back and discards what was written.
options:
  path:
    description:
      - Absolute paths of the images. The same is done to all of them, as for the disks of one VM or
        the images of a fleet.
    type: list
    elements: path
    required: true
  name:
    description:
      - Name of the snapshot. Required with O(state=present), and otherwise unless O(id) is given.
      - A snapshot is taken under a name of 1 to 127 letters, digits or any of C(_.:@+-),
        starting with a letter, digit or C(_). Those of other tools may have any name.
    type: str
  id:
    description:
      - Id of the snapshot, to tell those of one name apart. With O(name) both have to fit.
      - Not used with O(state=present), since QEMU chooses the id.
    type: str
  state:
    description:
      - V(present) takes the snapshot if there is none of that name. If there is one, it stays as it
        is, whatever was written since.
      - V(absent) deletes all snapshots of that name, since qcow2 allows several. With O(id) just one
        of them, and only where it is the first of its name in the image, since C(qemu-img) can
        delete no other. Other images may stand on this one, whose content stays.
      - V(applied) goes back to the snapshot. B(What the image holds beside its snapshots is lost.)
        All snapshots stay. The image gets the size that it had then. It fails where several
        snapshots have the name and O(id) does not tell them apart.
    type: str
    choices: [present, absent, applied]
    default: present
  keep_current:
    description:
      - With O(state=applied), take a snapshot of this name before what was written is discarded.
    type: str
seealso:
  - module: vmkeep.libvirt.vm_snapshot
  - module: vmkeep.libvirt.qcow2_info
  - name: qemu-img
    description: The program that does it.
    link: https://www.qemu.org/docs/master/tools/qemu-img.html
notes:
  - Encrypted images, images with an external data file, and images with the flags C(dirty) or
    C(corrupt) are refused. So is going back in an image with persistent bitmaps, which QEMU cannot, unless
    they are of M(vmkeep.libvirt.vm_backup). Those are given up, and the next restore point is a full one.
  - The saved memory of a snapshot that a running VM took is not used. The disk is then as after a
    power cut.
"""

EXAMPLES = r"""
- name: Keep the images of an appliance as they are now
  vmkeep.libvirt.qcow2_snapshot:
    path:
      - /srv/appliance/system.qcow2
      - /srv/appliance/data.qcow2
    name: before-upgrade

- name: Go back to that, and keep what came out of the upgrade
  vmkeep.libvirt.qcow2_snapshot:
    path:
      - /srv/appliance/system.qcow2
      - /srv/appliance/data.qcow2
    name: before-upgrade
    state: applied
    keep_current: failed-upgrade

- name: Go back to one of two snapshots that have the same name
  vmkeep.libvirt.qcow2_snapshot:
    path: /srv/appliance/system.qcow2
    name: daily
    id: "3"
    state: applied

- name: Delete a snapshot
  vmkeep.libvirt.qcow2_snapshot:
    path: /srv/appliance/system.qcow2
    name: before-upgrade
    state: absent
"""

RETURN = r"""
images:
  description: One entry for each path, in the order of O(path).
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: The path as it was given.
      type: str
    error:
      description: Why this image failed, V(null) if it did not.
      type: str
    exception:
      description: The traceback, where that was a fault of the collection itself.
      returned: when it failed for such a fault
      type: str
    snapshots:
      description:
        - The internal snapshots after the run, or in check mode as they would be then. It has the keys
          of C(qemu-img info), as in M(vmkeep.libvirt.qcow2_info).
        - In check mode the time of a snapshot that would be taken is 0.
      returned: if the image can be read
      type: list
      elements: dict
      contains:
        id:
          description: The id.
          type: str
        name:
          description: The name.
          type: str
        vm_state_size:
          description: The bytes of saved memory, 0 for none.
          type: int
        date_sec:
          description: When it was taken, in seconds since 1970.
          type: int
        date_nsec:
          description: The nanoseconds of that.
          type: int
        vm_clock_sec:
          description: For how long the VM had run.
          type: int
        vm_clock_nsec:
          description: The nanoseconds of that.
          type: int
        icount:
          description: The instruction count, if one was recorded.
          type: int
        disk_size:
          description: The virtual size at that time.
          type: int
plan:
  description: The steps that were done, or in check mode would be. C(path) and C(step) are always there.
  returned: always
  type: list
  elements: dict
  sample:
    - path: /srv/appliance/system.qcow2
      step: create_snapshot
      name: before-upgrade
notes:
  description: What else there is to know, such as what became of an interrupted run.
  returned: always
  type: list
  elements: str
msg:
  description: What went wrong, for all images.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._image_operation import IMAGE_OPTIONS
from ..module_utils._qcow2_snapshot import tag_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **IMAGE_OPTIONS,
            "name": {"type": "str"},
            "id": {"type": "str"},
            "state": {
                "type": "str",
                "choices": ["present", "absent", "applied"],
                "default": "present",
            },
            "keep_current": {"type": "str"},
        },
        supports_check_mode=True,
    )
    run(module, tag_operation)


if __name__ == "__main__":
    main()
