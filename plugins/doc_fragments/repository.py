# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and notes of the modules that need a repository of restore points, and no libvirt."""

from __future__ import annotations


class ModuleDocFragment:
    """Composed by the modules that keep restore points, and make or restore none."""

    DOCUMENTATION = r"""
options:
  repository:
    description:
      - The directory that holds the restore points, as M(vmkeep.libvirt.vm_backup) has made it.
      - A directory that is no repository yet has no restore points, and that is no error.
    type: path
    required: true
  vm:
    description:
      - Names or UUIDs of VMs that have restore points there, by default all of them. They need not
        exist any more.
      - The name is that of the newest restore point. Of several VMs with one name, a UUID tells
        which is meant, and they are returned by their UUIDs.
    type: list
    elements: str
    aliases: [domain, guest]
  timeout:
    description: Seconds that one long operation of qemu-img may take at most.
    type: int
    default: 3600
  lock_timeout:
    description: Seconds to wait for another run that works on the same restore points.
    type: int
    default: 30
  uri:
    description:
      - Not used, since libvirt is not asked for anything. It is there so that defaults of the group
        C(libvirt) can be set for all modules.
    type: str
    default: qemu:///system
  state_dir:
    description: Not used either. Locks are in the repository, which is its own journal.
    type: path
requirements:
  - qemu-img, and C(prlimit) and C(setpriv) of util-linux, where images are read
  - Neither libvirt nor its binding is needed, so the task can run on a backup server.
notes:
  - VMs are worked on one after the other. A failure of one stands in its own entry of
    RV(ignore:vms), the others go on, and the task fails at the end with all of them present.
"""
