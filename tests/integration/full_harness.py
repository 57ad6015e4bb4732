# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one module as Ansible does, while the file system of its records becomes full.

Started as a program in place of `lab/module_runner.py`, never imported by a test. What to do comes
in the environment variable VMKEEP_FULL as JSON: ``place`` is the mount point of that; it is
filled when ``after`` records were written there. With ``left`` so many bytes stay free, and there
is room again after that record. With ``no_room`` the run does not take the room for its notes, as
where somebody else was quicker.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils import basic

sys.path.append(str(Path(__file__).parent))

from full_stage import empty, leave

SETTINGS: dict[str, Any] = json.loads(os.environ["VMKEEP_FULL"])


def fill_when_it_is_time() -> None:
    from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import durable, journal

    write, written = durable.write_whole, []

    def write_or_not(path: str, *rest: Any, **options: Any) -> None:
        place, full = Path(SETTINGS["place"]), len(written) == SETTINGS["after"]
        if place not in Path(path).parents:
            return write(path, *rest, **options)
        written.append(path)
        if full:
            leave(place, SETTINGS.get("left", 0))
        try:
            write(path, *rest, **options)
        finally:
            if full and "left" in SETTINGS:
                empty(place)

    durable.write_whole = write_or_not
    if SETTINGS.get("no_room"):
        journal.Journal._keep_room = lambda _self: None  # type: ignore[method-assign]


def main() -> None:
    basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
    basic._ANSIBLE_PROFILE = "legacy"
    name = f"ansible_collections.vmkeep.libvirt.plugins.modules.{sys.argv[1]}"
    sys.argv = [name]
    fill_when_it_is_time()
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
