# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another host, as far as ssh can tell: a server on the loopback interface, with its own home."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.vm import wait_until

# A home in a mount namespace of its own: the server knows keys from nowhere else.
SERVE = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
PROGRAMS = ("dropbear", "dropbearkey", "ssh", "ssh-keygen", "unshare")
lacking = [f"{name} is not installed" for name in PROGRAMS if not shutil.which(name)]
if os.geteuid() != 0:
    lacking.append("an ssh server with a home of its own needs root")
needs_ssh = pytest.mark.skipif(
    bool(lacking), reason=f"SKIPPED LOUDLY: {', '.join(lacking) or 'nothing is lacking'}"
)


@contextlib.contextmanager
def ssh_host(folder: Path) -> Iterator[list[str]]:
    """How to reach it, as words before the name of the host, 127.0.0.1."""
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    key, host_key = folder / "key", folder / "host-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    generate = ["dropbearkey", "-t", "ed25519", "-f", host_key]
    subprocess.run(generate, check=True, capture_output=True)
    shutil.copy(f"{key}.pub", home / ".ssh" / "authorized_keys")
    port = _free_port()
    serve = ["dropbear", "-F", "-E", "-s", "-r", host_key, "-P", folder / "pid"]
    served = ["sh", "-c", SERVE, "sh", home, Path.home(), *serve, "-p", f"127.0.0.1:{port}"]
    server = subprocess.Popen(["unshare", "--mount", *served], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(port), 10, "the ssh server answers")
        known = [f"-oUserKnownHostsFile={folder}/known", "-oStrictHostKeyChecking=accept-new"]
        yield ["ssh", "-F/dev/null", "-oBatchMode=yes", *known, f"-i{key}", f"-p{port}"]
    finally:
        server.terminate()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
