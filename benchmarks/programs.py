# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running our modules and their peers, timed in the same way: from the start to the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.modules import COLLECTIONS, link_collection

TIMER = Path(__file__).with_name("module_timer.py")


INSIDE, WHOLE = "main() to exit", "whole process"


class BenchmarkError(Exception):
    """A side did not do what was to be measured; the text says what it did."""


@dataclass(frozen=True)
class Timed:
    """Seconds of a module's run: the process, from main() to its exit, and one function in it."""

    whole: float
    inside: float
    call: float
    spawned: tuple[str, ...]
    result: dict[str, Any]


def milliseconds(runs: Sequence[Timed], seconds: Callable[[Timed], float]) -> tuple[float, ...]:
    return tuple(1000 * seconds(run) for run in runs)


def run_module(
    folder: Path, name: str, params: dict[str, Any], *, call: str = "", audit: bool = False
) -> Timed:
    """Run a module to its end as Ansible would, in a process of its own; it must succeed.

    `call` names a function of the module's file to be timed besides; `audit` counts programs.
    """
    link_collection()
    timing = folder / "timing.json"
    wishes = {"TIMING": str(timing), "CALL": call, "AUDIT": "1" if audit else ""}
    environment = {**os.environ, "PYTHONPATH": str(COLLECTIONS)}
    environment.update({f"VMKEEP_{name}": value for name, value in wishes.items()})
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": params}).encode()
    words = [sys.executable, str(TIMER), name]
    began = time.monotonic()
    done = subprocess.run(words, input=arguments, env=environment, capture_output=True, check=False)
    whole = time.monotonic() - began
    result = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    if done.returncode or not result or result.get("failed"):
        raise BenchmarkError(f"{name}: {result.get('msg')} {done.stderr.decode(errors='replace')}")
    taken = json.loads(timing.read_text())
    return Timed(whole, taken["inside"], taken["call"], tuple(taken["spawned"]), result)


def run_program(*words: str) -> float:
    """Run a program to its end, which must be good; the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise BenchmarkError(f"{' '.join(words)}: {done.stderr.decode(errors='replace')}")
    return seconds
