# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures as the page docs/benchmarks.md, with what they mean."""

from __future__ import annotations

from pathlib import Path

from .report import Part, cells, summary

TEXTS = Path(__file__).with_name("texts")
HEAD = ("measure", "ours, ms", "peer, ms", "ratio", "goal", "verdict")


def page(machine: dict[str, str], parts: list[Part], command: list[str]) -> str:
    """The whole page, in Markdown; the texts about each part stand in `texts/`."""
    words = " ".join(command)
    blocks = [
        (TEXTS / "introduction.md").read_text().replace("COMMAND", words),
        _summary(parts),
        "## The machine",
        _table(("", ""), list(machine.items())),
    ]
    for part in parts:
        blocks += [(TEXTS / f"{part.name}.md").read_text(), _measures(part)]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def _summary(parts: list[Part]) -> str:
    return "\n".join(f"* {line}" for line in summary(parts).splitlines())


def _measures(part: Part) -> str:
    rows = [cells(row) for row in part.rows]
    peers = dict.fromkeys(row.peer_name for row in part.rows)
    pairs = " and ".join(str(n) for n in sorted({len(row.ours) for row in part.rows}))
    notes = [f"{pairs} pairs.", *(f"Peer: `{peer}`." for peer in peers), *part.notes]
    return _table(HEAD, rows) + "\n\n" + "\n".join(f"* {note}" for note in notes)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
