# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures as the page docs/benchmarks.md, with what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from .report import Part, cells, summary

TEXTS = Path(__file__).with_name("texts")
VERDICTS = ("met", "MISSED", "wins", "LOSES")
HEAD = ("measure", "ours, ms", "peer, ms", "ratio", "goal", "verdict")


def page(machine: dict[str, str], parts: list[Part], command: list[str], earlier: str = "") -> str:
    """The whole page, in Markdown; the texts about each part stand in `texts/`.

    Of an `earlier` page the parts that were not measured anew are kept.
    """
    words = " ".join(command)
    origin = (
        f"measured on {machine['date']} at commit {machine['commit']} by `{words}`"
        f" on {machine['processor']}"
    )
    measured = (f"{_text(part.name)}\n\n{_measures(part, origin)}" for part in parts)
    sections = {**_by_heading([earlier]), **_by_heading(measured)}
    blocks = [
        _text("introduction").replace("COMMAND", words),
        _summary("\n".join(sections.values())),
        "## The machine of the last run",
        _table(("", ""), list(machine.items())),
        *sections.values(),
    ]
    return "\n\n".join(blocks) + "\n"


def _text(name: str) -> str:
    return (TEXTS / f"{name}.md").read_text().strip()


def _by_heading(texts: Iterable[str]) -> dict[str, str]:
    """The sections in these texts that are about a part."""
    known = {path.read_text().partition("\n")[0] for path in TEXTS.glob("*.md")}
    found = (section for text in texts for section in re.split(r"^(?=## )", text, flags=re.M))
    by_heading = {section.partition("\n")[0]: section.strip() for section in found}
    return {
        head: section for head, section in by_heading.items() if head in known - {"# Benchmarks"}
    }


def _summary(sections: str) -> str:
    """What their tables come to."""
    lines = re.findall(r"^\| (.*) \|$", sections, flags=re.M)
    rows = [tuple(line.split(" | ")) for line in lines]
    measures = [row for row in rows if row[-1] in VERDICTS]
    return "\n".join(("## In short\n", *(f"* {line}" for line in summary(measures))))


def _measures(part: Part, origin: str) -> str:
    rows = [cells(row) for row in part.rows]
    peers = dict.fromkeys(row.peer_name for row in part.rows)
    pairs = " and ".join(str(n) for n in sorted({len(row.ours) for row in part.rows}))
    notes = [f"{pairs} pairs, {origin}.", *(f"Peer: `{peer}`." for peer in peers), *part.notes]
    return _table(HEAD, rows) + "\n\n" + "\n".join(f"* {note}" for note in notes)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
