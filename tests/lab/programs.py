# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the lab finds and starts programs.

This is the one seam to replace when the hypervisor's programs live somewhere else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNPRIVILEGED = "65534"
REAPER = Path(__file__).with_name("reaper.py")


class LabError(Exception):
    """The lab cannot do what was asked; the text says why."""


class Programs(Protocol):
    """What the rest of the lab needs to know about the place where programs run."""

    def find(self, name: str) -> str:
        """Absolute path of a program; LabError when it is not installed."""

    def run(self, *argv: str, timeout: float = 60, **options: Any) -> str:
        """Run a program to its end and return what it printed; LabError when it fails."""

    def start_daemon(
        self, argv: list[str], env: dict[str, str], log: str
    ) -> subprocess.Popen[bytes]:
        """Start libvirtd in session mode, in the background, with its output in the file log.

        The process that is returned ends when the daemon and all its machines have ended.
        """

    def environment(self) -> dict[str, str]:
        """The environment that programs start from."""


class HostPrograms:
    """The programs of this machine."""

    def find(self, name: str) -> str:
        path = shutil.which(name, path=SYSTEM_PATH)
        if path is None:
            raise LabError(f"{name} is not installed. Run bin/setup test.")
        return path

    def environment(self) -> dict[str, str]:
        return {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"}

    def run(self, *argv: str, timeout: float = 60, **options: Any) -> str:
        command = [self.find(argv[0]), *argv[1:]]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            check=False,
            **options,
        )
        if done.returncode:
            raise LabError(f"{' '.join(argv)} failed ({done.returncode}): {done.stderr.strip()}")
        return done.stdout

    def start_daemon(
        self, argv: list[str], env: dict[str, str], log: str
    ) -> subprocess.Popen[bytes]:
        reaper = [sys.executable, "-IS", str(REAPER)]
        command = [*reaper, *self._session_mode(), self.find(argv[0]), *argv[1:]]
        with open(log, "ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self.environment(), **env},
                start_new_session=True,
            )

    def _session_mode(self) -> list[str]:
        """Prefix that makes libvirtd believe that it is not root.

        libvirtd run by root is the system daemon, with fixed directories. In a user namespace
        that shows our root as an ordinary user it is a session daemon, and every file that it
        makes still belongs to root. The process id stays the same: unshare executes the program.
        """
        if os.geteuid() != 0:
            return []
        ids = (f"--map-user={UNPRIVILEGED}", f"--map-group={UNPRIVILEGED}")
        return [self.find("unshare"), "--user", *ids]
