# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback plugin that writes down what each task returned, for ``lab.playbooks``.

One JSON object a line, to the file that VMKEEP_RECORD names: ``{task, action, failed, result}``,
and at the end ``{stats: {host: {ok, changed, failures, ...}}}``.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.executor.stats import AggregateStats
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: record
type: aggregate
short_description: Writes down what each task returned
description: One JSON object a line.
"""


class CallbackModule(CallbackBase):
    """Writes each line at once: a run that is killed leaves what it got to."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "record"

    def v2_runner_on_ok(self, result: Any) -> None:
        self._record(result, failed=False)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._record(result, failed=not ignore_errors)

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        self._write({"stats": {host: stats.summarize(host) for host in stats.processed}})

    def _record(self, result: Any, *, failed: bool) -> None:
        task = result.task
        entry = {"task": task.get_name(), "action": task.action, "failed": failed}
        self._write({**entry, "result": result.result})

    def _write(self, entry: dict[str, Any]) -> None:
        with open(os.environ["VMKEEP_RECORD"], "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
