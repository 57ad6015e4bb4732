# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured, as a table for a terminal, as a page and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .pairs import Comparison, middle, shown

HEAD = ("", "ours ms", "peer ms", "ratio", "goal", "")


@dataclass(frozen=True)
class Part:
    """The outcome of one part: its measures, and what else was found."""

    name: str
    rows: list[Comparison]
    notes: list[str] = field(default_factory=list)


def cells(row: Comparison) -> tuple[str, ...]:
    """One line of the table: medians and 95th percentiles, ratio, goal and verdict."""
    times = " x" if row.counts_up else ""
    ratio = f"{shown(row.ratio)} / {shown(row.bad_ratio)}{times}"
    goal = f"{row.goal}{times}" if row.goal else "-"
    return (row.what, middle(row.ours), middle(row.peer), ratio, goal, row.verdict)


def table(part: Part) -> str:
    """For a terminal."""
    lines = [HEAD, *(cells(row) for row in part.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    text = []
    for line in lines:
        first, *rest = zip(line, widths)
        text.append("  ".join([f"{first[0]:<{first[1]}}", *(f"{c:>{w}}" for c, w in rest)]))
    peers = dict.fromkeys(row.peer_name for row in part.rows)
    return "\n".join([*text, *(f"peer: {peer}" for peer in peers), *part.notes])


def as_json(part: Part) -> dict[str, Any]:
    """Every value, with the ratios and the verdicts."""
    rows = [
        {**asdict(row), "ratios": row.ratios, "ratio": row.ratio, "verdict": row.verdict}
        for row in part.rows
    ]
    return {"part": part.name, "rows": rows, "notes": part.notes}


def heading(name: str, pairs: int) -> str:
    return f"=== {name}: {pairs} pairs, median / p95 of each ==="


def summary(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """How many goals are met, and which are not, from the lines of tables (see `cells`)."""
    goals = [line for line in lines if line[4] != "-"]
    missed = [line for line in goals if line[5] == "MISSED"]
    return [
        f"{len(goals) - len(missed)} of {len(goals)} goals met.",
        *(f"MISSED: {line[0]}: {line[3].split(' / ')[0]}, goal {line[4]}" for line in missed),
        *(f"LOSES: {line[0]}" for line in lines if line[5] == "LOSES"),
    ]
