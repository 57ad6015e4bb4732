# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one module as `lab.module_runner` does, and writes down how long its inside took.

Started as a program, never imported. VMKEEP_TIMING names the file for the answer:

* `inside`: seconds from main() to its exit;
* `call`: seconds in the function of the module's file that VMKEEP_CALL names, if it does;
* `spawned`: the programs that were started, only counted with VMKEEP_AUDIT set, since the hook
  costs time.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from types import ModuleType
from typing import Any

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
    answer: dict[str, Any] = {"spawned": spawned, "call": 0.0}
    if os.environ.get("VMKEEP_CALL"):
        watch(module, os.environ["VMKEEP_CALL"], answer)
    began = time.monotonic()
    try:
        module.main()
    finally:
        answer["inside"] = time.monotonic() - began
        with open(os.environ["VMKEEP_TIMING"], "w", encoding="utf-8") as file:
            json.dump(answer, file)


def watch(module: ModuleType, function: str, answer: dict[str, Any]) -> None:
    """Let the module call this function of its by way of a stopwatch."""
    call = getattr(module, function)

    def timed(*words: Any) -> Any:
        began = time.monotonic()
        try:
            return call(*words)
        finally:
            answer["call"] += time.monotonic() - began

    setattr(module, function, timed)


def note(spawned: list[str], event: str, args: tuple[object, ...]) -> None:
    """Python's audit events for a program that is started."""
    if event in STARTS:
        spawned.append(str(args[0]) if args else event)


if __name__ == "__main__":
    main()
