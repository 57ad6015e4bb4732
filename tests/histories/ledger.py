# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which histories were played with this code, and how they went: a line of JSON each."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from .play import Outcome

ROOT = Path(__file__).parents[2]
# What decides how a history goes.
CODE = ("plugins/modules", "plugins/module_utils", "tests/histories", "tests/lab")


@dataclass(frozen=True)
class Entry:
    """One history. `kills`: how many of our runs have died in it."""

    seed: int
    actions: int
    kills: int
    seconds: float
    fault: str

    @classmethod
    def of(cls, seed: int, outcome: Outcome, seconds: float) -> Entry:
        kills = sum(said.startswith("killed") for said in outcome.said)
        return cls(seed, len(outcome.steps), kills, round(seconds), outcome.fault)

    @property
    def told(self) -> str:
        verdict = "FAULT" if self.fault else "good"
        return f"{self.actions} actions, {self.kills} kills, {self.seconds:.0f} s: {verdict}"


class Ledger:
    """Those of one version of the code, on one version of the system."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of_this_code(cls) -> Ledger:
        digest = hashlib.sha256(platform.freedesktop_os_release()["PRETTY_NAME"].encode())
        for folder in CODE:
            for path in sorted((ROOT / folder).rglob("*.py")):
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
        return cls(ROOT / ".cache" / "histories" / f"{digest.hexdigest()[:16]}.jsonl")

    def good(self) -> list[Entry]:
        """Those without a fault."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [entry for line in lines if not (entry := Entry(**json.loads(line))).fault]

    def add(self, entry: Entry) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(entry)) + "\n")
