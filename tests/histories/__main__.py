# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays histories, a line each; see ``bin/test histories --help``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lab import Lab

from .play import Outcome, Play, Step, read, written
from .shrink import shrink

SHRINKING = 900  # s


def main() -> int:
    """Exit status 1 if one of them has ended with a fault."""
    options = _options()
    tell = print if options.tell else lambda _line: None
    bad = 0
    with Lab(boot_once=True) as lab:
        for name, steps in _histories(options):
            began = time.monotonic()
            play = Play(lab, tell)
            outcome = play.random(int(name)) if steps is None else play.play(iter(steps))
            verdict = "FAULT" if outcome.fault else "good"
            seconds = time.monotonic() - began
            print(f"history {name}: {len(outcome.steps)} actions, {seconds:.0f} s: {verdict}")
            if outcome.fault:
                bad += 1
                _explain(lab, outcome, shorter=options.shrink)
            sys.stdout.flush()
    good = options.count - bad
    print(f"\n{good} passed, {bad} failed")
    return 1 if bad else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/test histories", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first history")
    parser.add_argument("--count", type=int, default=1, help="how many, with the seeds after it")
    parser.add_argument("--play", type=Path, metavar="FILE", help="one that was printed before")
    parser.add_argument("--tell", action="store_true", help="print every action")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false")
    return parser.parse_args()


def _histories(options: argparse.Namespace) -> Iterator[tuple[str, list[Step] | None]]:
    """The name of each, and its steps, None for random ones by the seed that it is named after."""
    if options.play:
        yield options.play.name, steps_of(options.play.read_text().splitlines())
        return
    for seed in range(options.seed, options.seed + options.count):
        yield str(seed), None


def steps_of(lines: Iterable[str]) -> list[Step]:
    """A history as it was printed, an action a line."""
    return [read(line) for line in lines if line.strip() and not line.startswith("#")]


def _explain(lab: Lab, outcome: Outcome, *, shorter: bool) -> None:
    """What went wrong, and the shortest history that goes wrong, for ``--play``."""
    print(outcome.fault)
    steps = outcome.steps
    if shorter:
        steps = shrink(steps, lambda some: bool(Play(lab).play(iter(some)).fault), SHRINKING)
    print(
        "\n".join(["# to be played again by: bin/test histories --play FILE", *map(written, steps)])
    )


if __name__ == "__main__":
    sys.exit(main())
