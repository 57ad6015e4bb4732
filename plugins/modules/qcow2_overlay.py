#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: overlays that no VM uses."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qcow2_overlay
short_description: Create, rebase, commit and remove overlays
version_added: 0.2.0
author: vmkeep contributors (@vmkeep)
description:
  - Does what C(qemu-img create -b), C(qemu-img rebase) and C(qemu-img commit) do, on images that no
    VM uses, many in one task, with a plan that check mode prints.
  - It works on image files. For the disks of VMs that libvirt knows,
    M(vmkeep.libvirt.vm_snapshot) and M(vmkeep.libvirt.vm_blockcommit) are the better choice, running
    or off, since they keep the definitions and libvirt's record in step.
  - An image that is no overlay is never written over and never removed, whatever is asked.
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
options:
  path:
    description:
      - Absolute paths of the overlays. The same is done to all of them, such as many clones of one
        base.
      - In a chain name the uppermost first to commit or remove several.
    type: list
    elements: path
    required: true
  base:
    description:
      - Absolute path of the image to stand on. Required with O(state=present).
      - With O(state=committed) it is checked that the overlay stands on this image.
    type: path
  base_format:
    description:
      - Format of the base. It is recorded in a new overlay.
      - By default its content is looked at. Set V(raw) for the raw disk of a VM, since its guest can
        write anything into it, also what looks like the start of a qcow2 image.
    type: str
    choices: [qcow2, raw]
  state:
    description:
      - V(present) creates the overlay if nothing is at O(path). An overlay that stands on O(base)
        stays as it is. One that stands on another image is refused, or see O(rebase).
      - V(committed) writes what the overlay holds into the image it stands on, compares both (see
        O(verify)), and removes the overlay. If nothing is at O(path), there is nothing to do.
      - V(absent) removes the overlay. B(What only the overlay holds is lost.)
    type: str
    choices: [present, committed, absent]
    default: present
  rebase:
    description:
      - Whether an overlay that stands on another image is put on O(base). Its content stays as it is.
        Both bases are read and compared, and what differs is copied into the overlay.
      - An overlay that stands on O(base) without a record of its format gets that record, if
        O(base_format) is given.
    type: bool
    default: false
  base_moved:
    description:
      - Whether O(base) is the image that the overlay stands on, moved or renamed. Then just the name
        in the overlay is corrected, and nothing is compared.
      - It is refused while there still is an image at the old place.
    type: bool
    default: false
  size:
    description:
      - Size of a new overlay in bytes or with a unit, such as V(20G); by default that of the base.
        It must not be smaller. An existing overlay has to have this size.
    type: bytes
  mode:
    description: Mode of a new overlay, in octal digits and quotes; by default C('0600').
    type: raw
  owner:
    description: Owner of a new overlay, by name or number; by default that of the base.
    type: str
  group:
    description: Group of a new overlay, by name or number; by default that of the base.
    type: str
  verify:
    description:
      - Whether overlay and base are compared after a commit, before the overlay is removed. Both are
        read to their ends.
      - V(false) takes the word of C(qemu-img commit) for it.
    type: bool
    default: true
  bandwidth:
    description: Limit for a commit in MiB/s; V(0) for none.
    type: int
    default: 0
seealso:
  - module: vmkeep.libvirt.vm_blockcommit
  - module: vmkeep.libvirt.qcow2_info
  - name: qemu-img
    description: The program that does it.
    link: https://www.qemu.org/docs/master/tools/qemu-img.html
notes:
  - A commit enlarges a base that is smaller than the overlay, if that can grow. Usable persistent
    bitmaps of the overlay are carried over, and a base that cannot take them is refused.
  - Overlays with internal snapshots are neither committed nor rebased, since these would be lost or
    changed. Encrypted images, overlays with an external data file, and images with the flags
    C(dirty) or C(corrupt) are refused.
  - After a commit use O(state=present) to go on with a fresh overlay of the same name.
"""

EXAMPLES = r"""
- name: Make clones of a template
  vmkeep.libvirt.qcow2_overlay:
    path:
      - /srv/clones/web1.qcow2
      - /srv/clones/web2.qcow2
    base: /srv/templates/debian.qcow2
    base_format: qcow2
    size: 40G

- name: Keep their content and put them on the new release of the template
  vmkeep.libvirt.qcow2_overlay:
    path:
      - /srv/clones/web1.qcow2
      - /srv/clones/web2.qcow2
    base: /srv/templates/debian-12.8.qcow2
    rebase: true

- name: Follow a template that was moved
  vmkeep.libvirt.qcow2_overlay:
    path: /srv/clones/web1.qcow2
    base: /mnt/store/debian.qcow2
    base_moved: true

- name: Keep what was tried out
  vmkeep.libvirt.qcow2_overlay:
    path: /srv/appliance/trial.qcow2
    state: committed

- name: Throw it away
  vmkeep.libvirt.qcow2_overlay:
    path: /srv/appliance/trial.qcow2
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
    chain:
      description:
        - The overlay and what it stands on after the run, or in check mode as it would be then, the
          overlay first. It is empty if there is no overlay any more. The keys are those of
          RV(vmkeep.libvirt.qcow2_info#module:images[].chain).
        - In check mode nobody knows yet what a new overlay takes on the disk, and its features.
      returned: if the images can be read
      type: list
      elements: dict
plan:
  description: The steps that were done, or in check mode would be. C(path) and C(step) are always there.
  returned: always
  type: list
  elements: dict
  sample:
    - path: /srv/clones/web1.qcow2
      step: create_overlay
      backing: /srv/templates/debian.qcow2
      backing_format: qcow2
      size: 42949672960
      mode: "0600"
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
from ..module_utils._qcow2_overlay import overlay_operation
from ..module_utils._run import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **IMAGE_OPTIONS,
            "base": {"type": "path"},
            "base_format": {"type": "str", "choices": ["qcow2", "raw"]},
            "state": {
                "type": "str",
                "choices": ["present", "committed", "absent"],
                "default": "present",
            },
            "rebase": {"type": "bool", "default": False},
            "base_moved": {"type": "bool", "default": False},
            "size": {"type": "bytes"},
            "mode": {"type": "raw"},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "verify": {"type": "bool", "default": True},
            "bandwidth": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    run(module, overlay_operation)


if __name__ == "__main__":
    main()
