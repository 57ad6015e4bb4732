# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks for several entries, one of which meets an exception that nobody expects."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import VM
from lab.forked import run_forked
from lab.injected import ERRORS

Entry = dict[str, Any]
MOST = int(os.environ.get("VMKEEP_MOST", "6"))


@dataclass
class Case:
    """A task: the module, its options, {entry: what mentions it}, and the key of its results.

    The one in the middle is the victim, so that others come before and after it.
    """

    module: str
    params: dict[str, Any]
    entries: dict[str, list[str]]
    key: str
    victim: str = field(init=False)

    def __post_init__(self) -> None:
        self.victim = list(self.entries)[len(self.entries) // 2]

    def results(self, result: dict[str, Any]) -> dict[str, Entry]:
        """entry -> what was returned of it."""
        found = result[self.key]
        return found if isinstance(found, dict) else {entry["path"]: entry for entry in found}


class Injector:
    """Lets the calls for the victim raise, one in each run."""

    def __init__(self, case: Case, log: Path, restore: Callable[[], object]) -> None:
        self.case = case
        self.log = log
        self.restore = restore

    def run(self, **told: Any) -> dict[str, Any]:
        """One run of the task."""
        what = {"entries": self.case.entries, "victim": self.case.victim, **told}
        env = {"VMKEEP_INJECT": json.dumps(what)} if told else {}
        return run_forked(self.case.module, self.case.params, env=env)

    def reached(self) -> Iterator[tuple[str, int]]:
        """The calls made for the victim: the first and the last of each function."""
        self.log.unlink(missing_ok=True)
        result = self.run(log=str(self.log))
        assert not result["failed"], result
        self.restore()
        names = self.log.read_text().split()
        for name in dict.fromkeys(names):
            yield from ((name, number) for number in dict.fromkeys((1, names.count(name))))

    def try_all(self, most: int) -> None:
        """At most so many of these calls raise, and the others of the task are done."""
        expected = self.case.results(self.run())
        self.restore()
        failures = [self.check(result, expected, told) for told, result in self.results(most)]
        assert sum(failures) > len(failures) // 4, "hardly anything was raised"

    def results(self, most: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """What a call that raises leads to, for at most so many calls, always the same ones.

        After each a plain run does what is to be done.
        """
        calls = list(self.reached())
        assert len(calls) > 5, calls
        chosen = sorted(calls, key=lambda call: zlib.crc32(repr(call).encode()))[:most]
        kinds = list(ERRORS)
        for number, (name, count) in enumerate(chosen):
            told = {"raise": name, "number": count, "error": kinds[number % len(kinds)]}
            yield str(told), self.run(**told)
            again = self.run()
            assert not again["failed"], (told, again["msg"])
            self.restore()

    def check(self, result: dict[str, Any], expected: dict[str, Entry], told: str) -> bool:
        """The others are as they are to be. Whether the victim has failed."""
        case = self.case
        assert case.key in result, (told, result)
        found = case.results(result)
        assert list(found) == list(expected), (told, result)
        for name in case.entries:
            if name != case.victim:
                assert not _failed(found[name]), (told, found[name])
                assert found[name].keys() == expected[name].keys(), told
        victim = found[case.victim]
        assert result["failed"] == _failed(victim), (told, result)
        if result["failed"]:
            assert case.victim in result["msg"], (told, result["msg"])
            message = victim.get("msg") or victim["error"]
            assert message in result["msg"] and message.endswith("."), (told, message)
        return bool(result["failed"])


def entries(machines: list[VM]) -> dict[str, list[str]]:
    """What mentions each of these VMs."""
    return {vm.name: [vm.name, vm.uuid] for vm in machines}


def _failed(entry: Entry) -> bool:
    return bool(entry.get("failed") or entry.get("error"))
