# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark as a program; `bin/bench` has installed what it needs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lab import LabError

from . import backup, commit, fleet, freeze, info, restore
from .machine import facts
from .page import page
from .programs import BenchmarkError
from .report import Part, as_json, cells, heading, summary, table

PARTS: dict[str, Callable[..., Part]] = {
    "freeze": freeze.measure,
    "commit": commit.measure,
    "info": info.measure,
    "fleet": fleet.measure,
    "backup": backup.measure,
    "restore": restore.measure,
}
PAIRS = {"freeze": 15, "commit": 9, "info": 15, "fleet": 15, "backup": 7, "restore": 7}
LEAST = 7


def main(words: list[str]) -> int:
    options = parsed(words)
    machine = facts()
    print("\n".join(f"{name:<13} {value}" for name, value in machine.items()), flush=True)
    parts = []
    for name in options.parts or PARTS:
        pairs = options.pairs or (1 if options.quick else PAIRS[name])
        print(f"\n{heading(name, pairs)}", flush=True)
        try:
            part = PARTS[name](pairs, quick=options.quick)
            parts.append(without_goals(part) if options.quick else part)
        except (BenchmarkError, LabError) as error:
            print(f"could not be measured: {error}", file=sys.stderr)
            return 1
        print(table(parts[-1]), flush=True)
    lines = summary([cells(row) for part in parts for row in part.rows])
    print("\n".join(["", *lines]))
    if options.json:
        content = {"machine": machine, "parts": [as_json(part) for part in parts]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.page:
        earlier = options.page.read_text() if options.page.exists() else ""
        options.page.write_text(page(machine, parts, ["bin/bench", *words], earlier))
    return 0


def without_goals(part: Part) -> Part:
    """Nothing is held against a goal whose sizes it is not for."""
    rows = [replace(row, goal=None, faster=row.counts_up) for row in part.rows]
    return replace(part, rows=rows)


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/bench", add_help=False)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="|".join(PARTS))
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args(words)
    if options.pairs is not None and options.pairs < LEAST and not options.quick:
        parser.error(f"fewer than {LEAST} pairs say nothing; --quick shows that it works")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
