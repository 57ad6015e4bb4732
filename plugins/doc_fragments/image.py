# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and notes of the modules that change images which no VM uses."""

from __future__ import annotations


class ModuleDocFragment:
    """Composed by the C(qcow2_*) modules that change something."""

    DOCUMENTATION = r"""
options:
  allowed_roots:
    description:
      - Directories that images, backing files and external data files must lie in, both as their
        paths are written and where symbolic links lead. Nothing outside is opened.
      - By default, the directories of the images that the task names are allowed.
    type: list
    elements: path
  look_in:
    description:
      - More directories in which other images may stand on those that are changed.
      - The directories of these images, libvirt's directory pools and the disks of all VMs that
        libvirt has definitions of are looked at in any case. At most 10,000 files of a directory
        are, and no directories in it.
    type: list
    elements: path
  timeout:
    description: Seconds that one long operation, such as a commit, may take at most.
    type: int
    default: 3600
  lock_timeout:
    description: Seconds to wait for another run of this collection that works on the same image.
    type: int
    default: 30
  state_dir:
    description:
      - Where locks and journals are kept, in C(images). It has to outlive the run and to be the same
        for all runs.
      - The default is C(/var/lib/vmkeep) for root, and for other users C(vmkeep) in
        C($XDG_STATE_HOME) or C(~/.local/state).
    type: path
requirements:
  - qemu-img, and C(prlimit) and C(setpriv) of util-linux
  - Neither libvirt nor its binding is needed.
notes:
  - The locks that QEMU keeps on its images tell which of them are in use, also in check mode. An
    image in use by a running VM or another QEMU program is refused.
  - An image that others stand on is refused as well. Images in the same directories are found, and
    the VMs and external snapshots whose definitions libvirt keeps in files, also those that are off.
  - Images are worked on one after the other, in the order of O(ignore:path). A failure of one stands
    in its own entry, the others go on, and the task fails at the end with all of them present.
  - A run that was killed is finished or undone by the next run on the same image, which reports it
    in RV(ignore:notes). What it leaves until then has the content that it had, or for a commit and
    for going back to a snapshot, what was asked for in part; the overlay of a commit stays whole.
  - Files have to be on a file system with locks and hard links.
"""
