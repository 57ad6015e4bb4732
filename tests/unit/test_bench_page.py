# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the benchmarks: what is measured anew takes the place of what there was."""

from __future__ import annotations

import re

from tools.common import ROOT

from benchmarks.page import page
from benchmarks.pairs import Comparison, Goal
from benchmarks.report import Part

MACHINE = "The machine of the last run"


def measured(name: str, what: str, ours: float, goal: Goal | None = None) -> Part:
    return Part(name, [Comparison(what, (ours,) * 7, (100.0,) * 7, "virsh", goal)])


def written(date: str, words: str, *parts: Part, earlier: str = "") -> str:
    machine = {"date": date, "commit": f"of-{date}", "processor": f"cpu-{date}"}
    return page(machine, list(parts), ["bin/bench", *words.split()], earlier)


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)", text, flags=re.MULTILINE)


def test_a_part_that_is_measured_anew_takes_its_place() -> None:
    """The others stay as they are, with when they were measured, and count in the summary."""
    slow = measured("freeze", "a gap", 90, Goal(0.5))
    first = written("day-1", "freeze info", slow, measured("info", "a chain", 200))
    assert headings(first)[:2] == ["In short", MACHINE] and len(headings(first)) == 4
    assert "* 0 of 1 goals met.\n* MISSED: a gap: 0.900, goal <= 0.5\n* LOSES: a chain\n" in first

    quick = measured("freeze", "a gap", 40, Goal(0.5))
    second = written("day-2", "freeze", quick, earlier=first)
    assert headings(second) == headings(first)
    assert "* 1 of 1 goals met.\n* LOSES: a chain\n" in second and "0.900" not in second
    assert (
        "* 7 pairs, measured on day-2 at commit of-day-2 by `bin/bench freeze` on cpu-day-2."
        in second
    )
    assert (
        "* 7 pairs, measured on day-1 at commit of-day-1 by `bin/bench freeze info` on cpu-day-1."
        in second
    )
    assert second.count("* 7 pairs") == 2 and "| date | day-2 |" in second

    third = written("day-3", "restore", measured("restore", "a disk", 50), earlier=second)
    assert headings(third)[:4] == headings(second) and "Restoring" in headings(third)[4]
    assert written("day-2", "freeze", quick, earlier=second) == second


def test_the_pages_are_what_would_be_written() -> None:
    for name in ("benchmarks.md", "benchmarks-backup.md"):
        text = (ROOT / "docs" / name).read_text()
        words = re.findall(r"^```text\nbin/bench (.*)$", text, flags=re.MULTILINE)
        again = written("today", words[0], earlier=text)
        assert headings(again) == headings(text)
        assert again.partition(f"## {MACHINE}")[0] == text.partition(f"## {MACHINE}")[0]
