# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks of the collection, run by ``ansible-playbook`` against a lab.

All that Ansible writes besides its output stays below the lab's directory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core import Lab
from .modules import COLLECTIONS, link_collection
from .ownership import end

CALLBACKS = Path(__file__).with_name("callbacks")
PROGRAM = Path(sys.executable).with_name("ansible-playbook")
# Marks every process that descends from a run, however it was started.
MARK = "VMKEEP_LAB"
ENDED_WITHIN = 60  # s
CONFIGURATION = """\
[defaults]
home = {folder}/home
inventory = {folder}/inventory.json
remote_tmp = {folder}/remote
collections_path = {collections}
nocows = true
"""


@dataclass(frozen=True)
class PlaybookRun:
    """How a playbook went: its exit status, what each task returned, its output, its time."""

    status: int
    tasks: list[dict[str, Any]]
    output: str
    seconds: float

    def result(self, module: str) -> dict[str, Any]:
        """What the one task of a module of this collection returned."""
        name = f"vmkeep.libvirt.{module}"
        found = [task["result"] for task in self.tasks if task.get("action") == name]
        if len(found) != 1:
            raise LookupError(f"{len(found)} tasks of {name} in\n{self.output}")
        return found[0]

    @property
    def changed(self) -> int:
        """The number that the recap shows as changed."""
        stats = [task["stats"] for task in self.tasks if "stats" in task]
        return sum(host["changed"] for host in stats[0].values()) if stats else 0


class Controller:
    """An Ansible controller for one lab; ``configuration`` and its inventory name all of it."""

    def __init__(self, lab: Lab) -> None:
        self.folder = lab.directory / "ansible"
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        self.configuration = self.folder / "ansible.cfg"
        self.configuration.write_text(
            CONFIGURATION.format(folder=self.folder, collections=COLLECTIONS)
        )
        host = {
            "ansible_connection": "local",
            # The Python that runs the lab has the libvirt binding.
            "ansible_python_interpreter": sys.executable,
            "vmkeep_uri": lab.uri,
            "vmkeep_state_dir": str(lab.directory / "state"),
            "vmkeep_vm": sorted(lab.vms),
        }
        inventory = {"hypervisors": {"hosts": {"lab": host}}}
        (self.folder / "inventory.json").write_text(json.dumps(inventory, indent=1))
        link_collection()

    def command(self, playbook: str, variables: dict[str, Any], *options: str) -> list[str]:
        """The words to run a playbook by, one of the collection or a file NAME.yml.

        Variables are given as ``name=value``.
        """
        extra = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        name = playbook if playbook.endswith(".yml") else f"vmkeep.libvirt.{playbook}"
        return [str(PROGRAM), name, *extra, *options]

    def play(
        self,
        playbook: str,
        variables: dict[str, Any] | None = None,
        *options: str,
        log: Path | None = None,
        timeout: float = 300,
    ) -> PlaybookRun:
        """Run a playbook, as :meth:`command`, to its end; ``log`` gets its output appended."""
        log = log or self.folder / "playbooks.log"
        record = self.folder / "record"
        record.unlink(missing_ok=True)
        environment = {**self.environment(), "VMKEEP_RECORD": str(record)}
        words = self.command(playbook, variables or {}, *options)
        began = time.monotonic()
        with log.open("ab") as output:
            start = output.tell()
            output.write(f"$ {' '.join(words)}\n".encode())
            output.flush()
            status = self._run(words, environment, output.fileno(), timeout)
        seconds = time.monotonic() - began
        lines = record.read_text().splitlines() if record.exists() else []
        printed = log.read_bytes()[start:].decode(errors="replace")
        return PlaybookRun(status, [json.loads(line) for line in lines], printed, seconds)

    def environment(self) -> dict[str, str]:
        """The user's environment without other settings of Ansible."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
        return {
            **inherited,
            "LC_ALL": "C.UTF-8",  # Ansible refuses anything but UTF-8
            "ANSIBLE_CONFIG": str(self.configuration),
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "record",
            "ANSIBLE_NOCOLOR": "1",
            "TMPDIR": str(self.folder / "tmp"),  # where a module that is killed leaves its code
            MARK: str(self.folder),
        }

    def _run(self, words: list[str], env: dict[str, str], output: int, timeout: float) -> int:
        process = None
        try:
            process = subprocess.Popen(
                words,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt is for us; we then end what we started
            )
            return process.wait(timeout)
        except BaseException:  # also one that comes while it is being started
            self.end_descendants()
            if process:
                process.wait()
            raise

    def end_descendants(self) -> None:
        """End all that runs of this controller have started, also what they start meanwhile."""
        limit = time.monotonic() + ENDED_WITHIN
        while (pids := self.descendants()) and time.monotonic() < limit:
            end(pids)

    def descendants(self) -> list[int]:
        """Processes that were started by a run of this controller and are still there."""
        wanted = f"{MARK}={self.folder}".encode()
        return [pid for pid in _processes() if wanted in _environment(pid)]


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
