# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback plugin that writes the seconds of the one task of a playbook to VMKEEP_TASK_TIMES."""

from __future__ import annotations

import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: task_times
type: aggregate
short_description: Writes down how long the task took
description: From its start to its result; with a loop from its start to the end of the loop.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_times"

    def __init__(self) -> None:
        super().__init__()
        self._began = 0.0

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002
        self._began = time.monotonic()

    def v2_runner_on_ok(self, result: Any) -> None:  # noqa: ARG002
        seconds = time.monotonic() - self._began
        with open(os.environ["VMKEEP_TASK_TIMES"], "w", encoding="utf-8") as file:
            file.write(str(seconds))
