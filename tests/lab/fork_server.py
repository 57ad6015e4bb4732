# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules one after the other, each in a process of its own that is forked ready to go.

Started as a program by `lab.forked`, never imported. A fresh interpreter spends most of a short
run on importing Ansible.

Each line of standard input is a JSON object, ``name`` of the module and ``arguments`` as Ansible
sends them, and ``environment`` to add to ours; each gets a line with what the module printed, as a
JSON string, empty where it has died. In that environment VMKEEP_INJECT is for `injected.py`, and
VMKEEP_HARNESS for `integration/kill_harness.py`.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

from ansible.module_utils import basic

MODULES = "ansible_collections.vmkeep.libvirt.plugins.modules"


def run(name: str, arguments: dict) -> None:
    """The module in this process, which ends with it."""
    basic._ANSIBLE_ARGS = json.dumps(arguments).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    sys.argv = [f"{MODULES}.{name}"]
    runpy.run_module(f"{MODULES}.{name}", run_name="__main__", alter_sys=True)


def answer(name: str, arguments: dict, environment: dict) -> str:
    """What the module prints when it is run in a child."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        os.dup2(theirs, 1)
        os.environ.update(environment)
        try:
            if "VMKEEP_INJECT" in environment:
                from injected import inject

                inject(json.loads(environment["VMKEEP_INJECT"]))
            if "VMKEEP_HARNESS" in environment:
                sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
                from kill_harness import build_in

                build_in()
            run(name, arguments)
        except SystemExit:
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8", errors="replace") as pipe:
        printed = pipe.read()
    os.waitpid(child, 0)
    return printed


def main() -> None:
    # Everything that a module needs, before the first fork; no thread and no connection yet.
    import ansible_collections.vmkeep.libvirt.plugins.module_utils._flow.all_vms
    import ansible_collections.vmkeep.libvirt.plugins.module_utils._image_operation
    import ansible_collections.vmkeep.libvirt.plugins.module_utils._operation  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        environment = request["environment"]
        printed = answer(request["name"], request["arguments"], environment)
        print(json.dumps(printed), flush=True)


if __name__ == "__main__":
    main()
