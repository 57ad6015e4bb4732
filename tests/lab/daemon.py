# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private libvirtd in session mode, with every directory below the lab's."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import libvirt

from .cache import cache_dir, replace_file
from .ownership import end, processes
from .programs import LabError, Programs

QEMU_CONF = """\
# Console output goes straight to files: one daemon less to start and to lose.
stdio_handler = "file"
security_driver = "none"
"""
DAEMON_CONF = 'log_outputs = "3:file:{log}"\n'
CAPABILITIES = "x/libvirt/qemu/cache/capabilities"


class Daemon:
    """Started by `start`; its virtual machines survive `kill` and `restart`."""

    def __init__(self, programs: Programs, directory: Path) -> None:
        self.directory = directory
        self._programs = programs
        self._processes: list[subprocess.Popen[bytes]] = []
        self.socket = directory / "r/libvirt/libvirt-sock"
        # This address alone reaches the daemon, whatever the environment says.
        self.uri = f"qemu:///session?socket={self.socket}"

    def start(self, timeout: float = 60) -> None:
        """Start the daemon and return when it answers."""
        self._prepare()
        argv = ["libvirtd", "--config", f"{self.directory}/libvirtd.conf"]
        argv += ["--pid-file", f"{self.directory}/libvirtd.pid"]
        log = f"{self.directory}/libvirtd.out"
        process = self._programs.start_daemon(argv, self._environment(), log)
        self._processes.append(process)
        self._wait(process, timeout)

    def stop(self) -> None:
        """End the daemon in good order; the virtual machines go on running."""
        end(self._pids())

    def kill(self) -> None:
        """End the daemon at once, as a crash would; the virtual machines go on running."""
        end(self._pids(), patience=0)

    def restart(self, *, crash: bool = False) -> None:
        """End the daemon and start it again."""
        if crash:
            self.kill()
        else:
            self.stop()
        self.start()

    def running(self) -> bool:
        return bool(self._pids())

    def connect(self) -> libvirt.virConnect:
        """A new connection."""
        return libvirt.open(self.uri)

    def warm_up(self) -> None:
        """Let libvirt examine QEMU, or give it what it found in an earlier lab (7 s or none).

        libvirt itself checks that the record still fits the programs and the kernel.
        """
        connection = self.connect()
        try:
            connection.getDomainCapabilities(None, "x86_64", None, None, 0)
        finally:
            connection.close()
        kept = self._kept_capabilities()
        kept.mkdir(exist_ok=True)
        for path in (self.directory / CAPABILITIES).glob("*.xml"):
            content = path.read_bytes()
            if not (kept / path.name).exists() or (kept / path.name).read_bytes() != content:
                replace_file(kept / path.name, content)

    def forget(self, *, running: bool = False) -> None:
        """Leave no zombies after the end of everything, or leave all `running` without us."""
        for process in self._processes:
            if running:
                process.returncode = 0  # no warning that it still runs
            else:
                process.wait(timeout=10)
        self._processes.clear()

    def _kept_capabilities(self) -> Path:
        return cache_dir() / f"capabilities-{os.getuid()}"

    def _prepare(self) -> None:
        for name in ("r", "c/libvirt", "d", "h", CAPABILITIES):
            (self.directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.directory / "c/libvirt/qemu.conf").write_text(QEMU_CONF)
        log = self.directory / "libvirtd.log"
        (self.directory / "libvirtd.conf").write_text(DAEMON_CONF.format(log=log))
        for path in self._kept_capabilities().glob("*.xml"):
            target = self.directory / CAPABILITIES / path.name
            if not target.exists():
                shutil.copy2(path, target)

    def _environment(self) -> dict[str, str]:
        names = {"HOME": "h", "XDG_RUNTIME_DIR": "r", "XDG_CONFIG_HOME": "c"}
        names.update({"XDG_CACHE_HOME": "x", "XDG_DATA_HOME": "d", "TMPDIR": "h"})
        return {name: f"{self.directory}/{folder}" for name, folder in names.items()}

    def _wait(self, process: subprocess.Popen[bytes], timeout: float) -> None:
        limit = time.monotonic() + timeout
        while True:
            try:
                self.connect().close()
                return
            except libvirt.libvirtError as error:
                if process.poll() is not None or time.monotonic() > limit:
                    output = (self.directory / "libvirtd.out").read_text(errors="replace")
                    raise LabError(f"libvirtd does not answer: {error}. {output}") from error
            time.sleep(0.02)

    def _pids(self) -> list[int]:
        return [pid for pid, name in processes(self.directory).items() if name == "libvirtd"]
