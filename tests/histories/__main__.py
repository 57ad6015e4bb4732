# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays histories, a line each, and shows the shortest one that fails.

Those that were good are remembered until the code changes, and are not played again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from lab import Lab

from .ledger import Entry, Ledger
from .play import Outcome, Play, Step, read, written
from .proof import MOST, prove
from .sample import MORE, missing, more, shares
from .shrink import shrink
from .workers import played

SHRINKING = 900  # s; a sample is to end in time
SHRINKING_SAMPLE = 180


def main() -> int:
    """Exit status 1 if one of them has ended with a fault."""
    options = _options()
    if options.play:
        return _play(options)
    if options.proof is not None:
        return 1 if prove(options.proof, options.seed, options.count or MOST, options.jobs) else 0
    if options.sample:
        return _sample(options)
    ledger = Ledger.of_this_code()
    good = [entry for entry in ledger.good() if entry.seed in _seeds(options)]
    if good:
        print(f"{len(good)} histories were good with this code before, and are not played again")
    todo = ((seed, ()) for seed in _seeds(options) if seed not in {entry.seed for entry in good})
    bad = 0
    for entry, outcome in played(todo, options.jobs, options.minutes * 60):
        print(f"history {entry.seed}: {entry.told}", flush=True)
        if outcome.lacking:
            print(outcome.lacking, flush=True)
        else:
            ledger.add(entry)
        good += [] if entry.fault else [entry]
        bad += bool(entry.fault)
        if entry.fault and options.first_fault:
            break
        if entry.fault:
            _explain(outcome, SHRINKING if options.shrink else 0)
    _sum(good, bad)
    return 1 if bad else 0


def _sample(options: argparse.Namespace) -> int:
    """The sample, none of which is remembered; an action that was in none of them is a failure."""
    good, bad, names = [], 0, set()
    scripts, left = list(shares()), [""]
    for _round in range(1 + MORE):
        for entry, outcome in played(scripts, options.jobs):
            print(f"history {entry.seed} of the sample: {entry.told}", flush=True)
            names.update(name for name, _params in outcome.steps)
            good += [] if entry.fault else [entry]
            bad += bool(entry.fault)
            if entry.fault:
                _explain(outcome, 0 if bad > 1 else SHRINKING_SAMPLE)
        left = missing(names)
        if bad or not left:
            break
        scripts = list(more(left, scripts[-1][0]))
    if left and not bad:
        print(f"no history of the sample has these actions, choose other seeds: {left}")
        bad += 1
    _sum(good, bad)
    return 1 if bad else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/test histories", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first history, which else is 1")
    parser.add_argument("--count", type=int, help="how many, with the seeds after it")
    parser.add_argument("--minutes", type=float, default=0, help="begin none after so many")
    parser.add_argument("--jobs", type=int, default=1, help="how many are played side by side")
    parser.add_argument("--play", type=Path, metavar="FILE", help="one that was printed before")
    parser.add_argument("--tell", action="store_true", help="with --play: print every action")
    parser.add_argument("--sample", action="store_true", help="few, with every action")
    parser.add_argument("--first-fault", action="store_true", help="end with it, unexplained")
    parser.add_argument(
        "--proof", nargs="*", metavar="NAME", help="whether faults that are built in are found"
    )
    parser.add_argument("--no-shrink", dest="shrink", action="store_false")
    return parser.parse_args()


def _seeds(options: argparse.Namespace) -> Iterable[int]:
    first = options.seed or 1
    if options.count is None and options.minutes:
        return count(first)
    return range(first, first + (options.count or 1))


def _play(options: argparse.Namespace) -> int:
    """One history that is written down."""
    tell = print if options.tell else lambda _line: None
    with Lab(boot_once=True) as lab:
        outcome = Play(lab, tell).play(iter(steps_of(options.play.read_text().splitlines())))
    if outcome.lacking:
        print(outcome.lacking)
    if outcome.fault:
        _explain(outcome, SHRINKING if options.shrink else 0)
    _sum([] if outcome.fault else [Entry.of(0, outcome, 0)], 1 if outcome.fault else 0)
    return 1 if outcome.fault else 0


def _sum(good: list[Entry], bad: int) -> None:
    actions = sum(entry.actions for entry in good)
    killed = sum(entry.kills > 0 for entry in good)
    print(f"\n{actions} actions in the good ones, {killed} of which had a kill")
    print(f"{len(good)} passed, {bad} failed")


def script(steps: list[Step]) -> str:
    """A program for the shell, in a checkout, that plays a history."""
    lines = "\n".join(map(written, steps))
    return f"bin/test histories --play /dev/stdin <<'END'\n{lines}\nEND"


def steps_of(lines: Iterable[str]) -> list[Step]:
    """A history as it was printed, an action a line."""
    return [read(line) for line in lines if line.strip() and not line.startswith("#")]


def _explain(outcome: Outcome, seconds: float) -> None:
    """What went wrong, and the shortest history that goes wrong, for ``--play``."""
    print(outcome.fault)
    steps, machine = outcome.steps, outcome.machine
    if seconds:
        with Lab(boot_once=True) as lab:

            def fails(some: list[Step]) -> bool:
                return bool(Play(lab).play(iter([machine, *some])).fault)

            steps = shrink(steps, fails, seconds)
    print(script([machine, *steps]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
