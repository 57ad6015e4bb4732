# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks that are made of roles: hooks and task files for them, and what they did."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path
from typing import Any

from lab import Lab
from lab.playbooks import Controller, PlaybookRun
from lab.vm import wait_until


class Roles:
    """A controller with a folder of task files, and a log that these write to."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.log = folder / "log"

    @cached_property
    def controller(self) -> Controller:
        """Its inventory names the VMs that there are when it is first used."""
        return Controller(self.lab)

    def play(self, playbook: str, *options: str, timeout: float = 300, **more: Any) -> PlaybookRun:
        """A run with variables, whatever comes of it."""
        words = ("--extra-vars", json.dumps({f"vmkeep_{name}": more[name] for name in more}))
        return self.controller.play(playbook, {}, *words, *options, timeout=timeout)

    def succeed(self, playbook: str, *options: str, **more: Any) -> PlaybookRun:
        run = self.play(playbook, *options, **more)
        assert run.status == 0, run.output
        return run

    def refused(self, playbook: str, *options: str, **more: Any) -> str:
        """What a run says that has to fail, without its line breaks."""
        run = self.play(playbook, *options, **more)
        assert run.status == 2, run.output
        assert "Traceback" not in run.output
        return " ".join(run.output.split())

    def killed(self, word: str, playbook: str, **more: Any) -> None:
        """A run that is killed with all that it started, once the log has this word."""
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(self.play, playbook, **more)
            wait_until(lambda: run.done() or word in self._logged(), 250, f"the log says {word}")
            self.controller.end_descendants()
            assert run.result().status != 0, run.result().output
        assert word in self._logged()

    def killed_after(self, seconds: float, playbook: str, **more: Any) -> bool:
        """SIGKILL for a run and all that it started, after so long; False if it was over before."""
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(self.play, playbook, **more)
            wait([run], timeout=seconds)
            while not run.done():
                for pid in self.controller.descendants():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)
        return run.result().status != 0

    def _logged(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def tasks(self, name: str, *texts: str) -> str:
        """A file of tasks."""
        path = self.folder / f"{name}.yml"
        path.write_text("---\n" + "".join(texts))
        return str(path)

    def says(self, word: str) -> str:
        """A task that writes a word to the log, on the hypervisor."""
        return (
            f"- name: Say {word}\n  ansible.builtin.shell: echo {word} >>{self.log}\n"
            "  changed_when: true\n"
        )

    def said(self) -> list[str]:
        """The words in the log, which is empty then."""
        words = self._logged()
        self.log.unlink(missing_ok=True)
        return words


FAILS = "- name: Break\n  ansible.builtin.fail:\n    msg: it is broken\n"
HANGS = "- name: Hang\n  ansible.builtin.pause:\n    seconds: 90\n"


def in_the_guest(command: str, name: str = "db01") -> str:
    """A task that runs a shell command in a guest, by its agent."""
    arguments = {"path": "/bin/sh", "arg": ["-c", command]}
    asked = json.dumps({"execute": "guest-exec", "arguments": arguments})
    argv = ["virsh", "--connect={{ vmkeep_uri }}", "qemu-agent-command", name, asked]
    task = {"name": "Do it in the guest", "ansible.builtin.command": {"argv": argv}}
    return f"- {json.dumps({**task, 'changed_when': True})}\n"


def results(run: PlaybookRun, module: str) -> list[dict[str, Any]]:
    """What each task of a module returned that was not skipped."""
    name = f"vmkeep.libvirt.{module}"
    found = [task["result"] for task in run.tasks if task.get("action") == name]
    return [result for result in found if not result.get("skipped")]
