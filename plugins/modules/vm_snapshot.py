#!/usr/bin/python
# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: snapshots of VMs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_snapshot
short_description: Take snapshots of VMs, go back to them, and remove them
version_added: 0.1.0
author: vmkeep contributors (@vmkeep)
description:
  - Takes snapshots of running and shut off VMs, internal or external, with or without memory,
    of one VM or of several at one point in time.
  - Removes them without losing what was written since, by merging each overlay into the image it
    stands on.
  - Goes back to them as often as it is asked to. The snapshot itself stays as it is.
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
      - O(state=present) and O(state=absent) are.
      - O(state=reverted) gives up what was written since, and nobody can see whether anything was. So
        it acts whenever it is asked to. It changes nothing only where the VM is off, and is to be
        off, nothing was written since it was brought there, and its definition is that of then, with
        its title, its description, its metadata and how each disk is cached. What libvirt adds to a
        definition by itself, such as controllers and addresses, is not compared.
      - O(state=reverted) brings the disks of then. One that was attached since is detached, and its
        image stays. One that has gone, or whose target has another image by now, is attached again; an
        image that does not exist any more, or that another VM uses, is refused by name before anything
        is touched. Drives get the media of then. A disk that is not part of the snapshot keeps what it
        holds. Notes, and C(define_as_of) in RV(plan), tell which image is where.
options:
  name:
    description:
      - Name of the snapshot. One that is taken gets 1 to 127 letters, digits or any of C(_.:@+-),
        starting with a letter, a digit or an underscore.
      - One of another tool can be compared, removed and gone back to whatever its name is, as libvirt
        has it, byte for byte. In YAML a name such as C(yes), C(1.10) or C(0x1) has to be quoted.
    type: str
    required: true
  state:
    description:
      - V(present) takes the snapshot. One of that name that exists is compared with the task, and
        the task fails if it differs.
      - V(absent) removes it. What was written since is kept.
      - V(reverted) brings the VM back to it, to the newest, an older one or one beside. What was
        written since is given up, unless O(keep_current) keeps it. The definition of the VM becomes
        that of the snapshot, too. For an external snapshot the VM gets new overlays on the images
        that the snapshot froze; an internal one is brought back by libvirt.
      - A snapshot is refused, by disk and image, where an image that holds it, or any image below
        that, is gone, is the active image again, or was written to by something else. Who knows that
        such an image has its content all the same gives it the time of its last write back, as the
        message says. One that is not whole does not count as V(present) either, and
        M(vmkeep.libvirt.vm_snapshot_info) tells before.
    type: str
    choices: [present, absent, reverted]
    default: present
  mode:
    description:
      - V(external) freezes the present images and lets the VM write to new overlays.
      - V(internal) keeps the snapshot inside the qcow2 images; all writable disks have to be qcow2.
        On a running VM it includes the memory and pauses the guest while it is written.
      - V(auto) is V(external) for a new snapshot and accepts either for one that exists.
    type: str
    choices: [auto, internal, external]
    default: auto
  memory:
    description:
      - Whether the snapshot of a running VM includes its memory. It then is consistent without
        quiescing.
      - If not set, an external snapshot has none and an internal one of a running VM has it.
    type: bool
  disks:
    description:
      - The disks to take, by default all writable ones. CD-ROM, floppy and read-only disks are left
        out.
      - Each entry is a target such as V(vda), or a dictionary with C(target) and C(file), the
        absolute path of the overlay.
    type: list
    elements: raw
  directory:
    description:
      - Existing directory for overlays and the memory file. By default each overlay is put beside
        the image it stands on, and the memory file beside the first disk.
    type: path
  description:
    description: A text that is kept with the snapshot.
    type: str
  subtree:
    description: Remove all snapshots that descend from this one, too.
    type: bool
    default: false
  metadata_only:
    description: Remove only libvirt's record of the snapshot. Images and memory files stay as they are.
    type: bool
    default: false
  keep_current:
    description:
      - Before going back, keep the present state as a snapshot of this name, taken as O(quiesce),
        O(memory), O(directory) and O(description) say. One can go back to it later.
      - Without it the overlays that only the present state needs are removed. One that another
        snapshot needs stays. It goes with that one if it provably holds nothing newer, else with the
        snapshot that it was made for.
    type: str
  prove_way_back:
    description:
      - Take no snapshot that the VM could not go back to as it is now. The plan of the way back, which
        O(state=reverted) shows in check mode later, is made and held against what is there before
        anything is done, and a VM is refused where that would be.
      - What stands in the way only later cannot be seen before. Ask for O(state=reverted) in check mode
        once more when the snapshot is there, as the playbook C(patch_with_rollback) does.
    type: bool
    default: false
  run_after:
    description:
      - What the VM does after it was brought back.
      - With V(unchanged), the default, a snapshot with memory goes on as it was at that point.
        Without memory the VM is started again if it was running, and stays off if it was off.
    type: str
    choices: [unchanged, running, paused, shutoff]
  consistent_group:
    description: Take the snapshot of all VMs in O(vm) at one point in time, or of none of them.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Take a quiesced snapshot of two VMs before an upgrade
  vmkeep.libvirt.vm_snapshot:
    vm: [db01, app01]
    name: before-upgrade
    quiesce: required
    consistent_group: true

- name: Keep disks and memory
  vmkeep.libvirt.vm_snapshot:
    vm: [db01]
    name: live
    memory: true
    directory: /var/lib/libvirt/snapshots

- name: Put the overlay of one disk elsewhere
  vmkeep.libvirt.vm_snapshot:
    vm: [db01]
    name: data-only
    disks:
      - target: vdb
        file: /fast/db01-data.qcow2

- name: Roll the upgrade back, and keep what it left for a closer look
  vmkeep.libvirt.vm_snapshot:
    vm: [db01, app01]
    name: before-upgrade
    state: reverted
    keep_current: failed-upgrade

- name: Remove it and keep what was written since
  vmkeep.libvirt.vm_snapshot:
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
        mode:
          description: V(internal) or V(external).
          type: str
        memory:
          description: Whether it includes the memory.
          type: bool
        memory_file:
          description: The file that holds the memory of an external snapshot.
          type: str
        consistency:
          description: What the point in time is worth, V(offline), V(filesystem), V(memory) or V(crash).
          type: str
        description:
          description: The text that is kept with it.
          type: str
        disks:
          description: By target, the overlay that was created (C(file)) and the image that holds the point (C(image)).
          type: dict
    frozen_ms:
      description: Milliseconds from asking the guest to freeze until it confirmed the thaw, 0 if it was not frozen.
      returned: when a snapshot was taken
      type: int
    flush_ms:
      description: Milliseconds in which the guest wrote out before it was frozen, 0 if it did not.
      returned: when a snapshot was taken
      type: int
    state:
      description: What the VM does now, such as V(running) or V(shutoff).
      returned: with O(state=reverted)
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
  description:
    - The steps that were done, or would be done in check mode, each with C(vm) and C(step).
    - The step that goes back names the disks and media that come and go, as pairs of target and image. They are C(attached),
      C(media) and C(detached).
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
from ..module_utils._snapshot import snapshot_operation


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
            "mode": {"type": "str", "choices": ["auto", "internal", "external"], "default": "auto"},
            "memory": {"type": "bool"},
            "disks": {"type": "list", "elements": "raw"},
            "directory": {"type": "path"},
            "description": {"type": "str"},
            "subtree": {"type": "bool", "default": False},
            "metadata_only": {"type": "bool", "default": False},
            "keep_current": {"type": "str"},
            "run_after": {"type": "str", "choices": ["unchanged", "running", "paused", "shutoff"]},
            "consistent_group": {"type": "bool", "default": False},
            "prove_way_back": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run(module, snapshot_operation)


if __name__ == "__main__":
    main()
