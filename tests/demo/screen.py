# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the demo prints: at most 100 columns, colours on a terminal that wants them."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

BOLD, DIM, RED, GREEN = "1", "2", "31;1", "32"
INDENT = "    "


@dataclass
class Screen:
    """Numbered phases with their times, and checks that are counted."""

    phases: int
    output: TextIO = sys.stdout
    began: float = field(default_factory=time.monotonic)
    number: int = 0
    good: int = 0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.width = min(100, max(72, shutil.get_terminal_size((80, 24)).columns))
        dumb = os.environ.get("TERM") == "dumb"
        self._coloured = self.output.isatty() and not dumb and not os.environ.get("NO_COLOR")

    def title(self, name: str, text: str) -> None:
        self._print(self._paint(name, BOLD))
        self._print(textwrap.fill(text, self.width))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A part of the story; its time is printed when it ends well."""
        self.number += 1
        began = time.monotonic()
        self._print()
        self._print(self._paint(f"{self.number}/{self.phases} {name}", BOLD))
        yield
        self._print(self._paint(f"{INDENT}({time.monotonic() - began:.1f} s)", DIM))

    def heading(self, name: str) -> None:
        self._print()
        self._print(self._paint(name, BOLD))

    def text(self, text: str) -> None:
        """A sentence or two, wrapped."""
        self._print(
            textwrap.fill(text, self.width, initial_indent=INDENT, subsequent_indent=INDENT)
        )

    def lines(self, lines: Iterable[str]) -> None:
        """Lines as they are, one step further in."""
        for line in lines:
            self._print(f"{INDENT}{line}".rstrip())

    def table(self, rows: Iterable[tuple[str, str]]) -> None:
        """Names and what there is to say of them, in two columns."""
        listed = list(rows)
        column = max(len(name) for name, dummy in listed) + 2
        for name, value in listed:
            self._print(f"{INDENT}{name:<{column}}{value}")

    def command(self, words: str) -> None:
        self._print(self._paint(f"{INDENT}$ {words}", DIM))

    def check(self, good: bool, claim: str, otherwise: str = "") -> None:
        """A verified claim; what was found instead is printed where it does not hold."""
        if good:
            self.good += 1
            self._print(f"{INDENT}{self._paint('ok', GREEN)}  {claim}")
            return
        self.failures.append(claim)
        self._print(f"{INDENT}{self._paint('FAILED', RED)}  {claim}")
        self.lines(otherwise.splitlines())

    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.began

    def _paint(self, text: str, colour: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._coloured else text

    def _print(self, text: str = "") -> None:
        print(text, file=self.output, flush=True)
