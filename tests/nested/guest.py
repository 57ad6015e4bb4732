# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a shell command in a guest, by virsh and its agent: guest.py VM COMMAND [SECONDS].

Prints what the command prints and ends with its status. Runs in the hypervisor. It waits for the
agent, too: SECONDS (default 300) is the time for everything.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from typing import Any


def ask(vm: str, command: str, **arguments: Any) -> Any:
    """The answer of the agent, None if there is none."""
    text = json.dumps({"execute": command, "arguments": arguments})
    words = ["virsh", "-c", "qemu:///system", "qemu-agent-command", vm, text]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["return"] if done.returncode == 0 else None


def main(vm: str, command: str, seconds: str = "300") -> int:
    limit = time.monotonic() + float(seconds)
    words = {"path": "sh", "arg": ["-c", command], "capture-output": True}
    while (started := ask(vm, "guest-exec", **words)) is None:
        if time.monotonic() > limit:
            sys.exit(f"the agent of {vm} does not answer")
        time.sleep(0.5)
    while not (status := ask(vm, "guest-exec-status", pid=started["pid"]))["exited"]:
        if time.monotonic() > limit:
            sys.exit(f"still running in {vm}: {command}")
        time.sleep(0.2)
    for stream, name in ((sys.stdout, "out-data"), (sys.stderr, "err-data")):
        stream.write(base64.b64decode(status.get(name, "")).decode())
    return int(status.get("exitcode", 1))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
