# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules promise about check mode, diff mode and a second run."""

from __future__ import annotations


class ModuleDocFragment:
    """The meaning of each attribute; C(support) is stated by the module."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and tell what it would change without changing anything.
  diff_mode:
    description: Returns what it has changed (or, in check mode, would change) in diff mode.
  idempotent:
    description:
      - When run twice in a row outside of check mode with the same options, the second run changes
        nothing and says so.
      - This assumes that nothing else changes the VMs, the images or the host in between.
"""

    # For modules that change nothing.
    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module changes nothing.
  diff_mode:
    support: N/A
    details:
      - This module changes nothing.
  idempotent:
    support: full
    details:
      - This module changes nothing.
"""

    # For modules that talk to libvirt and have the options of the C(vm) fragment.
    LIBVIRT_GROUP = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/vmkeep.libvirt.libvirt) in C(module_defaults) to set defaults for all such modules.
    support: full
    membership:
      - vmkeep.libvirt.libvirt
"""
