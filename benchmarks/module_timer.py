# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one module as `lab.module_runner` does, and writes down how long its inside took.

Started as a program, never imported. VMKEEP_TIMING names the file for the answer,
`{"inside": seconds from main() to its exit, "spawned": programs started}`. Programs are only
counted with VMKEEP_AUDIT set, since the hook costs time.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")


def main() -> None:
    spawned: list[str] = []
    if os.environ.get("VMKEEP_AUDIT"):
        sys.addaudithook(lambda event, args: note(spawned, event, args))
    from ansible.module_utils import basic

    # What Ansible's own wrapper sets before it runs a module (ansible-core 2.19).
    basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
    basic._ANSIBLE_PROFILE = "legacy"
    name = f"ansible_collections.vmkeep.libvirt.plugins.modules.{sys.argv[1]}"
    sys.argv = [name]
    module = importlib.import_module(name)
    began = time.monotonic()
    try:
        module.main()
    finally:
        answer = {"inside": time.monotonic() - began, "spawned": spawned}
        with open(os.environ["VMKEEP_TIMING"], "w", encoding="utf-8") as file:
            json.dump(answer, file)


def note(spawned: list[str], event: str, args: tuple[object, ...]) -> None:
    """Python's audit events for a program that is started."""
    if event in STARTS:
        spawned.append(str(args[0]) if args else event)


if __name__ == "__main__":
    main()
