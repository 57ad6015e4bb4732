# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's storage daemon: the block layer of a running VM, without the VM."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any


class StorageDaemon:
    """Holds a qcow2 image open for writing, locked, until the end of the ``with`` block."""

    def __init__(self, path: Path) -> None:
        node = {"driver": "qcow2", "node-name": "disk"}
        node["file"] = {"driver": "file", "filename": str(path)}
        command = ["qemu-storage-daemon", "--blockdev", json.dumps(node)]
        command += ["--chardev", "stdio,id=control", "--monitor", "chardev=control"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> StorageDaemon:
        self._answer()
        self.do("qmp_capabilities")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def do(self, command: str, **arguments: Any) -> Any:
        """A QMP command; its names have underscores for dashes here."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._process.stdin.write(json.dumps({"execute": command, "arguments": named}) + "\n")
        self._process.stdin.flush()
        while True:
            answer = self._answer()
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        assert line, "the storage daemon has ended"
        return json.loads(line)
