#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what disk images say about themselves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qcow2_info
short_description: Read disk images and their backing chains
version_added: 0.1.0
author: vmkeep contributors (@vmkeep)
description:
  - Returns what qcow2 and raw images say about themselves, with the names and values of
    C(qemu-img info --output=json), and the images that they stand on.
  - Reads the files itself, takes no lock and starts no program (unless O(check=true)), so it works on
    the image of a running VM, and many images cost little more than one.
  - Images need not be trusted. The reader is bounded; references such as C(json:...) or
    C(nbd://...) and external data files are reported and never opened; a backing file is opened only
    if it is a regular file or a block device under one of O(allowed_roots).
  - Images of other formats are named by their first bytes; what they stand on is not looked at.
extends_documentation_fragment:
  - vmkeep.libvirt.attributes
  - vmkeep.libvirt.attributes.info_module
options:
  path:
    description:
      - Absolute paths of the images. Name as many as you like in one task.
      - A bad one is reported in its own entry of RV(images), beside the good ones, and the task fails
        at the end with all of them present.
    type: list
    elements: path
    required: true
  format:
    description:
      - The format of the images in O(path).
      - By default their content is looked at. Set V(raw) for the raw disk of a VM, since its guest
        can write anything into it, also what looks like the start of a qcow2 image.
      - The formats of backing files come from the image above. Where none is recorded there, the
        backing file is taken for raw, as libvirt does, and RV(images[].chain[].format_source) is
        V(assumed).
    type: str
    choices: [qcow2, raw, luks]
  backing_chain:
    description: Whether to go on to the backing files, down to the end of the chain.
    type: bool
    default: true
  check:
    description:
      - Whether to run C(qemu-img check) on each image, with limits on its memory and time. It
        repairs nothing and does not open backing files.
      - An image that a running VM writes to cannot be checked.
      - Damage that the check finds does not fail the task; see RV(images[].chain[].check.result).
    type: bool
    default: false
  check_timeout:
    description: Seconds that the check of one image may take, and seconds of processor time.
    type: int
    default: 300
  allowed_roots:
    description:
      - Directories that images, backing files and external data files must lie in, both as their
        paths are written and where symbolic links lead. Nothing outside is opened.
      - A device node such as C(/dev/vg/disk) is usually a symbolic link inside C(/dev), so C(/dev)
        is the root to allow for it.
      - By default, the directory of each image in O(path) is allowed for its own chain.
    type: list
    elements: path
requirements:
  - qemu-img, and C(prlimit) and C(setpriv) of util-linux, if O(check=true)
seealso:
  - name: qemu-img
    description: The program whose names and values are used.
    link: https://www.qemu.org/docs/master/tools/qemu-img.html
"""

EXAMPLES = r"""
- name: Look at the disks of two VMs
  vmkeep.libvirt.qcow2_info:
    path:
      - /var/lib/libvirt/images/db01.qcow2
      - /srv/overlays/app01.qcow2
    allowed_roots:
      - /var/lib/libvirt/images
      - /srv/overlays
  register: disks

- name: Refuse to go on with long chains
  ansible.builtin.assert:
    that: item.depth <= 4
    fail_msg: "{{ item.path }} stands on {{ item.depth - 1 }} other images; merge some of them"
  loop: "{{ disks.images }}"
  loop_control:
    label: "{{ item.path }}"

- name: Look for damage
  vmkeep.libvirt.qcow2_info:
    path: /var/lib/libvirt/images/db01.qcow2
    check: true
  register: checked
  failed_when: checked.images[0].error or checked.images[0].chain[0].check.result != 'clean'

- name: Look at the raw disk of a guest that nobody trusts
  vmkeep.libvirt.qcow2_info:
    path: /var/lib/libvirt/images/tenant.img
    format: raw
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
    depth:
      description: How many images were read.
      type: int
    error:
      description: Why the image or its chain could not be read to the end, V(null) if it could.
      type: str
    exception:
      description: The traceback, where that was a fault of the collection itself.
      returned: when it failed for such a fault
      type: str
    chain:
      description: The image and what it stands on, the active image first.
      type: list
      elements: dict
      contains:
        filename:
          description: The path by which it was opened.
          type: str
        format:
          description: Its format.
          type: str
        format_source:
          description:
            - How the format is known. V(given) by O(format), V(recorded) in the image above,
              V(probed) from the content, or V(assumed) to be raw, since the image above records none.
          type: str
        virtual_size:
          description: The size of the disk in bytes, V(null) for formats that are known by name only.
          type: int
        actual_size:
          description: The bytes that the file takes on its file system.
          type: int
        cluster_size:
          description: The cluster size in bytes.
          type: int
        compat:
          description: The version of qcow2, V(0.10) for version 2 and V(1.1) for version 3.
          type: str
        backing_filename:
          description: The backing file as written in the image, V(null) for none.
          type: str
        backing_format:
          description: The format of the backing file as recorded in the image.
          type: str
        full_backing_filename:
          description: The path of the backing file, as QEMU finds it.
          type: str
        data_file:
          description: The external data file as written in the image. It is not opened.
          type: str
        data_file_raw:
          description: Whether the external data file can be used as a raw image.
          type: bool
        dirty:
          description: Whether its reference counts may be stale, since it was not closed properly.
          type: bool
        corrupt:
          description: Whether QEMU has found damage and refuses to write to it.
          type: bool
        encrypted:
          description: Whether it is encrypted.
          type: bool
        encrypt:
          description: How it is encrypted, V(null) if it is not. Never any key material.
          type: dict
          contains:
            format:
              description: V(luks) or V(aes). The rest is set for V(luks).
              type: str
            cipher_alg:
              description: The cipher, such as V(aes-256).
              type: str
            cipher_mode:
              description: The mode of the cipher, such as V(xts).
              type: str
            ivgen_alg:
              description: How initialisation vectors are made, such as V(plain64).
              type: str
            ivgen_hash_alg:
              description: The hash that this uses, if any.
              type: str
            hash_alg:
              description: The hash of the key derivation.
              type: str
            uuid:
              description: The UUID in the LUKS header.
              type: str
            payload_offset:
              description: Where the encrypted data starts.
              type: int
            master_key_iters:
              description: Iterations for the digest of the master key.
              type: int
            slots:
              description: The key slots with C(active), C(key_offset), C(iters) and C(stripes).
              type: list
              elements: dict
        compression_type:
          description: V(zlib) or V(zstd).
          type: str
        lazy_refcounts:
          description: Whether reference counts are written late.
          type: bool
        refcount_bits:
          description: The width of a reference count.
          type: int
        extended_l2:
          description: Whether it has subclusters.
          type: bool
        snapshots:
          description: The internal snapshots. Names need not be unique, ids are.
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
        bitmaps:
          description: The persistent dirty bitmaps.
          type: list
          elements: dict
          contains:
            name:
              description: The name.
              type: str
            granularity:
              description: The bytes that one bit stands for.
              type: int
            flags:
              description:
                - V(auto) if it records writes, V(in-use) if it was not closed properly or is in use
                  now.
              type: list
              elements: str
        bitmaps_stale:
          description:
            - Whether it has bitmaps that count for nothing, since a program that knows nothing of
              bitmaps wrote to it. They are not listed then.
          type: bool
        check:
          description: What C(qemu-img check --output=json) found, with its names in snake case.
          returned: O(check=true)
          type: dict
          contains:
            result:
              description:
                - V(clean), V(leaks) (wasted space, no harm), V(corrupt), or V(unsupported) for raw,
                  encrypted and foreign images.
              type: str
            leaks:
              description: Leaked clusters.
              returned: if there are any
              type: int
            corruptions:
              description: Damaged clusters.
              returned: if there are any
              type: int
            check_errors:
              description: Errors while checking.
              returned: if the format can be checked
              type: int
msg:
  description: What went wrong, for all images.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._images import look_at_images
from ..module_utils._run import look


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "list", "elements": "path", "required": True},
            "format": {"type": "str", "choices": ["qcow2", "raw", "luks"]},
            "backing_chain": {"type": "bool", "default": True},
            "check": {"type": "bool", "default": False},
            "check_timeout": {"type": "int", "default": 300},
            "allowed_roots": {"type": "list", "elements": "path"},
        },
        supports_check_mode=True,
    )
    look(module, look_at_images)


if __name__ == "__main__":
    main()
