# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one module of the collection: its name as the argument, what Ansible sends on stdin.

Started as a program by `lab.modules`, never imported.
"""

from __future__ import annotations

import runpy
import sys

from ansible.module_utils import basic


def main() -> None:
    # What Ansible's own wrapper sets before it runs a module (ansible-core 2.19).
    basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
    basic._ANSIBLE_PROFILE = "legacy"
    name = f"ansible_collections.vmkeep.libvirt.plugins.modules.{sys.argv[1]}"
    sys.argv = [name]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
