# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules of the collection without the start of an interpreter for each run.

What a story needs are many short runs one after the other; each is still a process of its own.
A run that is to be killed, or that others run beside, is started by `lab.modules`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from .modules import COLLECTIONS, ModuleCrashed, last_object, link_collection, task
from .programs import LabError

SERVER = Path(__file__).with_name("fork_server.py")


def run_forked(
    name: str,
    params: dict[str, Any],
    *,
    check: bool = False,
    env: dict[str, str] | None = None,
    timeout: float = 120,
) -> dict[str, Any]:
    """As `lab.modules.run_module`, and as Ansible asks for it with ``--diff``."""
    server = _server()
    # Ours may have changed since the server was started.
    environment = {**os.environ, **(env or {})}
    arguments = task(name, params, check=check)
    request = {"name": name, "arguments": arguments, "environment": environment}
    server.stdin.write(json.dumps(request).encode() + b"\n")
    server.stdin.flush()
    if not select.select([server.stdout], [], [], timeout)[0]:
        server.kill()
        _server.cache_clear()
        raise LabError(f"{name} was still running after {timeout} s, or holds its output open")
    printed = json.loads(server.stdout.readline())
    answer = last_object(printed)
    if answer is None:
        raise ModuleCrashed(f"{name} gave no result: {printed}")
    answer.setdefault("failed", False)
    return answer


@cache
def _server() -> subprocess.Popen[bytes]:
    """The server of this process; it ends when we do, with its standard input."""
    link_collection()
    return subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
    )
